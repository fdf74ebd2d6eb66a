# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test results of queries on a dataset as tables for people."""

from __future__ import annotations

import pytest

from drgn_pageowner.render.fleet_answer import answer_text


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def test_the_directory_of_all_dumps_is_printed_once() -> None:
    names = ["allocator", "pages_per_hour", "pages", "worst_dump"]
    rows = [("f [m]", None, 3, "/dumps/a\n/1/vmcore"), ("g", None, 2, "/dumps/a\n/2/vmcore")]
    assert "".join(answer_text("Stacks", names, rows)).splitlines() == [
        "Stacks: 2 rows; dumps are in /dumps/a\\x0a/",
        "",
        "allocator  pages  worst dump",
        "---------  -----  ----------",
        "f [m]          3  1/vmcore",
        "g              2  2/vmcore",
    ]
    [first, *_] = answer_text("Stacks", names, rows[:1])
    assert first == "Stacks: 1 row\n\n"


def test_sentences_are_whole_below_their_row() -> None:
    names = ["rule", "pages", "for_example", "link", "worst_dump"]
    text = "The module m has leaked many pages: nothing in use leads to them."
    rows = [("one", 5, text, None, "s3://b/1"), ("two", 4, "Short.", "https://x", "s3://b/2")]
    assert "".join(answer_text("Causes", names, rows)).splitlines()[2:] == [
        "rule  pages",
        "----  -----",
        "one       5",
        "    The module m has leaked many pages: nothing in use leads",
        "      to them.",
        "    1",
        "two       4",
        "    Short.",
        "    https://x",
        "    2",
    ]


def test_no_rows_are_said_in_words() -> None:
    assert list(answer_text("Failed dumps", ["status"], [])) == ["Failed dumps: none\n"]
