# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare text assembled from columns with text formatted row by row."""

from __future__ import annotations

import sys
from types import FrameType

import numpy as np
import pytest
from handmade import frames

from drgn_pageowner.analysis.owners.stack_table import StackTable
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.render.assemble import RowTexts, joined_frames

RANDOM = np.random.default_rng(7)
NAMES = np.array([b"init", b"kworker/0:1-events_lon", b"kworker/0:1-events", b""], "S16")


def columns(rows: int) -> dict[str, Array]:
    """Return columns of every kind: constant, few values, runs, all different, names, signed."""
    return {
        "constant": np.full(rows, 7, np.uint8),
        "few": RANDOM.integers(0, 5, rows).astype(np.uint16),
        "wide": RANDOM.choice(RANDOM.integers(0, 1 << 62, 300), rows),
        "runs": np.repeat(RANDOM.integers(0, 1 << 40, rows), 9)[:rows],
        "different": np.arange(rows) * 1000,
        "name": NAMES[RANDOM.integers(0, 4, rows)],
        "signed": RANDOM.integers(-3, 3, rows).astype(np.int16),
        "yes": RANDOM.integers(0, 2, rows).astype(bool),
    }


@pytest.mark.parametrize("rows", [1, 2, 100, 5000])
def test_rows_are_what_formatting_each_gives(rows: int) -> None:
    made, texts = columns(rows), RowTexts(rows)
    for name, values in made.items():
        texts.append(f"{name}=")
        texts.column(name, values, str)
        texts.append(" (")
        # The same values in another format.
        texts.column(name, values, repr)
        texts.append(")")
    texts.append("\n")
    lists = [values.tolist() for values in made.values()]
    expected = [
        "".join(f"{name}={value!s} ({value!r})" for name, value in zip(made, row, strict=True))
        for row in zip(*lists, strict=True)
    ]
    assert "".join(texts.text()).splitlines() == expected


def test_no_rows_have_no_text() -> None:
    texts = RowTexts(0)
    texts.append("x")
    texts.column("empty", np.zeros(0, np.int64), str)
    assert "".join(texts.text()) == ""


def test_a_text_is_made_once_for_each_distinct_value() -> None:
    made: list[int] = []

    def text(value: int) -> str:
        made.append(value)
        return str(value)

    texts = RowTexts(4000)
    texts.column("few", np.repeat(np.arange(8), 500), text)
    assert "".join(texts.text()).startswith("0000")
    assert sorted(made) == list(range(8))


def test_calls_do_not_grow_with_the_rows() -> None:
    def calls(rows: int) -> int:
        number = 0

        def count(frame: FrameType, event: str, argument: object) -> None:
            nonlocal number
            number += event in ("call", "c_call")

        texts, few = RowTexts(rows), np.arange(rows) % 10
        sys.setprofile(count)
        texts.column("few", few, str)
        texts.column("different", np.arange(rows), str)
        texts.text()
        sys.setprofile(None)
        return number

    assert calls(40_000) == calls(10_000)


def test_frames_of_a_stack_are_joined() -> None:
    table = StackTable.of_frames([frames("f", "g"), [], frames("h")])
    texts = [frame.name or "" for frame in table.frames]
    assert joined_frames(table, texts, ";") == ["f;g", "", "h"]
