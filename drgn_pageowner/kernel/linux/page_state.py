# SPDX-License-Identifier: LGPL-2.1-or-later
"""Determine the use of every page from its ``struct page``, a section at a time."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.kernel.dump.bulk import struct_dtype
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.compound import CompoundPages, hugetlb_mark
from drgn_pageowner.kernel.linux.mapping import MAPPING_ANON, MAPPING_FLAGS, MAPPING_MOVABLE
from drgn_pageowner.kernel.linux.names import read_names
from drgn_pageowner.kernel.linux.page import compound_words, page_dtype
from drgn_pageowner.kernel.linux.page_type import page_types
from drgn_pageowner.kernel.linux.zones import find_zones, max_page_order
from drgn_pageowner.model.arrays import Array, equals
from drgn_pageowner.model.pages import PageState

__all__ = ("SectionPages", "StateDecoder")

_MEMBERS = ("flags", "compound_head", "refcount", "mapcount", "mapping", "private")

_STATE_OF_TYPE = {
    "buddy": PageState.FREE,
    "offline": PageState.OFFLINE,
    "table": PageState.TABLE,
    "guard": PageState.GUARD,
    "hugetlb": PageState.HUGETLB,
    "slab": PageState.SLAB,
    "zsmalloc": PageState.ZSMALLOC,
    "unaccepted": PageState.UNACCEPTED,
    "large_kmalloc": PageState.LARGE_KMALLOC,
    "netpp": PageState.NETPP,
}


class SectionPages:
    """Decoded pages of one section, with a row for each page."""

    def __init__(self, first: int, rows: Array) -> None:
        self.first = first
        """PFN of row 0."""
        self.rows = rows
        """The ``struct page`` of each page: dtype :attr:`StateDecoder.dtype`."""
        # Columns of their own: numbers that lie one after another take a fraction of the time.
        self.mapcount: Array = np.ascontiguousarray(rows["mapcount"])
        """``page._mapcount`` of each page, which is ``page.page_type``, too: ``int32``."""
        self.mapping: Array = np.ascontiguousarray(rows["mapping"])
        """``page.mapping`` of each page: ``uint64``, or ``uint32`` of a 32-bit kernel."""
        self.state = np.zeros(len(rows), np.uint8)
        """:class:`PageState` of each page: ``uint8``."""
        self.zone = np.zeros(len(rows), np.uint8)
        """Index of each page's zone in the result of ``find_zones()``: ``uint8``; 255 if the page
        is in none of them."""
        self.free_order = np.full(len(rows), -1, np.int8)
        """Order of the free block that begins with the page: ``int8``; -1 for other pages."""
        self.tails = np.zeros(0, np.int64)
        """Rows of the tail pages of compound pages, ascending."""
        self.heads = np.zeros(0, np.int64)
        """Row of the head of each page in :attr:`tails`; negative if the head is in an earlier
        section."""
        self.candidates = np.zeros(0, np.int64)
        """Rows of pages that may be on a free list: first pages of buddy blocks, and pages with a
        reference count of 0."""
        self.next = np.zeros(0, np.uint64)
        """``page.lru.next`` of the pages in :attr:`candidates`."""


class StateDecoder:
    """Determines the :class:`PageState` of pages from their ``struct page``."""

    def __init__(
        self,
        kernel: Kernel,
    ) -> None:
        self._kernel = kernel
        self._types = page_types(kernel)
        self._compound = CompoundPages(kernel)
        self._max_order = max_page_order(kernel)
        self._page_size = np.uint64(kernel.page_size)
        names = read_names(kernel)
        self._flags = {name: np.uint64(mask) for mask, name in reversed(names.page_flags)}
        self._fields = {field.name: field for field in names.page_flag_fields}
        self._mark = hugetlb_mark(kernel)
        self.dtype = self._dtype(kernel)
        self._zone_index = np.full(1 << 16, 255, np.uint8)
        for index, zone in enumerate(find_zones(kernel, [])):
            self._zone_index[zone.node << 3 | zone.type] = index
        table = np.full(len(self._types.names), PageState.KERNEL, np.uint8)
        for number, name in enumerate(self._types.names):
            table[number] = _STATE_OF_TYPE.get(name, PageState.KERNEL)
        self._state_of_type = table

    def _dtype(self, kernel: Kernel) -> np.dtype[np.void]:
        base = page_dtype(kernel, _MEMBERS)
        fields = dict(base.fields or {})
        lru = struct_dtype(kernel.prog, kernel.prog.type("struct page"), {"next": "lru.next"})
        fields.update(dict(lru.fields or {}))
        if self._mark is not None:
            fields.update(dict(self._mark.dtype.fields or {}))
        return np.dtype(
            {
                "names": list(fields),
                "formats": [field[0] for field in fields.values()],
                "offsets": [field[1] for field in fields.values()],
                "itemsize": base.itemsize,
            }
        )

    def _mask(self, *names: str) -> np.uint64:
        mask = np.uint64(0)
        for name in names:
            mask |= self._flags.get(name, np.uint64(0))
        return mask

    def _has(self, flags: Array, *names: str) -> Array:
        result: Array = (flags & self._mask(*names)) != 0
        return result

    def decode(self, first: int, rows: Array) -> SectionPages:
        """
        Decode the pages of one section.

        :param first: PFN of the first page.
        :param rows: ``struct page`` of each page of the section: an array of :attr:`dtype`.
        """
        result = SectionPages(first, rows)
        flags = rows["flags"].astype(np.uint64)
        types = self._types.of(result.mapcount)
        references = np.ascontiguousarray(rows["refcount"])
        words = np.ascontiguousarray(compound_words(self._kernel, rows))
        tail = (words & np.uint64(1)).astype(bool)
        untyped = types == 0
        state = result.state

        state[:] = PageState.KERNEL
        np.putmask(state, references == 0, PageState.NOREF)
        self._mapped(result.mapping, flags, untyped & (references > 0) & ~tail, state)
        if self._mask("slab"):
            np.putmask(state, self._has(flags, "slab"), PageState.SLAB)
        np.putmask(state, self._has(flags, "reserved") & untyped, PageState.RESERVED)
        typed = np.flatnonzero(types)
        state[typed] = self._state_of_type[types[typed]]
        if self._mark is not None:
            self._hugetlb(rows, flags, state)
        self._inherit(result, tail, words)
        self._zones(result, flags)
        self._free(result, types, tail)
        return result

    def _mapped(self, mapping: Array, flags: Array, plain: Array, state: Array) -> None:
        """
        Set the state of pages of processes and files, from ``page.mapping`` and the page flags.

        :param plain: Which pages have no page type, have references and are not tails: ``bool``.
        """
        # Look only at pages with a mapping or the lru flag. Most pages have neither, because they
        # are free or used by the kernel.
        where = np.flatnonzero(plain & ((mapping != 0) | self._has(flags, "lru")))
        mapping, flags = mapping[where], flags[where]
        kind = mapping & np.uint64(MAPPING_FLAGS)
        pointer = mapping > np.uint64(MAPPING_FLAGS)
        lru = self._has(flags, "lru")
        swapbacked = self._has(flags, "swapbacked")
        cached = lru | (pointer & (kind == 0) & self._has(flags, "uptodate", "locked", "private"))
        mine = state[where]
        mine[cached & ~swapbacked] = PageState.FILE
        mine[cached & swapbacked] = PageState.SHMEM
        mine[cached & swapbacked & ~pointer] = PageState.ANON
        mine[pointer & ((kind & np.uint64(MAPPING_ANON)) != 0)] = PageState.ANON
        mine[pointer & (kind == MAPPING_MOVABLE)] = PageState.DRIVER_MOVABLE
        state[where] = mine

    def _hugetlb(self, rows: Array, flags: Array, state: Array) -> None:
        """Set the state of hugetlb pages, on kernels that mark them in the second struct page."""
        assert self._mark is not None
        heads = np.flatnonzero(self._has(flags[:-1], "head"))
        marks = rows["mark"][heads + 1].astype(np.uint64)
        found = (marks & np.uint64(self._mark.mask)) == np.uint64(self._mark.value)
        state[heads[found]] = PageState.HUGETLB

    def _inherit(self, result: SectionPages, tail: Array, words: Array) -> None:
        """Give tail pages the state of their head, if the head is in the same section."""
        tails = np.flatnonzero(tail)
        if not len(tails):
            return
        heads = self._compound.heads(tails + result.first, words[tails]) - result.first
        result.tails, result.heads = tails, heads
        here = (heads >= 0) & (heads < len(result.state))
        result.state[tails[here]] = result.state[heads[here]]

    def _zones(self, result: SectionPages, flags: Array) -> None:
        fields = [self._fields[name] for name in ("zone", "node") if name in self._fields]
        mask = np.uint64(0)
        for field in fields:
            mask |= np.uint64((1 << field.width) - 1 << field.shift)
        # Nearly all sections are in one zone.
        if len(flags) and not ((flags ^ flags[0]) & mask).any():
            flags = flags[:1]
        key = np.zeros(len(flags), np.uint64)
        if "zone" in self._fields:
            key |= self._fields["zone"].of(flags)
        if "node" in self._fields:
            key |= self._fields["node"].of(flags) << np.uint64(3)
        result.zone[:] = self._zone_index[np.minimum(key, len(self._zone_index) - 1)]

    def _free(self, result: SectionPages, types: Array, tail: Array) -> None:
        """Set the state of pages in free blocks, and collect pages that may be on a free list."""
        rows = result.rows
        heads = np.flatnonzero(types == self._types.number("buddy"))
        order = np.minimum(rows["private"][heads], self._max_order).astype(np.int64)
        result.free_order[heads] = order
        # Every page of a free block is free.
        np.putmask(result.state, _inside(heads, heads + (1 << order), len(rows)), PageState.FREE)
        loose = np.flatnonzero(equals(result.state, PageState.NOREF) & ~tail)
        # Values less than the page size are errors or poison, not list pointers.
        loose = loose[rows["next"][loose] >= self._page_size]
        result.candidates = np.concatenate([heads, loose])
        result.next = rows["next"][result.candidates].astype(np.uint64)


def _inside(starts: Array, ends: Array, length: int) -> Array:
    """
    Return which of *length* rows are in any of some ranges: ``bool``.

    :param starts: ``int64``, ascending.
    :param ends: ``int64``: the row after each range, which may be beyond the last row.
    """
    ends = np.minimum(ends, length)
    # Mark the start of a range by +1, the row after its end by -1; the running sum is positive
    # inside.
    if (ends[:-1] <= starts[1:]).all():
        edges = np.zeros(length + 1, np.int8)
        edges[starts] = 1
        edges[ends] -= 1
        result: Array = np.cumsum(edges[:-1], dtype=np.int8, out=edges[:-1]).view(bool)
        return result
    # Only damaged blocks overlap.
    several = np.zeros(length + 1, np.int32)
    np.add.at(several, starts, 1)
    np.add.at(several, ends, -1)
    overlapping: Array = np.cumsum(several[:-1]) > 0
    return overlapping
