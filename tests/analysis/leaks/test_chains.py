# SPDX-License-Identifier: LGPL-2.1-or-later
"""Chains and references in a graph typed by hand."""

from __future__ import annotations

from handmade import Machine, Record, heap

from drgn_pageowner.analysis.leaks.links import explain_node, references
from drgn_pageowner.analysis.leaks.reach import Reach, reach
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import HeapTarget, Word
from drgn_pageowner.render.links import refs_text, why_text

EDGES = [(-1, 0), (0, 1), (2, 1)]


def marked() -> Reach:
    records = [Record(2 * i, ["alloc_pages", f"f{i}"]) for i in range(4)]
    return reach(heap(Machine("k." * 4).inventory(*records, tasks={1: "init"}), EDGES))


def words(sources: Array, targets: Array, *, numbers: bool = False, limit: int = 9) -> list[Word]:
    """A word for every edge: at 0x1000 times its holder."""
    return [
        Word("page" if a < 4 else "kernel image", f"node {a}", a, b, 0x1000 * a, 0x2000 * b)
        for a, b in ((4 if a < 0 else a, b) for a, b in EDGES)
        if a in sources and b in targets
    ][:limit]


def test_the_chain_leads_from_a_root_to_the_page() -> None:
    why = explain_node(marked(), HeapTarget("pfn:2", 2, 1, ""), words)
    assert why.verdict == "reachable"
    assert [hop.name for hop in why.chain] == ["node 4", "node 0"]
    assert "".join(why_text(why)) == (
        "pfn:2: page pfn:0x2 (order 0) of f1+0x10/0x100\n"
        "  reachable: a chain of addresses leads to it from a root\n"
        "  kernel image: node 4 [0x4000] = 0x0 (address) ->\n"
        "    page: node 0 of f0+0x10/0x100 [0x0] = 0x2000 (address) ->\n"
        "      page pfn:0x2 (order 0) of f1+0x10/0x100\n"
    )


def test_references_say_whether_anything_reaches_them() -> None:
    found = references(marked(), HeapTarget("pfn:2", 2, 1, ""), words, 9)
    assert [(hop.name, hop.reachable) for hop in found.references] == [
        ("node 0", True),
        ("node 2", False),
    ]
    assert "(nothing reaches this)" in list(refs_text(found))[-1]


def test_a_page_that_is_no_node_is_described() -> None:
    why = explain_node(marked(), HeapTarget("pfn:1", 1, None, "free"), words)
    assert (why.verdict, why.explanation, why.chain) == ("not allocated", "free", [])
