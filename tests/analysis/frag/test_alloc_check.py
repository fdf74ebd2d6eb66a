# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test allocations from hand-made free lists."""

from __future__ import annotations

import pytest
from handmade import MOVABLE, UNMOVABLE, Machine, Record

from drgn_pageowner.analysis.frag.alloc_check import AllocVerdict, alloc_check
from drgn_pageowner.analysis.frag.mobility import overlay
from drgn_pageowner.errors import UsageError

HALF = "." * 16 + "k" * 16


@pytest.mark.parametrize(
    ("machine", "order", "verdict"),
    [
        (Machine(HALF), 0, AllocVerdict.SUCCEEDS),
        (Machine(HALF, watermarks=(8, 20, 24)), 0, AllocVerdict.WAKES_KSWAPD),
        (Machine(HALF, watermarks=(18, 20, 24)), 0, AllocVerdict.WATERMARK),
        (Machine(HALF, watermarks=(8, 9, 10), lowmem_reserve=(9,)), 0, AllocVerdict.WATERMARK),
        (Machine(".k" * 16), 1, AllocVerdict.FRAGMENTATION),
        (Machine("k" * 32), 0, AllocVerdict.TOO_LITTLE),
    ],
)
def test_an_allocation_is_judged_by_the_zone_itself(
    machine: Machine, order: int, verdict: AllocVerdict
) -> None:
    joined = overlay(machine.memory(), None)
    assert alloc_check(joined, order, ["GFP_KERNEL"], None).verdict == verdict


@pytest.mark.parametrize(
    ("threshold", "verdict"), [(500, "fragmentation"), (900, "too little memory")]
)
def test_the_threshold_is_that_of_the_dump(threshold: int, verdict: str) -> None:
    machine = Machine(".k" * 16, watermarks=(40, 41, 42), extfrag_threshold=threshold)
    joined = overlay(machine.memory(), None)
    # Below the watermark; the fragmentation index of order 2 is 1000 - (1000 + 4000) / 16 = 688.
    assert alloc_check(joined, 2, ["GFP_KERNEL"], None).verdict == verdict


def test_a_free_block_of_another_type_counts_as_a_fallback() -> None:
    machine = Machine("....kkkk", blocks=(MOVABLE, UNMOVABLE), free={0: 2})
    joined = overlay(machine.memory(), None)
    assert alloc_check(joined, 2, ["GFP_KERNEL"], None).zones[0].block


def test_the_cheapest_block_is_the_one_with_fewest_unmovable_pages() -> None:
    machine = Machine("kk..akaakkkk")
    inventory = machine.inventory(Record(5, ["alloc_pages", "owner"]))
    joined = overlay(inventory.memory, inventory.records)
    cheapest = alloc_check(joined, 2, ["GFP_KERNEL"], None).cheapest
    assert [(block.pfn, block.unmovable, block.movable) for block in cheapest] == [
        (4, 1, 3),
        (0, 2, 0),
        (8, 4, 0),
    ]
    assert cheapest[0].owners == [("owner+0x10/0x100", 1, 1)]
    assert alloc_check(joined, 2, ["GFP_KERNEL"], None, limit=0).cheapest == []


@pytest.mark.parametrize(
    ("order", "flag", "node", "said"),
    [
        (4, "GFP_KERNEL", None, "order 4"),
        (0, "GFP_NOSUCH", None, "gfp flag"),
        (0, "GFP_KERNEL", 7, "node 7"),
    ],
)
def test_what_this_kernel_does_not_have_is_refused(
    order: int, flag: str, node: int | None, said: str
) -> None:
    joined = overlay(Machine(HALF).memory(), None)
    with pytest.raises(UsageError, match=said):
        alloc_check(joined, order, [flag], node)
