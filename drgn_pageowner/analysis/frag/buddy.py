# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own measures of fragmentation, from the numbers of free blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.frag.mobility import Overlay, migratetype_number
from drgn_pageowner.model.arrays import Array, among, ascending, slices
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.pages import Memory, PageState
from drgn_pageowner.model.threads import in_threads

__all__ = (
    "PageTypeInfo",
    "fragmentation_index",
    "free_by_type",
    "page_type_info",
    "unusable_index",
)


def _suitable(nr_free: Sequence[int], order: int) -> int:
    return sum(blocks << (o - order) for o, blocks in enumerate(nr_free) if o >= order)


def _trunc(number: int, divisor: int) -> int:
    """Divide as C does, rounding towards zero."""
    return abs(number) // divisor * (1 if number >= 0 else -1)


def unusable_index(nr_free: Sequence[int], order: int) -> int:
    """
    ``unusable_free_index()`` of mm/vmstat.c: the part of free memory that cannot serve *order*.

    :param nr_free: Free blocks of every order.
    :return: 0 to 1000.
    """
    free = sum(blocks << o for o, blocks in enumerate(nr_free))
    if not free:
        return 1000
    return (free - (_suitable(nr_free, order) << order)) * 1000 // free


def fragmentation_index(nr_free: Sequence[int], order: int) -> int:
    """
    ``__fragmentation_index()`` of mm/vmstat.c: the reason why an allocation of *order* would fail.

    :return: -1000 if it would not fail; towards 0 for lack of memory, towards 1000 for
        fragmentation.
    """
    total = sum(nr_free)
    if not total:
        return 0
    if _suitable(nr_free, order):
        return -1000
    free = sum(blocks << o for o, blocks in enumerate(nr_free))
    return 1000 - (1000 + free * 1000 // (1 << order)) // total


def free_by_type(memory: Memory) -> Array:
    """
    Count the free blocks in the buddy allocator.

    :return: ``int64``, shape ``(zones, migratetypes, orders)``. Blocks whose list could not be
        followed are counted by their pageblock's type.
    """
    facts, free = memory.pages.facts, memory.free
    types = len(memory.pages.names.migratetypes)
    orders = facts.max_page_order + 1
    buddy = ~free.pcp & (free.zone < len(facts.zones))
    migratetype = free.migratetype.astype(np.int64)
    lost = np.flatnonzero(migratetype < 0)
    if len(lost):
        block = memory.pages.pfns(free.row[lost]) >> facts.pageblock_order
        migratetype[lost] = np.maximum(memory.block_types(block, free.zone[lost]), 0)
    key = (free.zone.astype(np.int64) * types + np.minimum(migratetype, types - 1)) * orders
    key += free.order
    counts = np.bincount(key[buddy], minlength=len(facts.zones) * types * orders)
    result: Array = counts.reshape(len(facts.zones), types, orders)
    return result


@dataclass(frozen=True)
class PageTypeInfo:
    """``/proc/pagetypeinfo``, as numbers; zones as in ``facts.zones``."""

    free: Array
    """Free blocks: shape ``(zones, migratetypes, orders)``."""
    blocks: Array
    """Pageblocks: shape ``(zones, migratetypes)``."""
    mixed: Array | None
    """Pageblocks that hold a page of another type: the same shape; ``None`` without records."""


@kept
def page_type_info(joined: Overlay) -> PageTypeInfo:
    """Count as ``pagetypeinfo_show()`` of mm/vmstat.c does."""
    memory = joined.memory
    facts, pages = memory.pages.facts, memory.pages
    types = len(pages.names.migratetypes)
    blocks = np.zeros((len(facts.zones), types), np.int64)
    mixed = np.zeros((len(facts.zones), types), np.int64)
    size = 1 << facts.pageblock_order
    wrong = _mixed_blocks(joined) if joined.records is not None else None
    cma = migratetype_number(list(pages.names.migratetypes), "CMA")
    movable = migratetype_number(list(pages.names.migratetypes), "Movable")
    for number, zone in enumerate(facts.zones):
        # From the zone's first page in steps of a pageblock; only blocks whose first page is in the
        # zone.
        pfns = np.arange(zone.start_pfn, zone.start_pfn + zone.spanned, size, dtype=np.int64)
        rows = pages.rows(pfns)
        own = (rows >= 0) & (pages["zone"][rows] == number)
        kinds = memory.block_types(pfns[own] >> facts.pageblock_order, number)
        blocks[number] = np.bincount(kinds[kinds >= 0], minlength=types)[:types]
        if wrong is not None:
            of_zone = wrong[wrong[:, 1] == number, 0]
            kinds = memory.block_types(of_zone, number)
            counts = np.bincount(kinds[kinds >= 0], minlength=types)[:types]
            if cma >= 0:
                counts[movable] += counts[cma]
                counts[cma] = 0
            mixed[number] = counts
    return PageTypeInfo(free_by_type(memory), blocks, mixed if wrong is not None else None)


def _mixed_blocks(joined: Overlay) -> Array:
    """
    Find pageblocks with an allocated page of another migratetype than theirs.

    This mirrors ``pagetypeinfo_showmixedcount_print()`` of mm/page_owner.c.

    :return: ``int64``, shape ``(n, 2)``: block, zone; each pair once.
    """
    assert joined.records is not None
    pages = joined.memory.pages
    wanted = joined.records["migratetype"]

    def mixed(piece: slice) -> Array:
        state, owner = pages.state[piece], joined.owner[piece]
        rows = np.flatnonzero((owner >= 0) & ~among(state, (PageState.RESERVED, PageState.ABSENT)))
        block = joined.block[rows + piece.start].astype(np.int64)
        zone = pages["zone"][piece][rows]
        other = wanted[owner[rows]].astype(np.int8) != joined.memory.block_types(block, zone)
        return ascending(block[other] << 8 | zone[other])

    keys = in_threads(mixed, slices(len(pages)))
    key = ascending(np.concatenate([np.zeros(0, np.int64), *keys]))
    result: Array = np.stack([key >> 8, key & 0xFF], axis=1)
    return result
