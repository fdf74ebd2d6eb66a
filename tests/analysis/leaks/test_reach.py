# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reachability in graphs of a few nodes, typed by hand."""

from __future__ import annotations

from handmade import Machine, Record, heap

from drgn_pageowner.analysis.leaks.leaks import find_leaks
from drgn_pageowner.analysis.leaks.reach import Reach, reach
from drgn_pageowner.model.heap import Reachability, Role

ROOT = -1


def marked(
    edges: list[tuple[int, int]],
    *,
    numbers: list[tuple[int, int]] | None = None,
    bookkeeping: list[int] | None = None,
) -> Reach:
    """Six pages of one driver, pages 1 apart so that no two look like one allocation."""
    machine = Machine("k." * 6)
    records = [Record(2 * i, ["alloc_pages", f"f{i}"], ts_nsec=10**9 * (i + 1)) for i in range(6)]
    graph = heap(
        machine.inventory(*records), edges, numbers=numbers or (), bookkeeping=bookkeeping or ()
    )
    return reach(graph)


def verdicts(found: Reach) -> list[Reachability]:
    return [Reachability(value) for value in found.verdict[:6].tolist()]


def test_a_chain_from_a_root_holds_everything_on_it() -> None:
    found = marked([(ROOT, 0), (0, 1), (1, 2)])
    assert verdicts(found)[:3] == [Reachability.REACHABLE] * 3
    assert verdicts(found)[3:] == [Reachability.UNREACHABLE] * 3
    assert found.chain(2) == [6, 0, 1, 2]


def test_the_leaves_of_a_lost_tree_are_reachable_from_unreachable_only() -> None:
    found = marked([(0, 1), (1, 2), (ROOT, 3), (ROOT, 4), (ROOT, 5)])
    assert verdicts(found)[:3] == [
        Reachability.UNREACHABLE,
        Reachability.FROM_UNREACHABLE,
        Reachability.FROM_UNREACHABLE,
    ]


def test_a_ring_and_a_page_that_names_itself_are_held_by_themselves() -> None:
    found = marked([(0, 1), (1, 2), (2, 0), (3, 3), (ROOT, 4), (ROOT, 5)])
    assert verdicts(found)[:4] == [Reachability.ITSELF] * 4


def test_a_page_between_two_rings_is_part_of_them() -> None:
    found = marked([(0, 1), (1, 0), (1, 2), (2, 3), (3, 4), (4, 3), (ROOT, 5)])
    assert verdicts(found)[:5] == [Reachability.ITSELF] * 5


def test_bookkeeping_holds_nothing() -> None:
    found = marked([(ROOT, 0), (0, 1), (ROOT, 2), (2, 3)], bookkeeping=[0])
    assert verdicts(found)[:4] == [
        Reachability.REACHABLE,
        Reachability.UNREACHABLE,
        Reachability.REACHABLE,
        Reachability.REACHABLE,
    ]


def test_a_pfn_in_memory_that_is_held_is_a_holder_of_its_own() -> None:
    found = marked([(ROOT, 0), (1, 2)], numbers=[(ROOT, 1), (3, 4)])
    assert verdicts(found)[1:5] == [
        Reachability.PFN_ONLY,
        Reachability.PFN_ONLY,
        Reachability.UNREACHABLE,
        Reachability.UNREACHABLE,
    ]


def test_page_tables_are_no_candidates_and_boot_memory_is_a_root() -> None:
    inventory = Machine("tkk").inventory(
        Record(0, ["alloc_pages", "pte_alloc_one"]),
        Record(1, ["alloc_pages", "register_early_stack"]),
        Record(2, ["alloc_pages", "driver"]),
    )
    found = reach(heap(inventory, [(1, 2)]))
    assert found.role.tolist() == [Role.ACCOUNTED, Role.ROOT, Role.CANDIDATE]
    assert find_leaks(found).lost_pages == 0
