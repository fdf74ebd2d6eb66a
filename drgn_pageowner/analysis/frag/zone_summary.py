# SPDX-License-Identifier: LGPL-2.1-or-later
"""Summarize every zone in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.frag.blocks import BlockTable
from drgn_pageowner.analysis.frag.buddy import fragmentation_index, page_type_info, unusable_index
from drgn_pageowner.analysis.frag.mobility import Mobility, Overlay
from drgn_pageowner.model.arrays import Array, ascending, equals, slices
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.kernel import Zone
from drgn_pageowner.model.pages import Memory, ZoneStats
from drgn_pageowner.model.threads import in_threads

__all__ = ("NOTHING_WRONG", "ZoneSummary", "zone_summaries")

NOTHING_WRONG = "nothing is wrong"

# Threshold, in thousandths of free memory that cannot serve an allocation of a pageblock. On the
# bundled guests it is 9 to 349 in healthy zones, 321 to 720 where a module fragments memory on
# purpose, and 1000 in exhausted zones.
_UNUSABLE = 500
# Threshold: one in ten of a zone's pageblocks. Movable pageblocks with unmovable pages in them are
# at most 3 % in the bundled guests, and 10 to 18 % where a module fragments memory on purpose.
_POLLUTED = 10


@dataclass(frozen=True)
class ZoneSummary:
    """One populated zone, in base pages and pageblocks."""

    node: int
    zone: str
    present: int
    managed: int
    free: int
    """``NR_FREE_PAGES``."""
    free_blocks: list[int]
    """Free blocks of every order."""
    free_by_type: dict[str, list[int]]
    """Migratetype -> free blocks of every order."""
    pcp: int
    nr_reserved_highatomic: int
    free_cma: int
    watermarks: tuple[int, int, int]
    """min, low, high."""
    pageblocks: dict[str, int]
    """Migratetype -> pageblocks."""
    mixed: dict[str, int] | None
    """Pageblocks that hold pages of another type, as the kernel counts them; ``None`` without
    records."""
    polluted: int
    """Movable and CMA pageblocks with an unmovable page in them, other than boot memory."""
    largest_free_run: int
    """Length of the longest run of free pages."""
    unusable: int
    """The kernel's index for a pageblock, in thousandths."""
    verdict: str
    """The problems of the zone, in words; :data:`NOTHING_WRONG` if there are none."""

    @property
    def healthy(self) -> bool:
        """Return whether the zone has no problems."""
        return self.verdict == NOTHING_WRONG


@kept
def zone_summaries(joined: Overlay, table: BlockTable) -> list[ZoneSummary]:
    """Summarize every populated zone."""
    memory = joined.memory
    facts, types = memory.pages.facts, memory.pages.names.migratetypes
    info = page_type_info(joined)
    runs = _longest_runs(joined)
    strange = table.polluted(types)
    result = []
    for number, zone in enumerate(facts.zones):
        stats = memory.zones[number]
        if not stats.populated:
            continue
        polluted = int((strange & (table.part_of == number)).sum())
        mixed = None
        if info.mixed is not None:
            mixed = dict(zip(types, info.mixed[number].tolist(), strict=True))
        result.append(
            ZoneSummary(
                node=zone.node,
                zone=zone.name,
                present=zone.present,
                managed=zone.managed,
                free=stats.free_pages,
                free_blocks=list(stats.nr_free),
                free_by_type=dict(zip(types, info.free[number].tolist(), strict=True)),
                pcp=stats.pcp,
                nr_reserved_highatomic=stats.nr_reserved_highatomic,
                free_cma=stats.free_cma,
                watermarks=(stats.watermarks[0], stats.watermarks[1], stats.watermarks[2]),
                pageblocks=dict(zip(types, info.blocks[number].tolist(), strict=True)),
                mixed=mixed,
                polluted=polluted,
                largest_free_run=runs[number],
                unusable=unusable_index(stats.nr_free, facts.pageblock_order),
                verdict=_verdict(zone, stats, memory, polluted),
            )
        )
    return result


def _longest_runs(joined: Overlay) -> list[int]:
    """Return the length of the longest run of free pages in every zone."""
    pages, zone = joined.memory.pages, joined.memory.pages["zone"]

    def edges(rows: slice) -> Array:
        after = slice(rows.start + 1, rows.stop + 1)
        free, free_after = (equals(joined.mobility[some], Mobility.FREE) for some in (rows, after))
        found: Array = np.flatnonzero((free != free_after) | (zone[rows] != zone[after]))
        found += after.start
        return found

    first = np.zeros(min(len(pages), 1), np.int64)
    # A run ends at a page that is not free, at a zone boundary, and at a hole in the PFNs.
    holes = pages.offsets[1:-1][pages.starts[1:] != pages.starts[:-1] + np.diff(pages.offsets)[:-1]]
    inside = in_threads(edges, slices(len(pages) - 1))
    starts = ascending(np.concatenate([first, *inside, holes]))
    lengths = np.diff(starts, append=len(pages))
    runs = equals(joined.mobility[starts], Mobility.FREE)
    starts, lengths = starts[runs], lengths[runs]
    result = [0] * len(pages.facts.zones)
    for number in range(len(result)):
        mine = pages["zone"][starts] == number
        result[number] = int(lengths[mine].max(initial=0))
    return result


def _verdict(zone: Zone, stats: ZoneStats, memory: Memory, polluted: int) -> str:
    order = memory.pages.facts.pageblock_order
    block = 1 << order
    minimum, low, _ = stats.watermarks
    parts = []
    if stats.free_pages < minimum:
        parts.append(f"free memory is below the min watermark ({stats.free_pages} < {minimum})")
    elif stats.free_pages < low:
        parts.append(f"free memory is below the low watermark ({stats.free_pages} < {low})")
    index = fragmentation_index(stats.nr_free, order)
    unusable = unusable_index(stats.nr_free, order)
    if index > memory.extfrag_threshold and stats.free_pages >= block:
        parts.append(f"no free block of order {order}: fragmentation index {index / 1000:.3f}")
    elif unusable > _UNUSABLE and stats.free_pages >= low:
        parts.append(
            f"{unusable / 10:.0f} % of free memory is in blocks smaller than order {order}"
        )
    if polluted * block > zone.present // _POLLUTED:
        parts.append(
            "1 movable pageblock has unmovable pages in it"
            if polluted == 1
            else f"{polluted} movable pageblocks have unmovable pages in them"
        )
    return "; ".join(parts) or NOTHING_WRONG
