# SPDX-License-Identifier: LGPL-2.1-or-later
"""Judge whether an allocation would succeed from the free lists, and find what is in its way."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.frag.blocks import block_table
from drgn_pageowner.analysis.frag.buddy import fragmentation_index, free_by_type
from drgn_pageowner.analysis.frag.contiguity import merge_blocks
from drgn_pageowner.analysis.frag.culprits import owner_codes, owner_name
from drgn_pageowner.analysis.frag.mobility import Mobility, Overlay, migratetype_number
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.arrays import Array, equals
from drgn_pageowner.model.kernel import Names
from drgn_pageowner.model.pages import Memory

__all__ = (
    "COSTLY_ORDER",
    "AllocCheck",
    "AllocVerdict",
    "BlockToFree",
    "ZoneCheck",
    "alloc_check",
    "gfp_mask",
)

COSTLY_ORDER = 3
"""``PAGE_ALLOC_COSTLY_ORDER``: up to this order the page allocator retries, and callers rely on
that."""


# Common names of combinations of gfp flags that the tables of some or all kernels lack.
_COMPOSED = {
    "GFP_HIGHUSER_MOVABLE": ("GFP_HIGHUSER", "__GFP_MOVABLE"),
    "GFP_HIGHUSER": ("GFP_USER", "__GFP_HIGHMEM"),
}
_TYPES = 3
"""MIGRATE_PCPTYPES: Unmovable, Movable and Reclaimable."""


class AllocVerdict(enum.StrEnum):
    """The outcome of an allocation from the free lists as they are, best first."""

    SUCCEEDS = "succeeds"
    WAKES_KSWAPD = "wakes kswapd"
    RECLAIMS_FIRST = "reclaims first"
    """It succeeds, but only after reclaim and compaction failed to help (``vm.defrag_mode``)."""
    FRAGMENTATION = "fragmentation"
    """It fails although there is enough memory: the free blocks are too small."""
    WATERMARK = "watermark"
    """It fails although there is a block, because free memory would fall below the watermark."""
    TOO_LITTLE = "too little memory"


@dataclass(frozen=True)
class ZoneCheck:
    """One zone that the allocation may come from."""

    node: int
    zone: str
    free: int
    usable: int
    """Free pages less those reserved for others (high-atomic, CMA) and the request itself."""
    minimum: int
    """The min watermark, lowered by the part of the reserve that the gfp mask may use."""
    low: int
    lowmem_reserve: int
    block: bool
    """Whether a free block is large enough and of a type that the allocation may take."""
    index: int
    """The kernel's fragmentation index for this order, in thousandths."""
    verdict: AllocVerdict


@dataclass(frozen=True)
class BlockToFree:
    """An aligned block of the requested order that would be cheap to free."""

    pfn: int
    node: int
    zone: str
    free: int
    movable: int
    """Movable and reclaimable pages, which compaction or reclaim could remove."""
    unmovable: int
    owners: list[tuple[str, int | None, int]]
    """Allocator, stack handle and number of pages of each owner of unmovable pages, largest
    first."""


@dataclass(frozen=True)
class AllocCheck:
    """The result of :func:`alloc_check`."""

    order: int
    gfp_mask: int
    migratetype: str
    verdict: AllocVerdict
    """Return the best verdict of :attr:`zones`."""
    zones: list[ZoneCheck]
    cheapest: list[BlockToFree]


def gfp_mask(flags: Sequence[str], names: Names) -> int:
    """
    Return the gfp mask for the names *flags*.

    :raises UsageError: if this kernel has no such flag
    """
    known = {name: mask for mask, name in names.gfp_flags}
    mask = 0
    for flag in flags:
        if flag in known:
            mask |= known[flag]
        elif flag in _COMPOSED:
            mask |= gfp_mask(_COMPOSED[flag], names)
        else:
            raise UsageError(
                f"{flag!r} is not a gfp flag of this kernel: known are {', '.join(sorted(known))}"
            )
    return mask


