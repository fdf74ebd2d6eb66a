# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the heap nodes that words of memory point to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.sections import find_sections, memmap_pfns
from drgn_pageowner.kernel.linux.translate import direct_map, direct_map_end
from drgn_pageowner.kernel.read.percpu import PerCpuNodes
from drgn_pageowner.kernel.read.places import AllocationPages
from drgn_pageowner.model.arrays import Array, ranges, sparse_zeros
from drgn_pageowner.model.heap import Area, Slabs
from drgn_pageowner.model.pages import Pages

__all__ = ("Resolver", "objects_at")


def objects_at(slabs: Slabs, slab: Array, offset: Array, *, inside: bool) -> Array:
    """
    Find the objects at offsets of slabs.

    :param slab: ``int64``, shape ``(n,)``: index of the slab; -1 for no slab.
    :param offset: Shape ``(n,)``: offset in the slab, in bytes.
    :param inside: Whether the offset must be in the object itself, not in SLUB's metadata after
        the object.
    :return: ``int64``, shape ``(n,)``: index of the object; -1 if no object is at that offset.
    """
    relative = offset - slabs.first[slab]
    number = relative // slabs.stride[slab]
    good = (slab >= 0) & (relative >= 0) & (number < slabs.objects[slab])
    if inside:
        good &= relative - number * slabs.stride[slab] < slabs.size[slab]
    result: Array = np.where(good, slabs.start[slab] + number, -1)
    return result


