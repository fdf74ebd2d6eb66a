# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test a hand-made CMA area."""

from __future__ import annotations

import numpy as np
from handmade import CMA, Machine, Record

from drgn_pageowner.analysis.frag.cma import cma_report
from drgn_pageowner.analysis.frag.mobility import overlay
from drgn_pageowner.model.pages import CmaArea


def test_pages_are_taken_free_lent_or_stuck() -> None:
    inventory = Machine("kk..aaka", blocks=(CMA, CMA)).inventory(Record(5, ["pin_it"]))
    memory = inventory.memory
    memory.cma = (CmaArea("area", 0, 8, 0, np.array([True, True, *[False] * 6])),)
    memory.pages["flags"][:] = 2
    memory.pages["mapcount"][4:8] = 0
    # A page that is mapped once, and has one more reference.
    memory.pages["refcount"][5] = 2
    [area] = cma_report(overlay(memory, inventory.records))
    assert (area.allocated, area.free, area.lent, area.movable) == (2, 2, 4, 2)
    assert area.longest_bitmap_run == 6
    assert area.longest_allocatable_run == 3
    assert [(page.pfn, page.why) for page in area.stuck] == [
        (5, ("pinned",)),
        (6, ("unmovable owner",)),
    ]
    assert area.stuck[0].allocator == "pin_it+0x10/0x100"