def _highest_zone(mask: int, names: Names) -> int:
    """Return the highest zone for a gfp mask, as ``gfp_zone()`` of include/linux/gfp.h does."""
    known = {name: value for value, name in names.gfp_flags}

    def has(flag: str) -> bool:
        return bool(mask & known.get(flag, 0))

    zones = list(names.zone_types)
    normal = zones.index("NORMAL") if "NORMAL" in zones else 0
    if has("__GFP_HIGHMEM") and has("__GFP_MOVABLE") and "MOVABLE" in zones:
        return zones.index("MOVABLE")
    for flag, zone in (
        ("__GFP_DMA", "DMA"),
        ("__GFP_DMA32", "DMA32"),
        ("__GFP_HIGHMEM", "HIGHMEM"),
    ):
        if has(flag) and zone in zones:
            return zones.index(zone)
    return normal


def alloc_check(
    joined: Overlay, order: int, flags: Sequence[str], node: int | None, *, limit: int = 5
) -> AllocCheck:
    """
    Judge an allocation as ``get_page_from_freelist()`` of mm/page_alloc.c would.

    :param flags: Names of gfp flags.
    :param node: Preferred node of the allocation; the first node by default.
    :param limit: Number of cheapest blocks to return; with 0 they are not searched for.
    :raises UsageError: if the order, a flag or the node does not exist in this kernel
    """
    memory, facts = joined.memory, joined.memory.pages.facts
    names = memory.pages.names
    if not 0 <= order <= facts.max_page_order:
        raise UsageError(f"order {order} is beyond this kernel's largest, {facts.max_page_order}")
    if node is not None and node not in memory.zonelists:
        raise UsageError(f"no node {node}: known are {', '.join(map(str, memory.zonelists))}")
    mask = gfp_mask(flags, names)
    chosen = next(iter(memory.zonelists), 0) if node is None else node
    highest = _highest_zone(mask, names)
    allowed = [
        number
        for number in memory.zonelists.get(chosen, ())
        if facts.zones[number].type <= highest and memory.zones[number].populated
    ]
    this_node = {name: value for value, name in names.gfp_flags}.get("__GFP_THISNODE", 0)
    if mask & this_node:
        allowed = [number for number in allowed if facts.zones[number].node == chosen]
    kind = mask >> 3 & 3
    free = free_by_type(memory)
    zones = [_check(memory, number, order, mask, highest, kind, free[number]) for number in allowed]
    best = min((zone.verdict for zone in zones), key=_rank, default=AllocVerdict.TOO_LITTLE)
    return AllocCheck(
        order=order,
        gfp_mask=mask,
        migratetype=names.migratetypes[kind],
        verdict=best,
        zones=zones,
        cheapest=_cheapest(joined, order, allowed, limit),
    )


def _rank(verdict: AllocVerdict) -> int:
    return list(AllocVerdict).index(verdict)


def _check(
    memory: Memory, number: int, order: int, mask: int, highest: int, kind: int, free: Array
) -> ZoneCheck:
    zone, stats = memory.pages.facts.zones[number], memory.zones[number]
    names = memory.pages.names
    known = {name: value for value, name in names.gfp_flags}
    types = list(names.migratetypes)
    may_take = list(range(_TYPES))
    cma = kind == migratetype_number(types, "Movable")
    if cma and migratetype_number(types, "CMA") >= 0:
        may_take.append(migratetype_number(types, "CMA"))
    minimum = stats.watermarks[0]
    usable = stats.free_pages - ((1 << order) - 1)
    high = bool(mask & known.get("__GFP_HIGH", 0))
    if high:
        # ALLOC_MIN_RESERVE, and a larger part for callers that cannot wait.
        minimum -= minimum // 2
        if not mask & known.get("__GFP_DIRECT_RECLAIM", 0):
            minimum -= minimum // 4
    else:
        usable -= stats.nr_reserved_highatomic
    if not cma:
        usable -= stats.free_cma
    reserve = stats.lowmem_reserve[highest] if highest < len(stats.lowmem_reserve) else 0
    block = bool(free[may_take, order:].sum())
    index = fragmentation_index(stats.nr_free, order)
    low = stats.watermarks[1]
    if block and usable > low + reserve:
        verdict = AllocVerdict.SUCCEEDS
    elif block and usable > minimum + reserve:
        verdict = AllocVerdict.WAKES_KSWAPD
    elif block:
        verdict = AllocVerdict.WATERMARK
    elif usable > minimum + reserve or index > memory.extfrag_threshold:
        verdict = AllocVerdict.FRAGMENTATION
    else:
        verdict = AllocVerdict.TOO_LITTLE
    easy = (AllocVerdict.SUCCEEDS, AllocVerdict.WAKES_KSWAPD)
    if verdict in easy and memory.defrag_mode and not _unmixed(memory, free, order, kind):
        verdict = _with_defrag_mode(mask, known)
    return ZoneCheck(
        zone.node, zone.name, stats.free_pages, usable, minimum, low, reserve, block, index, verdict
    )


