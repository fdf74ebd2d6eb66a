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


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("po_leak_order+0xf/0x190 [po_leak]", 23, "po_leak_order [po_leak]"),
        ("copy_process+0xb00/0x1d40", 20, "copy_process"),
        ("fs/kernfs/dir.c:665 func:kernfs_new", 30, "dir.c:665 func:kernfs_new"),
        ("fs/kernfs/dir.c:665 func:kernfs_new", 20, "kernfs_new"),
        ("drivers/po.c:16 [po_holder] func:po_get", 20, "po_get [po_holder]"),
        ("0x140cca (GFP_HIGHUSER_MOVABLE|__GFP_COMP)", 34, "GFP_HIGHUSER_MOVABLE|__GFP_COMP"),
        ("0xffffffffc00f5010 (unloaded)", 20, "0xffffff...unloaded)"),
    ],
)
def test_what_says_least_is_left_out_first(text: str, width: int, short: str) -> None:
    assert shortened(text, len(text)) == text
    assert shortened(text, width) == short


def test_flags_are_broken_behind_bars() -> None:
    flags = "0x86c(" + "|".join(["referenced", "uptodate", "mlocked", "node=0"] * 3) + ")"
    lines = fold(f"flags        {flags}", 60)
    assert max(map(len, lines)) <= 60
    assert "".join(line.strip() for line in lines) == f"flags        {flags}"
