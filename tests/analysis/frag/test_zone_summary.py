# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test verdicts on hand-made zones."""

from __future__ import annotations

import pytest
from handmade import Machine

from drgn_pageowner.analysis.frag.blocks import block_table
from drgn_pageowner.analysis.frag.mobility import overlay
from drgn_pageowner.analysis.frag.zone_summary import NOTHING_WRONG, ZoneSummary, zone_summaries


def summary(machine: Machine) -> ZoneSummary:
    joined = overlay(machine.memory(), None)
    [zone] = zone_summaries(joined, block_table(joined))
    return zone


@pytest.mark.parametrize(
    ("machine", "verdict"),
    [
        (Machine("...." "aaaa", free={0: 2}), NOTHING_WRONG),
        (Machine("...." "aaaa", free={0: 2}, watermarks=(5, 6, 7)),
         "free memory is below the min watermark (4 < 5)"),
        (Machine("...." "aaaa", free={0: 2}, watermarks=(3, 5, 7)),
         "free memory is below the low watermark (4 < 5)"),
        # 1000 - (1000 + 8 * 1000 / 4) / 8
        (Machine(".a" * 8), "no free block of order 2: fragmentation index 0.625"),
        (Machine(".a" * 8, extfrag_threshold=700),
         "100 % of free memory is in blocks smaller than order 2"),
        (Machine("...." "k...", free={0: 2, 6: 1}),
         "1 movable pageblock has unmovable pages in it"),
    ],
)  # fmt: skip
def test_a_zone_says_what_is_wrong(machine: Machine, verdict: str) -> None:
    zone = summary(machine)
    assert zone.verdict == verdict
    assert zone.healthy == (verdict == NOTHING_WRONG)


def test_the_longest_run_ends_at_a_page_in_use() -> None:
    assert summary(Machine("..k...a.")).largest_free_run == 3