def _unmixed(memory: Memory, free: Array, order: int, kind: int) -> bool:
    """
    Return whether a zone can serve an allocation without taking a part of another type's pageblock,
    as ``__rmqueue()`` does with ``ALLOC_NOFRAGMENT``.

    :param free: Free blocks of the zone: of every migratetype, by order.
    :param kind: The allocation's migratetype.
    """
    types = list(memory.pages.names.migratetypes)
    own = [kind]
    cma = migratetype_number(types, "CMA")
    if kind == migratetype_number(types, "Movable") and cma >= 0:
        own.append(cma)
    whole = max(order, memory.pages.facts.pageblock_order)
    return bool(free[own, order:].sum() or free[:_TYPES, whole:].sum())


def _with_defrag_mode(mask: int, known: dict[str, int]) -> AllocVerdict:
    """
    Return the verdict if the allocation needs a fallback that ``vm.defrag_mode`` allows only in the
    slow path.
    """
    if mask & known.get("__GFP_DIRECT_RECLAIM", 0):
        return AllocVerdict.RECLAIMS_FIRST
    # An allocation that cannot wait, but wakes kswapd, may fall back at once.
    kswapd = mask & known.get("__GFP_KSWAPD_RECLAIM", 0)
    return AllocVerdict.WAKES_KSWAPD if kswapd else AllocVerdict.FRAGMENTATION


def _small_blocks(joined: Overlay, order: int, allowed: list[int]) -> tuple[Array, Array, Array]:
    """
    Return, for each block, whether all of it is memory of allowed zones, and its unmovable and free
    pages.
    """
    group = joined.memory.pages.all_pfns() >> order
    number = int(group[-1]) + 1 if len(group) else 0
    of_zone = np.zeros(256, bool)
    of_zone[allowed] = True
    usable = of_zone[joined.memory.pages["zone"]] & (joined.mobility < Mobility.UNKNOWN)
    whole = np.bincount(group[usable], minlength=number) == 1 << order
    stuck = np.bincount(group[equals(joined.mobility, Mobility.UNMOVABLE)], minlength=number)
    free = np.bincount(group[equals(joined.mobility, Mobility.FREE)], minlength=number)
    return whole, stuck, free


def _cheapest(joined: Overlay, order: int, allowed: list[int], limit: int) -> list[BlockToFree]:
    if not limit:
        return []
    pages, facts = joined.memory.pages, joined.memory.pages.facts
    shift = order - facts.pageblock_order
    if shift >= 0:
        zone_of, merged = merge_blocks(block_table(joined), shift)
        whole = np.isin(zone_of, allowed)
        stuck, free = merged[:, Mobility.UNMOVABLE], merged[:, Mobility.FREE]
    else:
        whole, stuck, free = _small_blocks(joined, order, allowed)
    candidates = np.flatnonzero(whole & (free < 1 << order))
    ranked = candidates[np.lexsort((-free[candidates], stuck[candidates]))][:limit]
    result = []
    for block in ranked.tolist():
        first = int(pages.rows(np.array([block << order]))[0])
        rows = np.arange(first, min(first + (1 << order), len(pages)))
        in_way = rows[joined.mobility[rows] == Mobility.UNMOVABLE]
        found, counts = np.unique(owner_codes(joined, in_way), return_counts=True)
        owners = [
            (*owner_name(joined, code)[:2], count)
            for code, count in sorted(
                zip(found.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]
            )
        ]
        zone = facts.zones[int(pages["zone"][first])]
        result.append(
            BlockToFree(
                pfn=block << order,
                node=zone.node,
                zone=zone.name,
                free=int(free[block]),
                movable=(1 << order) - int(free[block]) - int(stuck[block]),
                unmovable=int(stuck[block]),
                owners=owners,
            )
        )
    return result
