# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test rows of a query as JSON, CSV and a table."""

from __future__ import annotations

import json
from decimal import Decimal

from drgn_pageowner.render.query import query_csv, query_json, query_table

NAMES = ["name", "pages", "list", "share"]
ROWS = [("a", 1234, ["x", "y"], Decimal("2.50")), (None, Decimal(7), [], None)]


def test_json_has_numbers_lists_and_null() -> None:
    first, second = (json.loads(line) for line in "".join(query_json(NAMES, ROWS)).splitlines())
    assert first == {"name": "a", "pages": 1234, "list": ["x", "y"], "share": 2.5}
    assert second == {"name": None, "pages": 7, "list": [], "share": None}


def test_csv_joins_the_elements_of_a_list() -> None:
    assert "".join(query_csv(NAMES, ROWS)).splitlines() == [
        "name,pages,list,share",
        "a,1234,x;y,2.5",
        ",7,,",
    ]


def test_a_table_groups_digits_and_shows_nothing_as_a_dash() -> None:
    lines = "".join(query_table(NAMES, ROWS)).splitlines()
    assert lines[2].split() == ["a", "1,234", "x", "2.5"]
    assert lines[3].split() == ["y"]
    assert lines[4].split() == ["-", "7", "-"]
