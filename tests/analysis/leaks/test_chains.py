# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test chains and references in hand-made graphs."""

from __future__ import annotations

from handmade import Machine, Record, heap

from drgn_pageowner.analysis.leaks.links import _linked, explain_node, references
from drgn_pageowner.analysis.leaks.reach import Reach, reach
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import HeapTarget, Word
from drgn_pageowner.render.links import refs_text, why_text

EDGES = [(-1, 0), (0, 1), (2, 1)]


def marked() -> Reach:
    records = [Record(2 * i, ["alloc_pages", f"f{i}"]) for i in range(4)]
    return reach(heap(Machine("k." * 4).inventory(*records, tasks={1: "init"}), EDGES))


def words(sources: Array, targets: Array, *, numbers: bool = False, limit: int = 9) -> list[Word]:
    """Return a word for every edge, at address 0x1000 times the number of its holder."""
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


def test_a_chain_to_a_number_begins_at_a_root() -> None:
    # Node 0 contains the PFN of node 1, which contains the address of node 2.
    records = [Record(2 * i, ["alloc_pages", f"f{i}"]) for i in range(30)]
    machine = Machine("k." * 30).inventory(*records, tasks={1: "init"})
    found = reach(heap(machine, [(-1, 0), (1, 2)], numbers=[(0, 1)]))

    def search(
        sources: Array, targets: Array, *, numbers: bool = False, limit: int = 9
    ) -> list[Word]:
        every = [(30, 0, "address"), (1, 2, "address"), (0, 1, "PFN")]
        return [
            Word("page", f"node {a}", a, b, 0x1000 * a, 2 * b, by, expression=f"e{a}")
            for a, b, by in every
            if a in sources and b in targets and (numbers or by == "address")
        ][:limit]

    for node, chain in ((1, ["node 30", "node 0"]), (2, ["node 30", "node 0", "node 1"])):
        why = explain_node(found, HeapTarget(f"pfn:{2 * node}", 2 * node, node, ""), search)
        assert why.verdict == "known only by PFN"
        assert [hop.name for hop in why.chain] == chain


def test_where_a_word_leads_depends_on_the_next_one() -> None:
    counter = Word("module", "m", 4, 0, 0x10, 0x20, "per-CPU pointer", expression="p",
                   target_expression="per_cpu_ptr(p, 0)")  # fmt: skip
    copy = Word("per-CPU", "c", 0, 1, 0x30, 0x40, "struct page", expression="q", cpu=3,
                target_expression="page_to_virt(q)")  # fmt: skip
    listed = Word("struct page", "s", 1, 1, 0x50, 0x60, "struct page", expression="r",
                  target_expression="page_to_virt(r)")  # fmt: skip
    hops = _linked(marked(), [counter, copy, listed])
    expected = ["per_cpu_ptr(p, 3)", "q", "page_to_virt(r)"]
    assert [hop.target_expression for hop in hops] == expected


def test_references_say_whether_anything_reaches_them() -> None:
    found = references(marked(), HeapTarget("pfn:2", 2, 1, ""), words, 9)
    assert [(hop.name, hop.reachable) for hop in found.references] == [
        ("node 0", True),
        ("node 2", False),
    ]
    assert "(nothing reaches this)" in list(refs_text(found))[-1]
    number = len(found.references)
    assert f"; {number} words name it\n" in list(refs_text(found, number + 1))[1]
    assert f"; the first {number} words that name it\n" in list(refs_text(found, number))[1]


def test_a_page_that_is_no_node_is_described() -> None:
    why = explain_node(marked(), HeapTarget("pfn:1", 1, None, "free"), words)
    assert (why.verdict, why.explanation, why.chain) == ("not allocated", "free", [])
