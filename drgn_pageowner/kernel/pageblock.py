"""Pageblocks: the migratetype of every block of ``2^pageblock_order`` pages."""

from __future__ import annotations

import numpy as np
from drgn import Program

from drgn_pageowner.kernel.memory import find_type, read_bulk, word_dtype
from drgn_pageowner.kernel.sections import Section
from drgn_pageowner.snapshot import Array

__all__ = ("PageblockLayout", "pageblock_layout", "read_section_pageblocks")


class PageblockLayout:
    """How many bits a pageblock has and which of them are its migratetype."""

    def __init__(self, order: int, bits: int, migrate_mask: int, isolate_bit: int | None) -> None:
        self.order = order
        self.bits = bits
        self.migrate_mask = migrate_mask
        self.isolate_bit = isolate_bit
        self.isolate_type = -1

    def decode(self, bitmap: bytes | bytearray, blocks: int) -> Array:
        """
        :param bitmap: ``pageblock_flags``, as words in memory (little-endian).
        :return: ``int8``, shape ``(blocks,)``: migratetype of every pageblock.
        """
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
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


def read_section_pageblocks(prog: Program, section: Section, layout: PageblockLayout) -> Array:
    """
    :return: ``int8``, shape ``(pageblocks of the section,)``; -1 where it cannot be read.
    """
    blocks = (section.end_pfn - section.start_pfn + (1 << layout.order) - 1) >> layout.order
    if not section.pageblock_flags:
        return np.full(blocks, -1, np.int8)
    word = word_dtype(prog).itemsize
    size = -(-blocks * layout.bits // (8 * word)) * word
    bulk = read_bulk(prog, section.pageblock_flags, size)
    types = layout.decode(bulk.data, blocks)
    for offset, length in bulk.missing:
        types[offset * 8 // layout.bits : -(-(offset + length) * 8 // layout.bits)] = -1
    return types
