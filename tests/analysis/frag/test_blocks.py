# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test counts, types and runs of the pageblocks of a hand-made machine."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import CMA, MOVABLE, UNMOVABLE, Machine, Record

from drgn_pageowner.analysis.frag.blockmap import block_map
from drgn_pageowner.analysis.frag.blocks import block_table, explain_block
from drgn_pageowner.analysis.frag.contiguity import contiguity, merge_blocks
from drgn_pageowner.analysis.frag.mobility import Mobility, overlay
from drgn_pageowner.errors import PageOwnerError

#               block 0  1    2    3
MACHINE = Machine("....ak..rrk.s???", blocks=(UNMOVABLE, MOVABLE, CMA, MOVABLE))


def test_a_block_counts_its_pages_by_mobility() -> None:
    table = block_table(overlay(MACHINE.memory(), None))
    assert table.counts[:, Mobility.FREE].tolist() == [4, 2, 1, 0]
    assert table.counts[:, Mobility.MOVABLE].tolist() == [0, 1, 0, 0]
    assert table.counts[:, Mobility.UNMOVABLE].tolist() == [0, 1, 3, 1]
    assert table.counts[:, Mobility.UNKNOWN].tolist() == [0, 0, 0, 3]
    assert table.boot.tolist() == [0, 0, 2, 0]


def test_boot_memory_alone_pollutes_no_block() -> None:
    joined = overlay(Machine("rr..rk..").memory(), None)
    polluted = block_table(joined).polluted(joined.memory.pages.names.migratetypes)
    assert polluted.tolist() == [False, True]


def test_a_block_with_a_hole_is_not_whole() -> None:
    table = block_table(overlay(Machine("...... .").memory(), None))
    assert table.zone.tolist() == [0, -1]
    assert table.part_of.tolist() == [0, 0]


def test_two_blocks_make_a_larger_one_only_if_both_are_whole() -> None:
    table = block_table(overlay(Machine("....k......... .").memory(), None))
    zone, counts = merge_blocks(table, 1)
    assert zone.tolist() == [0, -1]
    assert counts[0, Mobility.FREE] == 7


def test_contiguity_of_every_size() -> None:
    joined = overlay(MACHINE.memory(), None)
    first = contiguity(joined, block_table(joined)).sizes[0]
    assert (first.blocks, first.free, first.movable, first.blocked) == (4, 1, 0, 3)
    assert first.blocked_by == (2, 1, 0, 0)
    assert (first.in_the_way, first.for_half) == (5, 2)


def test_pages_of_one_allocation_are_one_run() -> None:
    inventory = MACHINE.inventory(Record(10, ["f"], pid=7, comm=b"cat"))
    runs = explain_block(overlay(inventory.memory, inventory.records), 2)
    assert [(run.pfn, run.pages, run.state) for run in runs] == [
        (8, 2, "reserved"),
        (10, 1, "kernel"),
        (11, 1, "free"),
    ]
    assert (runs[1].allocator, runs[1].pid, runs[1].comm) == ("f+0x10/0x100", 7, b"cat")


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(PageOwnerError, match="pageblock 99"):
        explain_block(overlay(MACHINE.memory(), None), 99)


def test_cells_of_a_map_sum_up_their_blocks() -> None:
    memory = MACHINE.memory()
    joined = overlay(memory, None)
    types = list(memory.pages.names.migratetypes)
    [one] = block_map(memory.pages.facts, types, block_table(joined), 2)
    assert one.blocks_per_cell == 2
    assert [cell.pfn for cell in one.cells] == [0, 8]
    assert [(cell.free, cell.unmovable, cell.unknown) for cell in one.cells] == [
        (6, 1, 0),
        (1, 4, 3),
    ]
    assert [cell.polluted for cell in one.cells] == [1, 2]
    assert np.sum([cell.blocks for cell in one.cells]) == 4
