# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compare the analysis of fragmentation with the facts of the module po_frag
(testdata/recipe/modules): the pages that it kept in pageblocks, the holes that it left, and the
pages that it pinned.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import Dump, dump_id, traps

from drgn_pageowner import read_memory, snapshot
from drgn_pageowner.analysis.frag.blocks import explain_block
from drgn_pageowner.analysis.frag.mobility import Overlay, overlay


@dataclass
class Facts:
    """The guest's facts about its pages: ``what`` -> ``(pfn, order)``."""

    pages: dict[str, list[tuple[int, int]]]

    def pfns(self, what: str) -> set[int]:
        return {pfn for pfn, _ in self.pages[what]}


@pytest.fixture(scope="module", params=traps(), ids=dump_id)
def dump(request: pytest.FixtureRequest) -> Dump:
    got: Dump = request.param()
    return got


@pytest.fixture(scope="module")
def facts(dump: Dump) -> Facts:
    pages: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for fact in dump.facts():
        if fact.get("name") == "po_frag":
            pages[fact["what"]].append((int(fact["pfn"]), int(fact["order"])))
    assert "missed" not in pages
    if not dump.bundled and not set(pages) - {"pinned"}:
        pytest.skip("po_frag found no room in this guest")
    # In a guest with much memory, none of the module's pages is in the CMA area.
    optional = set() if dump.name.startswith("linux-") else {"pinned"}
    assert set(pages) | optional == {"block", "single", "pair", "comb", "hole", "pinned"} | optional
    return Facts(pages)


@pytest.fixture(scope="module")
def views(dump: Dump) -> Any:
    result = dump.run("frag", "contiguity", "culprits", "cma", "--by", "allocator", "--limit", "0",
                      "--format", "json", check=True)  # fmt: skip
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def joined(dump: Dump) -> Overlay:
    return overlay(read_memory(dump.prog), snapshot(dump.prog))


def blocks(dump: Dump, pfns: set[int], order: int | None = None) -> set[int]:
    shift = dump.snapshot.facts.pageblock_order if order is None else order
    return {pfn >> shift for pfn in pfns}


@pytest.mark.parametrize("what", ["single", "pair", "comb"])
def test_culprits_are_the_functions_that_kept_pages(
    dump: Dump, facts: Facts, views: Any, what: str
) -> None:
    [found] = [c for c in views["culprits"]["blocking"] if f"po_frag_{what}+" in c["allocator"]]
    mine = facts.pfns(what)
    others = set().union(*(facts.pfns(w) for w in ("single", "pair", "comb") if w != what))
    assert found["pages"] == len(mine)
    assert found["blocks"] == len(blocks(dump, mine))
    assert found["only_blocker"] == len(blocks(dump, mine) - blocks(dump, others))
    # All pageblocks that the module used are Movable.
    assert found["in_movable"] == len(mine)
    assert found["kind"] == "drivers"
    assert what in {"single", "pair"} or found["only_blocker"] == found["blocks"]


def test_stacks_of_one_function_are_told_apart(dump: Dump, facts: Facts) -> None:
    result = dump.run("frag", "culprits", "--limit", "0", "--format", "json", check=True)
    found = [c for c in json.loads(result.stdout)["blocking"] if "po_frag_pair+" in c["allocator"]]
    assert sum(c["pages"] for c in found) == len(facts.pages["pair"])
    assert len({c["handle"] for c in found}) == len(found)


@pytest.mark.parametrize("what", ["single", "pair", "comb"])
def test_contiguity_names_the_same_blockers(
    dump: Dump, facts: Facts, views: Any, what: str
) -> None:
    mine, order = facts.pfns(what), dump.snapshot.facts.pageblock_order
    others = set().union(*(facts.pfns(w) for w in ("single", "pair", "comb") if w != what))
    for size in range(order, max(size["order"] for size in views["contiguity"]["sizes"]) + 1):
        of_size = [a for a in views["contiguity"]["allocators"] if a["order"] == size]
        named = [a for a in of_size if f"po_frag_{what}+" in a["name"]]
        if size > order and not named:
            # The block at the end of a zone is not complete.
            continue
        [found] = named
        # Incomplete blocks at the edge of a zone are not counted, so there may be fewer.
        assert found["blocks"] <= len(blocks(dump, mine, size))
        if size == order:
            assert found["pages"] == len(mine)
            assert found["blocks"] == len(blocks(dump, mine))
            assert found["only_blocker"] == len(blocks(dump, mine) - blocks(dump, others))


def unmovable(joined: Overlay, block: int) -> set[int]:
    return {
        pfn
        for run in explain_block(joined, block)
        if run.mobility == "unmovable"
        for pfn in range(run.pfn, run.pfn + run.pages)
    }


def test_nothing_else_blocks_the_blocks(dump: Dump, facts: Facts, joined: Overlay) -> None:
    order = dump.snapshot.facts.pageblock_order
    kept = set().union(*(facts.pfns(what) for what in ("single", "pair", "comb")))
    taken = [pfn >> order for pfn, _ in facts.pages["block"]]
    for block in taken:
        assert unmovable(joined, block) == {pfn for pfn in kept if pfn >> order == block}


def test_holes_are_the_free_blocks_that_were_left(
    dump: Dump, facts: Facts, joined: Overlay
) -> None:
    """Each hole between allocated pages is a free block of its order, or was allocated since."""
    order = dump.snapshot.facts.pageblock_order
    whole = set()
    for pfn, size in facts.pages["hole"]:
        [run] = [
            run
            for run in explain_block(joined, pfn >> order)
            if run.pfn <= pfn < run.pfn + run.pages
        ]
        if run.state == "free" and run.pages == 1 << size:
            assert (run.pfn, run.order) == (pfn, size)
            whole.add(size)
    # Later allocations use the small holes first.
    assert whole >= set(range(3, 9))


def test_what_is_pinned_in_the_cma_area_is_found(dump: Dump, facts: Facts, views: Any) -> None:
    # Pages in pipes also have a reference that is not from a mapping.
    piped = {int(f["pfn"]) for f in dump.facts() if f.get("how") == "pipe"}
    found = {}
    for area in views["cma"]["areas"]:
        area_pfns = range(area["start_pfn"], area["start_pfn"] + area["pages"])
        expected = {p for p in facts.pfns("pinned") | piped if p in area_pfns}
        found.update({s["pfn"]: s for s in area["stuck"]})
        assert {s["pfn"] for s in area["stuck"]} == expected
        assert area["lent"] == area["movable"] + len(expected)
    assert facts.pfns("pinned") <= found.keys()
    for pfn in facts.pfns("pinned"):
        assert found[pfn]["why"] == ["pinned"]
        assert found[pfn]["refcount"] == found[pfn]["mapcount"] + 1
        assert found[pfn]["stack"]