class Resolver:
    """Map from addresses to the nodes of a heap."""

    def __init__(
        self,
        kernel: Kernel,
        pages: Pages,
        slabs: Slabs,
        record_of_row: Array,
        areas: Sequence[Area],
        first_object: int,
    ) -> None:
        """
        :param record_of_row: Record that covers each page; -1 for free pages and for pages without
            a record.
        :param first_object: Node of slab object 0; the nodes before it are records.
        """
        self._pages = pages
        self._kernel = kernel
        self._slabs = slabs
        self._records = record_of_row
        self.first_object = first_object
        self.allocations: AllocationPages | None = None
        """The pages of every allocation, in order. Set by :class:`HeapReader` after
        construction."""
        self.percpu: PerCpuNodes | None = None
        """The allocations of per-CPU memory. Set by :class:`HeapReader` after construction."""
        self._shift = np.uint64(pages.facts.page_size.bit_length() - 1)
        self._direct = direct_map(kernel)
        self._end = direct_map_end(kernel)
        sections, struct_page = find_sections(kernel), kernel.struct_page_size
        self._memmap = (
            min((section.memmap for section in sections), default=0),
            max(
                (
                    section.memmap + (section.end_pfn - section.start_pfn) * struct_page
                    for section in sections
                ),
                default=0,
            ),
        )
        in_order = sorted(areas, key=lambda area: area.start)
        self._starts = np.array([area.start for area in in_order], np.uint64)
        self._sizes = np.array([area.size for area in in_order], np.uint64)
        counts = np.array([len(area.rows) for area in in_order], np.int64)
        self._area_rows = np.concatenate([area.rows for area in in_order] or [np.zeros(0, int)])
        self._area_first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        lowest = [self._direct, self._memmap[0], *self._starts[:1].tolist()]
        self.lowest = np.uint64(min(address for address in lowest if address))
        """The lowest address that a pointer can have."""
        # Stored plus 1, so that pages that are part of no slab have 0.
        self._slab_of_row = sparse_zeros(len(pages), np.int32)
        number = np.repeat(np.arange(len(slabs.row), dtype=np.int32), slabs.pages)
        rows = ranges(slabs.row, slabs.pages)
        inside = rows < len(pages)
        self._slab_of_row[rows[inside]] = number[inside] + 1

    def slab_at(self, rows: Array) -> Array:
        """Return the index of the slab that each page is part of: ``int64``; -1 for none."""
        return self._slab_of_row[rows].astype(np.int64) - 1

    def rows(self, words: Array) -> tuple[Array, Array]:
        """
        Find the pages that words point to, directly or by their ``struct page``.

        :param words: ``uint64``, shape ``(n,)``.
        :return: Row of the page (``int64``), or -1; and whether the word points to the
            ``struct page`` (``bool``).
        """
        rows = np.full(len(words), -1, np.int64)
        direct = np.flatnonzero((words >= np.uint64(self._direct)) & (words < np.uint64(self._end)))
        pfns = ((words[direct] - np.uint64(self._direct)) >> self._shift).astype(np.int64)
        rows[direct] = self._pages.rows(pfns)
        if len(self._starts):
            mapped = np.flatnonzero(
                (words >= self._starts[0]) & (words < self._starts[-1] + self._sizes[-1])
            )
            area = np.searchsorted(self._starts, words[mapped], "right") - 1
            offset = words[mapped] - self._starts[area]
            inside = offset < self._sizes[area]
            mapped, area, offset = mapped[inside], area[inside], offset[inside]
            place = self._area_first[area] + (offset >> self._shift).astype(np.int64)
            rows[mapped] = self._area_rows[np.minimum(place, self._area_first[area + 1] - 1)]
        # Without a vmemmap, the memmaps are in the direct map or in vmalloc areas.
        low, high = self._memmap
        pointers = np.flatnonzero((words >= np.uint64(low)) & (words < np.uint64(high)))
        pfns = memmap_pfns(self._kernel, words[pointers])
        pointers, pfns = pointers[pfns >= 0], pfns[pfns >= 0]
        rows[pointers] = self._pages.rows(pfns)
        of_page = np.zeros(len(words), bool)
        of_page[pointers] = True
        return rows, of_page

    def is_struct_page(self, address: int) -> bool:
        """Return whether *address* is in a memmap."""
        return self.pfn_of_struct_page(address) >= 0

    def pfn_of_struct_page(self, address: int) -> int:
        """Get the PFN whose ``struct page`` *address* is in; -1 if there is none."""
        words = np.array([address], np.uint64)
        return int(memmap_pfns(self._kernel, words)[0])

    def targets(self, words: Array) -> Array:
        """
        Find the node that each word points to: a record, a slab object (possibly free), per-CPU
        memory, or -1.

        :param words: ``uint64``, shape ``(n,)``.
        """
        return self.targets_at(words)[0]

    def targets_at(self, words: Array) -> tuple[Array, Array]:
        """
        Find the node that each word points to, as :meth:`targets` does, and the offset in it.

        :return: The node; and the offset in its allocation, in bytes, or -1 for a pointer to the
            ``struct page``: ``int64``.
        """
        rows, of_page = self.rows(words)
        known = rows >= 0
        result = np.where(known, self._records[rows], -1).astype(np.int64)
        slab = np.where(known, self.slab_at(rows), -1)
        in_slab = np.flatnonzero((slab >= 0) & ~of_page)
        in_page = (words & ((np.uint64(1) << self._shift) - np.uint64(1))).astype(np.int64)
        at = np.full(len(words), -1, np.int64)
        if self.allocations is not None:
            place = np.flatnonzero((result >= 0) & ~of_page)
            page = self.allocations.page_of_row[rows[place]].astype(np.int64)
            at[place] = page * self._pages.facts.page_size + in_page[place]
        # Only the slab's cache has pointers to the struct page of a slab, so these are ignored.
        result[slab >= 0] = -1
        if len(in_slab):
            mine, slabs = slab[in_slab], self._slabs
            offset = (rows[in_slab] - slabs.row[mine]) * self._pages.facts.page_size
            offset += in_page[in_slab]
            objects = objects_at(slabs, mine, offset, inside=False)
            result[in_slab] = np.where(objects >= 0, objects + self.first_object, -1)
            at[in_slab] = (offset - slabs.first[mine]) % slabs.stride[mine]
        if self.percpu is not None:
            in_chunk = np.flatnonzero(known & self.percpu.has(rows) & ~of_page)
            if len(in_chunk):
                mine, offset = rows[in_chunk], in_page[in_chunk]
                result[in_chunk] = self.percpu.at(mine, offset, -1)
                at[in_chunk] = self.percpu.inside(mine, offset, result[in_chunk])
        return result, at
