# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pageblocks: the migratetype of every block of ``2^pageblock_order`` pages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from drgn import Program

from drgn_pageowner.kernel.dump.bulk import find_type, read_bulk, word_dtype
from drgn_pageowner.kernel.linux.sections import Section
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.kernel import Zone

__all__ = (
    "PageblockLayout",
    "pageblock_layout",
    "pageblock_types",
    "read_section_pageblocks",
    "read_shared_pageblocks",
)


class PageblockLayout:
    """How many bits a pageblock has and which of them are its migratetype."""

    def __init__(self, order: int, bits: int, migrate_mask: int, isolate_bit: int | None) -> None:
        self.order = order
        self.bits = bits
        self.migrate_mask = migrate_mask
        self.isolate_bit = isolate_bit
        self.isolate_type = -1

    def decode(self, bitmap: Array, blocks: int) -> Array:
        """
        :param bitmap: ``pageblock_flags``: ``unsigned long``, little-endian.
        :return: ``int8``, shape ``(blocks,)``: migratetype of every pageblock.
        """
        bits = np.unpackbits(bitmap.view(np.uint8), bitorder="little")
        fields = bits[: blocks * self.bits].reshape(blocks, self.bits)
        weights = np.int8(1) << np.arange(self.bits, dtype=np.int8)
        weights &= np.int8(self.migrate_mask)
        types = (fields * weights).sum(axis=1, dtype=np.int8)
        if self.isolate_bit is not None:
            types[fields[:, self.isolate_bit] != 0] = self.isolate_type
        result: Array = types
        return result


def pageblock_layout(prog: Program, order: int) -> PageblockLayout:
    """
    :param order: ``pageblock_order``.
    """
    type_ = find_type(prog, "enum pageblock_bits")
    enumerators = type_.enumerators if type_ is not None else None
    bits = {e.name: e.value for e in enumerators or ()}
    if "PB_migrate_isolate" in bits or "__NR_PAGEBLOCK_BITS" in bits:
        # Linux kernel v6.17 split the bits: one for each bit of the migratetype, and one of its
        # own for isolation; NR_PAGEBLOCK_BITS is the next power of two.
        number = bits["__NR_PAGEBLOCK_BITS"]
        layout = PageblockLayout(
            order, 1 << (number - 1).bit_length(), 0b111, bits.get("PB_migrate_isolate")
        )
        isolate = find_type(prog, "enum migratetype")
        for enumerator in (isolate.enumerators or ()) if isolate is not None else ():
            if enumerator.name == "MIGRATE_ISOLATE":
                layout.isolate_type = enumerator.value
        return layout
    migrate_end = bits.get("PB_migrate_end", 2)
    return PageblockLayout(
        order, bits.get("NR_PAGEBLOCK_BITS", 4), (1 << (migrate_end + 1)) - 1, None
    )


def read_section_pageblocks(
    prog: Program, section: Section, layout: PageblockLayout, zones: Sequence[Zone]
) -> Array:
    """
    :param zones: Where the bitmaps are on FLATMEM.
    :return: ``int8``, shape ``(pageblocks of the section,)``: those from the pageblock of
        ``section.start_pfn`` on; -1 where it cannot be read. Of one that zones share, the first
        zone's (:func:`read_shared_pageblocks` has the others').
    """
    start = section.start_pfn >> layout.order
    blocks = ((section.end_pfn - 1) >> layout.order) + 1 - start
    if section.pageblock_flags:
        return _read_bitmap(prog, section.pageblock_flags, 0, blocks, layout)
    types = np.full(blocks, -1, np.int8)
    # FLATMEM: a bitmap for each zone, which begins with the pageblock that the zone is in.
    for zone in sorted(zones, key=lambda zone: -zone.start_pfn):
        first = zone.start_pfn >> layout.order
        last = ((zone.start_pfn + zone.spanned - 1) >> layout.order) + 1
        low, high = max(first, start), min(last, start + blocks)
        if zone.pageblock_flags and low < high:
            types[low - start : high - start] = _read_bitmap(
                prog, zone.pageblock_flags, low - first, high - low, layout
            )
    return types


def read_shared_pageblocks(
    prog: Program, layout: PageblockLayout, zones: Sequence[Zone]
) -> tuple[tuple[int, int, int], ...]:
    """
    What a pageblock is to the zone that begins in the middle of it: on FLATMEM that has its own.

    :return: ``(index in zones, pageblock, migratetype)`` of each such pageblock
    """
    found = []
    for number, zone in enumerate(zones):
        if zone.pageblock_flags and zone.start_pfn & (1 << layout.order) - 1:
            [migratetype] = _read_bitmap(prog, zone.pageblock_flags, 0, 1, layout)
            found.append((number, zone.start_pfn >> layout.order, int(migratetype)))
    return tuple(found)


def pageblock_types(
    prog: Program, section: Section, layout: PageblockLayout, zones: Sequence[Zone], pfns: Array
) -> Array:
    """
    The migratetypes of the pageblocks that pages of a section are in, to their zones.

    :param pfns: ``int64``, shape ``(n,)``.
    :return: ``int8``, shape ``(n,)``; -1 where it cannot be read.
    """
    blocks = pfns >> layout.order
    types = read_section_pageblocks(prog, section, layout, zones)
    result: Array = types[blocks - (section.start_pfn >> layout.order)]
    if not section.pageblock_flags:
        for number, block, migratetype in read_shared_pageblocks(prog, layout, zones):
            result[(blocks == block) & (pfns >= zones[number].start_pfn)] = migratetype
    return result


def _read_bitmap(
    prog: Program, address: int, first: int, blocks: int, layout: PageblockLayout
) -> Array:
    """The migratetypes of *blocks* pageblocks from number *first* of the bitmap at *address*."""
    word = word_dtype(prog)
    size = -(-(first + blocks) * layout.bits // (8 * word.itemsize)) * word.itemsize
    bulk = read_bulk(prog, address, size)
    words = np.frombuffer(bulk.data, word).astype(word.newbyteorder("<"), copy=False)
    types = layout.decode(words, first + blocks)
    for offset, length in bulk.missing:
        types[offset * 8 // layout.bits : -(-(offset + length) * 8 // layout.bits)] = -1
    return types[first:]
