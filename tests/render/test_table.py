# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test fitting tables to the terminal, with hand-made rows."""

from __future__ import annotations

import pytest

from drgn_pageowner.render.table import table

STACK = "alloc_pages+0x1/0x2\n__kmalloc_large+0x3/0x400 [some_module]\n" + "x" * 300
ROWS = [["5,120", "20.0 MiB", "some_function_of_a_driver+0x12/0x200 [driver]", "7", STACK],
        ["12", "48.0 KiB", "short", "8", "f+0x1/0x2"]]  # fmt: skip
HEADERS = ["pages", "size", "largest owner", "handle", "stack"]


@pytest.fixture(params=[60, 80, 120])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = table(ROWS, HEADERS, right=(0, 1), spare=("handle", "size"))
    assert max(map(len, text.splitlines())) <= width
    assert "5,120" in text
    assert "alloc_pages+0x1/0x2" in text


def test_a_stack_goes_below_its_row(width: int) -> None:
    lines = table(ROWS, HEADERS, right=(0, 1)).splitlines()
    row = next(n for n, line in enumerate(lines) if "5,120" in line)
    assert lines[row + 1] == "    alloc_pages+0x1/0x2"
    assert lines[row + 3].startswith("    x")
    assert "..." in lines[row + 3]


def test_a_table_that_fits_has_the_stack_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    lines = table(ROWS, HEADERS, right=(0, 1)).splitlines()
    assert lines[0].split() == ["pages", "size", "largest", "owner", "handle", "stack"]
    assert lines[2].endswith("alloc_pages+0x1/0x2")


def test_columns_that_repeat_others_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    rows = [row[:4] for row in ROWS]
    lines = table(rows, HEADERS[:4], right=(0, 1), spare=("handle",)).splitlines()
    assert "handle" not in lines[0] + lines[1]
    assert "..." in lines[3]
    assert lines[3].endswith(" [driver]")


def test_numbers_are_never_cut(width: int) -> None:
    headers = ["order", *(f"number {n}" for n in range(20))]
    rows = [[str(n), *(f"{n * 10**9 + m:,}" for m in range(20))] for n in range(3)]
    text = table(rows, headers, right=range(21))
    assert max(map(len, text.splitlines())) <= width
    assert all(cell in text.split() for row in rows for cell in row)
    # Every part of the table has the key columns.
    parts = text.split("\n\n")
    assert len(parts) > 1
    assert all(part.splitlines()[-1].split()[0] == "2" for part in parts)


def test_a_table_without_rows() -> None:
    assert table([], ["a", "b"]) == "a  b\n-  -\n"


def test_a_long_table_looks_like_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[number, f" name {number % 7}", "x" * (number % 5)] for number in range(400)]
    text = table(rows, ["number", "a name", "x"], right=(0,))
    monkeypatch.setattr("drgn_pageowner.render.table._LONG", 10)
    assert table(rows, ["number", "a name", "x"], right=(0,)) == text
    # Characters that take two columns of a terminal.
    wide = [*rows, [400, "\u4e2d\u6587", "y"]]
    long = table(wide, ["number", "a name", "x"], right=(0,))
    monkeypatch.setattr("drgn_pageowner.render.table._LONG", 1000)
    assert table(wide, ["number", "a name", "x"], right=(0,)) == long
