# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test ``info`` as text and JSON, from a hand-made result."""

from __future__ import annotations

import json
from typing import Any

from handmade import SECOND, facts

from drgn_pageowner.model.info import Consistency, Info
from drgn_pageowner.render.info import info_json, info_table

LAYOUT = {"record": "struct page_owner", "page_owner_offset": 8, "page_ext_size": 64,
          "members": ["order", "handle"], "stack_depot": "pools"}  # fmt: skip
COVERAGE = {"covered": 100, "uncovered": 2, "missing": 1, "allocated": 12, "freed": 3,
            "stack_depot": {"pools": 4, "capacity": 0, "bytes": 65536}}  # fmt: skip


def info(**more: object) -> Info:
    known: dict[str, Any] = {
        "facts": facts(100, layout=LAYOUT, now_ns=90 * SECOND), "records": 9, "pages": 10,
        "coverage": COVERAGE, **more,
    }  # fmt: skip
    return Info(**known)


def text(given: Info) -> str:
    return " ".join("".join(info_table(given)).split())


def test_marks_are_compared_with_the_records() -> None:
    found = text(info())
    assert "12 pages allocated (+2 against the records), 3 freed" in found
    assert "struct page_owner at 8 of 64 bytes: order, handle" in found
    assert "4 pools used (64.0 KiB); layout: pools" in found
    assert "problems none: everything could be read" in found


def test_every_problem_has_a_line() -> None:
    found = text(info(problems=["a page is torn"]))
    assert "problem a page is torn" in found
    assert "problems none" not in found


def test_counts_that_differ_are_named() -> None:
    same = Consistency(3, 2, [(7, 5, 4)], 20, 19)
    assert "handle 7: 5 pages by the kernel, 4 by us" in text(info(consistency=same))


def test_page_owner_that_is_off_is_said_in_words() -> None:
    found = text(info(facts=facts(100, page_owner="off")))
    assert "page_owner compiled in, but off (needs page_owner=on" in found
    assert "records" not in found


def test_json_has_objects_for_tuples() -> None:
    same = Consistency(3, 2, [(7, 5, 4)], 20, 19)
    found = json.loads("".join(info_json(info(consistency=same))))
    assert found["kernel"]["zones"][0]["name"] == "Normal"
    assert found["consistency"]["different"] == [{"handle": 7, "kernel_pages": 5, "our_pages": 4}]
