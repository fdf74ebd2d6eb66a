# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test split allocations, on hand-made records."""

from __future__ import annotations

from handmade import Record, snapshot

from drgn_pageowner.analysis.leaks.split import merge_split

EXACT = ["alloc_pages", "make_alloc_exact", "alloc_pages_exact", "f"]


def numbers(*records: Record, times: bool = True) -> list[int]:
    result: list[int] = merge_split(snapshot(*records, times=times)).tolist()
    return result


def test_pages_of_one_nanosecond_and_stack_are_one_allocation() -> None:
    assert numbers(*(Record(pfn, ["f"], ts_nsec=5) for pfn in (4, 5, 6, 9))) == [0, 0, 0, 1]


def test_a_run_that_begins_where_no_block_can_is_none() -> None:
    assert numbers(*(Record(pfn, ["f"], ts_nsec=5) for pfn in (5, 6, 7))) == [0, 1, 2]


def test_other_times_are_other_allocations_unless_the_stack_splits() -> None:
    assert numbers(*(Record(pfn, ["f"], ts_nsec=5 + pfn) for pfn in (4, 5))) == [0, 1]
    assert numbers(*(Record(pfn, EXACT, ts_nsec=5 + pfn) for pfn in (4, 5))) == [0, 0]


def test_without_times_only_the_stack_tells() -> None:
    assert numbers(*(Record(pfn, ["f"]) for pfn in (4, 5)), times=False) == [0, 1]
    assert numbers(*(Record(pfn, EXACT) for pfn in (4, 5)), times=False) == [0, 0]


def test_no_records_are_no_allocations() -> None:
    assert numbers() == []
