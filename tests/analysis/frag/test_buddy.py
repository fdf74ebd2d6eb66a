# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the kernel's fragmentation indices with values computed by hand."""

from __future__ import annotations

import pytest
from handmade import MOVABLE, UNMOVABLE, Machine, Record

from drgn_pageowner.analysis.frag.buddy import (
    fragmentation_index,
    free_by_type,
    page_type_info,
    unusable_index,
)
from drgn_pageowner.analysis.frag.mobility import overlay


@pytest.mark.parametrize(
    ("nr_free", "order", "index"),
    [
        ((0, 0, 0, 0), 2, 0),
        ((0, 0, 1, 0), 2, -1000),
        # 1000 - (1000 + 8 * 1000 / 4) / 8
        ((8, 0, 0, 0), 2, 625),
        # 1000 - (1000 + 100 * 1000 / 8) / 100
        ((100, 0, 0, 0), 3, 865),
    ],
)
def test_fragmentation_index(nr_free: tuple[int, ...], order: int, index: int) -> None:
    assert fragmentation_index(nr_free, order) == index


@pytest.mark.parametrize(
    ("nr_free", "index"), [((0, 0, 0, 0), 1000), ((0, 0, 2, 0), 0), ((4, 0, 1, 0), 500)]
)
def test_unusable_index(nr_free: tuple[int, ...], index: int) -> None:
    assert unusable_index(nr_free, 2) == index


def test_free_blocks_are_counted_by_their_list() -> None:
    machine = Machine(".....k..", blocks=(MOVABLE, UNMOVABLE), free={0: 2, 6: 1})
    free = free_by_type(machine.memory())
    assert free[0, MOVABLE].tolist() == [0, 0, 1, 0]
    assert free[0, UNMOVABLE].tolist() == [1, 1, 0, 0]


def test_a_block_is_mixed_by_a_page_that_asked_for_another_type() -> None:
    machine = Machine("ak..kkkk", blocks=(MOVABLE, UNMOVABLE))
    inventory = machine.inventory(
        Record(0, ["f"], migratetype=MOVABLE), Record(1, ["g"]), Record(4, ["g"], order=2)
    )
    mixed = page_type_info(overlay(inventory.memory, inventory.records)).mixed
    assert mixed is not None
    assert mixed[0].tolist() == [0, 1, 0, 0]
