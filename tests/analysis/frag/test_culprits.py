# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the owners of unmovable pages on a hand-made machine."""

from __future__ import annotations

import pytest
from handmade import MOVABLE, UNMOVABLE, Machine, Record, frames

from drgn_pageowner.analysis.frag.culprits import Culprits, culprits
from drgn_pageowner.analysis.frag.mobility import (
    Mobility,
    UnmovableKind,
    overlay,
    unmovable_kinds,
)
from drgn_pageowner.analysis.owners.stack_table import StackTable

MACHINE = Machine("k...kk..k...aaaat...", blocks=(MOVABLE, MOVABLE, MOVABLE, UNMOVABLE))


def found(by: str = "stack", sort: str = "blocks") -> Culprits:
    inventory = MACHINE.inventory(
        Record(0, ["alloc_pages", "wide", "a"]),
        Record(4, ["alloc_pages", "wide", "b"]),
        Record(5, ["alloc_pages", "narrow"]),
        Record(8, ["alloc_pages", "wide", "b"]),
        Record(12, ["alloc_pages", "user"], order=2, migratetype=MOVABLE),
    )
    return culprits(overlay(inventory.memory, inventory.records), by=by, sort=sort)


def test_owners_are_ranked_by_the_blocks_that_they_touch() -> None:
    result = found()
    assert (result.blocked, result.blocks) == (4, 5)
    assert [
        (one.allocator.split("+")[0], one.blocks, one.only_blocker) for one in result.blocking
    ] == [
        ("wide", 2, 1),
        ("wide", 1, 1),
        ("narrow", 1, 0),
        ("(page table, no record)", 1, 1),
    ]


def test_stacks_of_one_function_are_one_owner() -> None:
    first = found(by="allocator").blocking[0]
    assert (first.blocks, first.only_blocker, first.pages, first.in_movable) == (3, 2, 3, 3)


def test_movable_pages_in_unmovable_blocks_are_the_reverse() -> None:
    [one] = found().reverse
    assert (one.allocator, one.pages, one.blocks) == ("user+0x10/0x100", 4, 1)


@pytest.mark.parametrize(
    ("stack", "kind"),
    [
        (["vmalloc", "copy_process"], UnmovableKind.STACKS),
        (["dup_task_struct"], UnmovableKind.STACKS),
        (["__pte_alloc"], UnmovableKind.TABLES),
        (["alloc_skb"], UnmovableKind.NETWORK),
        (["ext4_fill_super"], UnmovableKind.FILE_SYSTEM),
        (["thing_probe"], UnmovableKind.DRIVERS),
        (["f [module]"], UnmovableKind.DRIVERS),
        (["0xffffffffc0000000"], UnmovableKind.DRIVERS),
        (["start_kernel"], UnmovableKind.BOOT),
        (["pipe_write"], UnmovableKind.OTHER),
    ],
)
def test_a_stack_tells_its_purpose(stack: list[str], kind: UnmovableKind) -> None:
    table = StackTable.of_frames([frames(*stack), frames("f")])
    assert unmovable_kinds(table).tolist() == [kind, UnmovableKind.OTHER]


def test_slab_pages_are_reclaimable_if_they_asked_for_that() -> None:
    inventory = Machine("ss..").inventory(Record(0, ["f"], migratetype=2), Record(1, ["g"]))
    joined = overlay(inventory.memory, inventory.records)
    assert joined.mobility[:2].tolist() == [Mobility.RECLAIMABLE, Mobility.UNMOVABLE]
