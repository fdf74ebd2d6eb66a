# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the migratetypes of pageblocks, which have ``2^pageblock_order`` pages."""

from __future__ import annotations

import numpy as np
from drgn import FaultError

from drgn_pageowner.kernel.dump.bulk import enumerators, read_bulk
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.sections import Section
from drgn_pageowner.kernel.linux.zones import find_zones, pageblock_order
from drgn_pageowner.model.arrays import Array

__all__ = ("pageblock_types", "read_section_pageblocks", "read_shared_pageblocks")


class _Layout:
    """Layout of the bits of a pageblock in the bitmap, some of which are its migratetype."""

    def __init__(
        self,
        order: int,
        bits: int,
        migrate_mask: int,
        isolate_bit: int | None = None,
        isolate_type: int = -1,
    ) -> None:
        """
        :param order: ``pageblock_order``.
        :param bits: Number of bits of a pageblock.
        :param migrate_mask: Mask of the bits that are the migratetype.
        :param isolate_bit: Number of the bit that marks an isolated pageblock; ``None`` if this
            kernel has no such bit.
        :param isolate_type: ``MIGRATE_ISOLATE``.
        """
        self.order = order
        self.bits = bits
        self.migrate_mask = migrate_mask
        self.isolate_bit = isolate_bit
        self.isolate_type = isolate_type

    def decode(self, bitmap: Array, blocks: int) -> Array:
        """
        Get the migratetypes of the first *blocks* pageblocks of a bitmap.

        :param bitmap: ``pageblock_flags``: ``unsigned long``, little-endian.
        :return: ``int8``, shape ``(blocks,)``.
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


@once
def _layout(kernel: Kernel) -> _Layout:
    order = pageblock_order(kernel)
    bits = enumerators(kernel.prog, "enum pageblock_bits")
    if "PB_migrate_isolate" in bits or "__NR_PAGEBLOCK_BITS" in bits:
        # Linux kernel commit e904bce2d9d4 ("mm/page_isolation: make page isolation a standalone
        # bit") (in v6.17): each bit of the migratetype has an enumerator; NR_PAGEBLOCK_BITS is the
        # next power of two.
        return _Layout(
            order,
            1 << (bits["__NR_PAGEBLOCK_BITS"] - 1).bit_length(),
            0b111,
            bits.get("PB_migrate_isolate"),
            enumerators(kernel.prog, "enum migratetype").get("MIGRATE_ISOLATE", -1),
        )
    migrate_end = bits.get("PB_migrate_end", 2)
    return _Layout(order, bits.get("NR_PAGEBLOCK_BITS", 4), (1 << (migrate_end + 1)) - 1)


def read_section_pageblocks(kernel: Kernel, section: Section) -> Array:
    """
    Read the migratetypes of a section's pageblocks.

    :return: ``int8``, a row per pageblock, from the pageblock of ``section.start_pfn`` on; -1 where
        the migratetype cannot be read. For a pageblock that two zones share, it is the migratetype
        for the first zone; :func:`read_shared_pageblocks` returns that for the second zone.
    """
    layout = _layout(kernel)
    start = section.start_pfn >> layout.order
    blocks = ((section.end_pfn - 1) >> layout.order) + 1 - start
    if section.pageblock_flags:
        return _read_bitmap(kernel, section.pageblock_flags, 0, blocks)
    types = np.full(blocks, -1, np.int8)
    # On FLATMEM, each zone has a bitmap, which begins with the pageblock that contains the zone's
    # first page.
    for zone in sorted(find_zones(kernel, []), key=lambda zone: -zone.start_pfn):
        first = zone.start_pfn >> layout.order
        last = ((zone.start_pfn + zone.spanned - 1) >> layout.order) + 1
        low, high = max(first, start), min(last, start + blocks)
        if zone.pageblock_flags and low < high:
            types[low - start : high - start] = _read_bitmap(
                kernel, zone.pageblock_flags, low - first, high - low
            )
    return types


def read_shared_pageblocks(kernel: Kernel) -> tuple[tuple[int, int, int], ...]:
    """
    Read the migratetypes of pageblocks in the middle of which a zone begins, for that zone.

    On FLATMEM, each zone has its own bitmap, so a pageblock that two zones share has two
    migratetypes.

    :return: Index of the zone in the result of ``find_zones()``, number of the pageblock (PFN
        divided by its size) and migratetype, for each such pageblock.
    """
    order = _layout(kernel).order
    found = []
    for number, zone in enumerate(find_zones(kernel, [])):
        if zone.pageblock_flags and zone.start_pfn & (1 << order) - 1:
            [migratetype] = _read_bitmap(kernel, zone.pageblock_flags, 0, 1)
            found.append((number, zone.start_pfn >> order, int(migratetype)))
    return tuple(found)


def pageblock_types(kernel: Kernel, section: Section, pfns: Array) -> Array:
    """
    Get the migratetype of each page's pageblock; if zones share the pageblock, for the page's zone.

    :param section: The section that contains all the pages.
    :param pfns: PFNs of the pages: ``int64``, shape ``(n,)``.
    :return: ``int8``, shape ``(n,)``; -1 where the migratetype cannot be read.
    """
    order = _layout(kernel).order
    blocks = pfns >> order
    types = read_section_pageblocks(kernel, section)
    result: Array = types[blocks - (section.start_pfn >> order)]
    if not section.pageblock_flags:
        zones = find_zones(kernel, [])
        for number, block, migratetype in read_shared_pageblocks(kernel):
            result[(blocks == block) & (pfns >= zones[number].start_pfn)] = migratetype
    return result


def _read_bitmap(kernel: Kernel, address: int, first: int, blocks: int) -> Array:
    """
    Read the migratetypes of some pageblocks from a bitmap.

    :param address: Virtual address of the bitmap.
    :param first: Index of the first pageblock in the bitmap.
    :param blocks: Number of pageblocks.
    :return: ``int8``, shape ``(blocks,)``; -1 where the bitmap cannot be read.
    """
    layout, word = _layout(kernel), kernel.word
    size = -(-(first + blocks) * layout.bits // (8 * word.itemsize)) * word.itemsize
    try:
        bulk = read_bulk(kernel.prog, address, size)
    except FaultError:
        # The pointer is not a valid address.
        return np.full(blocks, -1, np.int8)
    words = np.frombuffer(bulk.data, word).astype(word.newbyteorder("<"), copy=False)
    types = layout.decode(words, first + blocks)
    for offset, length in bulk.missing:
        types[offset * 8 // layout.bits : -(-(offset + length) * 8 // layout.bits)] = -1
    return types[first:]
