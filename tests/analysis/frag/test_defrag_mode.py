# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test allocations that need a pageblock of another type, with and without defrag_mode."""

from __future__ import annotations

import dataclasses

import pytest
from conftest import bundled

from drgn_pageowner.analysis.frag.alloc_check import alloc_check
from drgn_pageowner.analysis.frag.mobility import migratetype_number, overlay
from drgn_pageowner.kernel.read.pages import read_all_pages
from drgn_pageowner.model.pages import FreeLists, Memory

ORDER = 3


@pytest.fixture(scope="module")
def mixed() -> Memory:
    """Return memory whose free blocks of order 3 are all Movable, in partly used pageblocks."""
    memory = read_all_pages(bundled("linux-7.2/traps").linux)
    free, facts = memory.free, memory.pages.facts
    movable = migratetype_number(list(memory.pages.names.migratetypes), "Movable")
    kept = (free.order < ORDER) | (free.migratetype == movable)
    kept &= free.order < facts.pageblock_order
    fields = {name: getattr(free, name)[kept] for name in ("row", "order", "zone", "migratetype")}
    return dataclasses.replace(memory, free=FreeLists(**fields, pcp=free.pcp[kept]))


@pytest.mark.parametrize(
    ("flags", "plain", "with_defrag_mode"),
    [
        # The allocation may reclaim and compact; it does both before it takes a part of another
        # type's pageblock.
        ("GFP_KERNEL", "succeeds", "reclaims first"),
        # The allocation cannot wait, but wakes kswapd.
        ("GFP_ATOMIC", "succeeds", "wakes kswapd"),
        # The allocation can neither wait nor wake kswapd.
        ("__GFP_HIGH", "succeeds", "fragmentation"),
        # The allocation has the type of the free blocks.
        ("GFP_HIGHUSER_MOVABLE", "succeeds", "succeeds"),
    ],
)
def test_defrag_mode_keeps_types_apart(
    mixed: Memory, flags: str, plain: str, with_defrag_mode: str
) -> None:
    for mode, expected in ((False, plain), (True, with_defrag_mode)):
        memory = dataclasses.replace(mixed, defrag_mode=mode)
        assert alloc_check(overlay(memory, None), ORDER, [flags], None).verdict == expected


def test_a_free_pageblock_of_another_type_may_be_claimed(mixed: Memory) -> None:
    whole = dataclasses.replace(read_all_pages(bundled("linux-7.2/traps").linux), defrag_mode=True)
    assert whole.free.order.max() >= whole.pages.facts.pageblock_order
    assert alloc_check(overlay(whole, None), 9, ["GFP_KERNEL"], None).verdict == "succeeds"


def test_the_kernel_says_whether_it_is_on() -> None:
    # defrag_mode is off by default, and was added in Linux kernel commit e3aa7df331bc ("mm:
    # page_alloc: defrag_mode") (in v6.15).
    assert read_all_pages(bundled("linux-7.2/traps").linux).defrag_mode is False
    assert read_all_pages(bundled("linux-6.12/traps").linux).defrag_mode is False
