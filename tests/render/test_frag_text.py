# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test fragmentation as text, from hand-made machines."""

from __future__ import annotations

import pytest
from handmade import CMA, NAMES, NOW, SECOND, Machine, Record, facts

from drgn_pageowner.analysis.frag.alloc_check import alloc_check
from drgn_pageowner.analysis.frag.blockmap import block_map
from drgn_pageowner.analysis.frag.blocks import block_table, explain_block
from drgn_pageowner.analysis.frag.contiguity import contiguity
from drgn_pageowner.analysis.frag.culprits import culprits
from drgn_pageowner.analysis.frag.mobility import Overlay, overlay
from drgn_pageowner.analysis.frag.zone_summary import zone_summaries
from drgn_pageowner.render.blockmap import CELL_CLASSES, cell_class, map_text
from drgn_pageowner.render.frag import (
    alloc_check_text,
    cma_text,
    contiguity_text,
    culprits_text,
    explain_text,
    summary_text,
)

MACHINE = Machine("....kk..aaaa", free={0: 2})
RECORDS = (
    Record(4, ["alloc_pages", "one"], ts_nsec=NOW - 60 * SECOND, pid=7, comm=b"cat"),
    Record(5, ["alloc_pages", "one"], ts_nsec=NOW - SECOND, pid=7, comm=b"cat"),
)


def joined(machine: Machine = MACHINE, *records: Record) -> Overlay:
    inventory = machine.inventory(*records)
    return overlay(inventory.memory, inventory.records)


def test_a_summary_says_first_what_is_wrong() -> None:
    memory = joined(MACHINE, *RECORDS)
    lines = "".join(summary_text(zone_summaries(memory, block_table(memory)), facts(12)))
    assert lines.startswith(
        "node 0, zone Normal: 1 movable pageblock has unmovable pages in it\n\n"
    )
    assert lines.endswith(
        "\nMovable and CMA pageblocks with unmovable pages in them: 1 in Normal of node 0 (frag "
        "culprits says whose)\n"
    )


def test_contiguity_has_a_row_for_every_size() -> None:
    memory = joined(MACHINE, *RECORDS)
    lines = list(contiguity_text(contiguity(memory, block_table(memory)), facts(12)))
    numbers = "3 1 1 1 0 0 1 0 0 2 2"
    assert lines.pop(0) == (
        "1 of 3 blocks of 16.0 KiB has unmovable pages; 1 is free, 1 could be emptied\n\n"
    )
    assert lines[0].splitlines()[2].split() == ["16.0", "KiB", "2", "all", *numbers.split()]
    assert "other kernel" in lines[2]
    assert "one+0x10/0x100" in lines[4]


def test_culprits_show_ages_and_whole_stacks() -> None:
    found = culprits(joined(MACHINE, *RECORDS))
    short = "".join(culprits_text(found, facts(), stacks=False))
    assert short.startswith("1 of 3 pageblocks holds unmovable pages\n")
    assert "1.0 s - 60.0 s" in short
    assert "alloc_pages" not in short
    assert "alloc_pages+0x10/0x100" in "".join(culprits_text(found, facts(), stacks=True))


def test_runs_of_one_owner_are_one_line() -> None:
    lines = list(explain_text(1, explain_block(joined(MACHINE, *RECORDS), 1), facts()))
    assert lines[0] == "pageblock 1: pfn 0x4 to 0x7\n"
    assert lines[1] == "4 pages: 2 unmovable (2 kernel), 2 free\n\n"
    rows = lines[2].splitlines()[2:]
    assert [row.split()[:2] for row in rows] == [["pfn:0x4", "2"], ["pfn:0x6", "2"]]
    assert "cat (7)" in rows[0]


@pytest.mark.parametrize(
    ("machine", "order", "said"),
    [
        (MACHINE, 0, "would succeed\n"),
        (Machine("....kkkk", watermarks=(1, 9, 9)), 0, "would succeed, and wake kswapd\n"),
        (Machine("....kkkk", watermarks=(8, 9, 9)), 0, "would fail: watermark. A block is free"),
        (Machine(".k" * 8), 2, "would fail: fragmentation. There is memory, but in pieces"),
        (Machine("kkkk"), 0, "would fail: too little memory\n"),
    ],
)
def test_an_allocation_is_answered_in_words(machine: Machine, order: int, said: str) -> None:
    check = alloc_check(joined(machine), order, ["GFP_KERNEL"], None)
    text = "".join(alloc_check_text(check, NAMES))
    assert text.startswith(f"order {order}, GFP_KERNEL (Unmovable): {said}")
    assert ("cheapest blocks to free" in text) == (
        check.verdict not in ("succeeds", "wakes kswapd")
    )


def test_a_kernel_without_cma_says_so() -> None:
    assert "".join(cma_text([], NAMES)) == "this kernel has no CMA area\n"


def test_a_map_has_a_character_for_every_cell() -> None:
    machine = Machine("....aaaakkkkk...akkkss??????", blocks=(1, 1, 0, 0, 0, CMA, 0))
    memory = joined(machine)
    maps = block_map(
        memory.memory.pages.facts,
        list(NAMES.migratetypes),
        block_table(memory),
        99,
    )
    assert list(map_text(maps, colour=False))[1].split()[1] == ".mUuU!?"
    assert {cell_class(cell) for cell in maps[0].cells} < CELL_CLASSES.keys()
    assert "\033[32mm\033[0m" in "".join(map_text(maps, colour=True))
