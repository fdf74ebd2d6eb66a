# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render the memory of processes and drivers as a table or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from drgn_pageowner.analysis.account.holders import Holder, Holders
from drgn_pageowner.escape import word
from drgn_pageowner.render.table import ages, csv_row, pages_size, share, shown_of, table
from drgn_pageowner.render.terminal import columns, cut

__all__ = ("classes_text", "command_text", "holder_text", "holders_csv", "holders_table")

# Columns that are left out first if "holds" has less than _LEAST characters.
_SPARE = ("age", "charged", "cgroup", "share")
_LEAST = 32
# Of a command line below its row.
_INDENT = 4
_NOBODY = {"driver": "(no module)", "process": "(unknown)"}


def holder_text(holder: Holder, by: str) -> str:
    """Name a holder for people: ``"insmod 95 (gone)"``, ``"nf_tables"``."""
    if holder.key is None:
        return _NOBODY[by]
    text = word(holder.name) if holder.name else ""
    if by == "process":
        text = f"{text} {holder.key}".lstrip()
    if holder.alive is False:
        text += " (gone)" if by == "process" else " (unloaded)"
    if holder.now is not None:
        text += f" (now {word(holder.now)})"
    return text


def command_text(holder: Holder) -> str | None:
    """Return the command line of a process; ``None`` if it is unknown or equal to the name."""
    line = holder.command_line
    return None if line is None or line == holder.name else word(line)


def classes_text(classes: Mapping[str, int], page_size: int, room: int) -> str:
    """
    Format the largest classes of a holder: ``"anonymous 1.0 MiB, slab 32.0 KiB, 2 more"``.

    :param room: Maximum number of characters; the first class is printed even if it has more.
    """
    parts = [f"{kind} {pages_size(pages * page_size)}" for kind, pages in classes.items()]
    for number in range(len(parts), 0, -1):
        rest = len(parts) - number
        text = ", ".join(parts[:number] + ([f"{rest} more"] if rest else []))
        if len(text) <= room or number == 1:
            return text
    return "-"


def _room(columns_of: Mapping[str, Sequence[str]]) -> int:
    """Return how many characters the other columns leave for "holds"."""
    return columns() - sum(
        max(map(len, (title, *cells))) + 2 for title, cells in columns_of.items() if cells
    )


def holders_table(result: Holders, page_size: int) -> Iterator[str]:
    """Yield the share of the whole that is shown, and one row per process or driver."""
    grouped = any(holder.cgroup is not None for holder in result.holders)
    columns_of: dict[str, list[str]] = {
        "pages": [f"{holder.pages:,}" for holder in result.holders],
        "size": [pages_size(holder.bytes) for holder in result.holders],
        "share": [share(holder.pages, result.pages) for holder in result.holders],
        result.by: [holder_text(holder, result.by) for holder in result.holders],
        "holds": [],
        "age": [ages(one.oldest_ns, one.newest_ns, result.now_ns) for one in result.holders],
    }
    if grouped:
        columns_of["cgroup"] = [word(one.cgroup) if one.cgroup else "-" for one in result.holders]
        columns_of["charged"] = [
            "-" if one.cgroup_pages is None else pages_size(one.cgroup_pages * page_size)
            for one in result.holders
        ]
    # Leave out what says least until the classes have enough room.
    for unwanted in _SPARE:
        if _room(columns_of) < _LEAST or set(columns_of.get(unwanted, ())) == {"-"}:
            columns_of.pop(unwanted, None)
    room = max(_room(columns_of), _LEAST)
    columns_of["holds"] = [classes_text(one.classes, page_size, room) for one in result.holders]
    commands = any(command_text(holder) for holder in result.holders)
    if commands:
        # The program and its first arguments tell most.
        columns_of["command line"] = [
            cut(command_text(one) or "", columns() - _INDENT) for one in result.holders
        ]
    rows = list(zip(*columns_of.values(), strict=True))
    shown = sum(holder.pages for holder in result.holders)
    number = result.number_of_holders
    yield shown_of(len(rows), number, result.by, shown, result.pages, page_size) + "\n"
    if result.threads_apart:
        yield "this kernel does not record the process of a thread: threads are apart\n"
    if rows:
        headers = list(columns_of)
        right = [headers.index(one) for one in ("pages", "size", "share") if one in headers]
        yield "\n" + table(rows, headers, right=right, below=commands)


def holders_csv(result: Holders, page_size: int) -> Iterator[str]:
    """Yield a header and a row per process or driver; classes have ``;`` between them."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = ("name", "pages", "bytes", "allocations", "oldest_ns", "newest_ns", "alive", "now",
             "cgroup", "cgroup_pages", "command_line")  # fmt: skip
    writer.writerow([result.by, *names, "classes"])
    for holder in result.holders:
        classes = ";".join(f"{kind}={pages}" for kind, pages in holder.classes.items())
        cells = [holder.key, *(getattr(holder, name) for name in names), classes]
        writer.writerow(csv_row(cells))
    yield text.getvalue()
