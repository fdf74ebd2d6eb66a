# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render the results of queries on a dataset as tables for people."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Any

from drgn_pageowner.escape import word
from drgn_pageowner.render.query import numeric_columns, shown
from drgn_pageowner.render.table import counted, table
from drgn_pageowner.render.terminal import columns, fold

__all__ = ("DUMP_COLUMNS", "answer_text")

DUMP_COLUMNS = ("dump", "worst_dump", "example_dump")
"""Columns that have the path or the URL of a dump."""

# Columns with sentences. They are printed below the row, with the columns that belong to them.
_PROSE = ("for_example", "verdict", "reason")
_BELOW = (*_PROSE, "link", *DUMP_COLUMNS)
# What can be left out of a table that is too wide, in this order.
_SPARE = ("allocations", "hosts", "stack id", "percent of dumps before", "percent of dumps after",
          "pages per dump before")  # fmt: skip
_INDENT = 4


def answer_text(title: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    """
    Yield a line with *title* and the number of rows, and a table.

    Columns without any value are left out. The directory that all dumps are in is printed once.
    """
    if not rows:
        yield f"{title}: none\n"
        return
    used = [c for c in range(len(names)) if any(row[c] not in (None, [], "") for row in rows)]
    dumps = [c for c in used if names[c] in DUMP_COLUMNS]
    directory = _directory([row[c] for c in dumps for row in rows])
    at = f"; dumps are in {word(directory)}" if directory else ""
    yield "\n".join(fold(f"{title}: {counted(len(rows), 'row')}{at}", columns())) + "\n\n"
    prose = any(names[c] in _PROSE for c in used)
    below = [c for c in used if names[c] in _BELOW] if prose else []
    beside = sorted((c for c in used if c not in below), key=lambda c: c in dumps)
    below.sort(key=lambda c: _BELOW.index(names[c]))

    def cell(row: Sequence[Any], column: int) -> str:
        text = shown(row[column])
        return text.removeprefix(word(directory)) if column in dumps else text

    headers = [names[c].replace("_", " ") for c in beside]
    numbers = numeric_columns(rows)
    right = [place for place, c in enumerate(beside) if c in numbers]
    cells = [[cell(row, c) for c in beside] for row in rows]
    if below:
        room = columns() - _INDENT
        headers.append(names[below[0]].replace("_", " "))
        for row, line in zip(rows, cells, strict=True):
            texts = [cell(row, c) for c in below if row[c] is not None]
            line.append("\n".join(part for text in texts for part in fold(text, room)))
    # Dumps come last, and are left out last.
    spare = (*_SPARE, *(names[c].replace("_", " ") for c in dumps if c not in below))
    yield table(cells, headers, right, spare=spare, below=bool(below))


def _directory(paths: Sequence[str | None]) -> str:
    """Return the directory that all *paths* are in, with a slash; empty if there is none."""
    known = {path for path in paths if path}
    if len(known) < 2:
        return ""
    common = posixpath.commonprefix(sorted(known))
    return common[: common.rfind("/") + 1]
