# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test fitting text to the terminal."""

from __future__ import annotations

import io

import pytest

from drgn_pageowner.render.terminal import columns, fold, paint, shortened, wants_colour


@pytest.mark.parametrize(("value", "width"), [("123", 123), ("0", 80), ("wide", 80), ("7", 40)])
def test_columns_is_obeyed(monkeypatch: pytest.MonkeyPatch, value: str, width: int) -> None:
    monkeypatch.setattr("sys.__stdout__", io.StringIO())
    monkeypatch.setenv("COLUMNS", value)
    assert columns() == width


def test_the_middle_of_a_name_is_left_out() -> None:
    assert shortened("alloc_something [mod]", 21) == "alloc_something [mod]"
    assert shortened("alloc_something [mod]", 14) == "alloc... [mod]"
    assert all(len(shortened("a" * 50, n)) == n for n in range(1, 50))


@pytest.mark.parametrize("width", [40, 60, 80])
def test_prose_is_broken_between_words(width: int) -> None:
    line = "memory      " + " ".join(f"word{n}" for n in range(60)) + " " + "x" * 200
    lines = fold(line, width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert words[:-1] == line.split()[:-1]
    assert words[-1].startswith("x")
    # The following lines are below the text, not below its name.
    assert all(part.startswith(" " * 12 + "word") for part in lines[1:-1])


def test_a_line_that_fits_stays_as_it_is() -> None:
    assert fold("  a   b  ", 40) == ["  a   b  "]


def test_an_indented_line_goes_on_deeper() -> None:
    lines = fold("    " + "name " * 30, 50)
    assert lines[0].startswith("    name")
    assert all(part.startswith("      name") for part in lines[1:])


def test_colour_is_for_terminals() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert wants_colour("auto", Terminal(), {})
    assert not wants_colour("auto", Terminal(), {"NO_COLOR": "1"})
    assert wants_colour("auto", Terminal(), {"NO_COLOR": ""})
    assert not wants_colour("auto", Terminal(), {"TERM": "dumb"})
    assert not wants_colour("auto", io.StringIO(), {})
    assert wants_colour("always", io.StringIO(), {"NO_COLOR": "1"})
    assert not wants_colour("never", Terminal(), {})


def test_severities_and_modules_are_painted() -> None:
    assert paint("bad: it leaks") == "\033[31mbad\033[0m: it leaks"
    assert paint("    f+0x1/0x2 [mod]") == "    f+0x1/0x2 \033[36m[mod]\033[0m"
    # Footnote marks are not modules.
    assert paint("slab  12 [3]  badly") == "slab  12 [3]  badly"
