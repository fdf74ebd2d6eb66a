# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compare the search for leaks with the module po_owners, which holds and loses memory of every kind.

Its dumps are made by the recipe; see ``DRGN_PAGEOWNER_DUMPS`` in conftest.py.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import DUMPS, Dump, dump_id

LOST = {"unreachable", "only reachable from unreachable", "held by nothing but itself"}


@pytest.fixture(scope="module", params=[g for g in DUMPS if "records" in dump_id(g)], ids=dump_id)
def dump(request: pytest.FixtureRequest) -> Dump:
    got: Dump = request.param()
    return got


@pytest.fixture(scope="module")
def answer(dump: Dump) -> Any:
    return json.loads(dump.run("leaks", "--all", "--slab", "--format", "json", check=True).stdout)


def facts(dump: Dump, what: str) -> list[dict[str, str]]:
    return [fact for fact in dump.facts() if fact.get("what") == what]


def test_per_cpu_memory_is_told_from_what_is_held(dump: Dump, answer: Any) -> None:
    """Test per-CPU memory of the first chunk and of others, with and without pages that it points
    to."""
    found = {
        address
        for leak in answer["slab"]
        if leak["cache"] == "per-CPU memory"
        for address in leak["addresses"]
    }
    lost = {int(fact["cpu0"], 16) for fact in facts(dump, "lostpercpu")}
    held = {int(fact["cpu0"], 16) for fact in facts(dump, "heldpercpu")}
    assert len(lost) >= 20
    assert len(held) >= 5
    assert found == lost


def test_pages_are_told_from_those_that_are_held(dump: Dump, answer: Any) -> None:
    verdicts = {pfn: group["verdict"] for group in answer["groups"] for pfn in group["pfns"]}
    lost = [(int(f["pfn"]), int(f["order"])) for f in facts(dump, "leaked")]
    held = [int(f["pfn"]) for f in facts(dump, "held")]
    found = sum(1 << order for pfn, order in lost if verdicts[pfn] in LOST)
    assert found >= 0.95 * sum(1 << order for _, order in lost)
    assert [pfn for pfn in held if verdicts.get(pfn) in LOST] == []


def test_nobody_else_is_accused(dump: Dump, answer: Any) -> None:
    accused = {
        pfn for group in answer["groups"] if group["verdict"] in LOST for pfn in group["pfns"]
    }
    # po_gone was unloaded without freeing its pages.
    gone = {int(f["pfn"]) for f in facts(dump, "pages") if f["name"] == "po_gone"}
    assert accused <= gone | {int(f["pfn"]) for f in facts(dump, "leaked")}
