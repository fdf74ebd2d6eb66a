# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test hand-made rounds of growth as text."""

from __future__ import annotations

import json

import pytest
from handmade import PAGE, SECOND, frames

from drgn_pageowner.analysis.owners.growth import Growth, Round, RoundKind
from drgn_pageowner.render.watch import watch_json, watch_table

GROWTH = Growth(
    key={"stack": 5}, pages=30, allocations=30, grown_pages=10, grown_allocations=10,
    pages_per_second=5.0, grown_pages_since_start=20, grown_allocations_since_start=20,
    pages_per_second_since_start=None, rounds_grown=2, handle=5, stack=frames("f"),
)  # fmt: skip


def a_round(kind: RoundKind, number: int, *groups: Growth) -> Round:
    return Round(kind, number, ["stack"], 9 * SECOND, 2 * SECOND, 4 * SECOND, 40, 50, 10, 20,
                 len(groups), list(groups))  # fmt: skip


def test_the_first_round_has_no_growth() -> None:
    assert "".join(watch_table(a_round(RoundKind.FIRST, 0), PAGE)) == (
        "first round at 9.000000 s: 50 pages in 40 allocations\n\n"
    )


def test_a_round_says_what_has_grown_and_how_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = "".join(watch_table(a_round(RoundKind.ROUND, 2, GROWTH), PAGE)).splitlines()
    assert lines[:2] == [
        "round 2 at 9.000000 s: 50 pages in 40 allocations; +10 pages in 2.0 s, +20 since",
        "  the start",
    ]
    assert lines[2].split()[-3:] == ["rounds", "handle", "owner"]
    assert lines[4].split() == ["+10", "40.0", "KiB", "5.0", "+20", "-", "30", "2/2", "5", "f"]
    assert lines[5] == "1 of 1 group with growth shown"


def test_a_first_growth_is_not_repeated_as_that_since_the_start() -> None:
    text = "".join(watch_table(a_round(RoundKind.ROUND, 1, GROWTH), PAGE))
    assert "start" not in text
    assert "pages in 2.0 s\n" in text


def test_the_summary_names_the_largest_growth_in_words_and_by_stack() -> None:
    lines = "".join(watch_table(a_round(RoundKind.SUMMARY, 2, GROWTH), PAGE)).splitlines()
    assert lines[:3] == [
        "stack with most growth (handle 5; list --handle prints its records):",
        "    f+0x10/0x100",
        "",
    ]
    assert lines[4] == "most growth: f, +10 pages (40.0 KiB), 5.0 pages/s, in 2 of 2 rounds"
    headers = ["grown", "size", "pages/s", "pages", "rounds", "handle", "owner"]
    assert lines[5].split() == headers


def test_json_is_one_line() -> None:
    [line] = watch_json(a_round(RoundKind.SUMMARY, 2, GROWTH), PAGE)
    assert line.endswith("\n")
    assert json.loads(line)["groups"][0]["stack"] == ["f+0x10/0x100"]
