# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All pages of a machine as NumPy columns, and the free lists of its zones. Contains no drgn objects.

A :class:`Pages` has one row per base page that has a ``struct page``, in PFN order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from drgn_pageowner.model.arrays import Array, places_of
from drgn_pageowner.model.contents import PfnRanges
from drgn_pageowner.model.kernel import Facts, Names
from drgn_pageowner.model.kinds import Kind
from drgn_pageowner.units import pages_size

__all__ = (
    "DUMPED_STATES",
    "FREE_STATES",
    "HEAD_COLUMNS",
    "MOVABLE_STATES",
    "NO_ZONE",
    "CmaArea",
    "FreeLists",
    "Heads",
    "Memory",
    "PageState",
    "Pages",
    "ZoneStats",
    "row_type",
)


HEAD_COLUMNS = ("flags", "refcount", "mapping")
"""Columns that tail pages have from their heads. No other column is computed from them, so they may
be compressed."""

NO_ZONE = 255
"""Value of the column ``zone`` for a page that is in no zone."""


class PageState(Kind):
    """The use of a page, as its ``struct page`` says (values of :attr:`Pages.state`)."""

    UNKNOWN = 0, "unknown"
    """A page whose ``struct page`` is not in the dump."""
    ABSENT = 1, "absent"
    """A hole: a ``struct page`` without memory, or with memory that is offline (memory hotplug)."""
    FREE = 2, "free"
    """In the buddy allocator."""
    FREE_PCP = 3, "free (per-CPU)"
    """On a per-CPU list of free pages."""
    NOREF = 4, "no reference"
    """Reference count 0, but not on a free list: a tail page of an allocation without
    ``__GFP_COMP``, or a page that is being allocated or freed."""
    RESERVED = 5, "reserved"
    """Boot memory and firmware."""
    KERNEL = 6, "kernel"
    """Allocated by the kernel, for a use that is not marked in ``struct page``."""
    SLAB = 7, "slab"
    LARGE_KMALLOC = 8, "large kmalloc"
    """A large kmalloc allocation, on kernels that have a page type for it: v7.2 has one
    (``PGTY_large_kmalloc``), v6.12 has none. :data:`KERNEL` on others."""
    TABLE = 9, "page table"
    """A page table."""
    ANON = 10, "anonymous"
    FILE = 11, "page cache"
    """Page cache of a file, buffers of a block device included."""
    SHMEM = 12, "shmem"
    """Page cache of shmem and tmpfs."""
    HUGETLB = 13, "hugetlb"
    ZSMALLOC = 14, "zsmalloc"
    OFFLINE = 15, "offline"
    """In a balloon, or hot-unplugged."""
    GUARD = 16, "guard"
    UNACCEPTED = 17, "unaccepted"
    DRIVER_MOVABLE = 18, "movable (driver)"
    """A page that its driver can migrate: zsmalloc and balloon pages, on kernels that have no page
    type for them."""
    NETPP = 19, "page_pool"
    """A page of a page_pool, on kernels that have a page type for it."""


FREE_STATES = (PageState.FREE, PageState.FREE_PCP)
"""States of a page that is not allocated."""

MOVABLE_STATES = (
    PageState.ANON, PageState.FILE, PageState.SHMEM, PageState.HUGETLB, PageState.DRIVER_MOVABLE,
    PageState.ZSMALLOC,
)  # fmt: skip
"""States of a page that compaction can move, unless the page is pinned."""


DUMPED_STATES = (
    PageState.KERNEL, PageState.SLAB, PageState.LARGE_KMALLOC, PageState.TABLE,
)  # fmt: skip
"""States of pages that makedumpfile excludes at no dump level."""


def row_type(rows: int) -> type[np.signedinteger[Any]]:
    """Return the type of the column ``head`` if there are *rows* pages."""
    return np.int64 if rows > np.iinfo(np.int32).max else np.int32


class Heads:
    """
    The column ``head`` of pages of which few are tails.

    It takes indices, masks and slices like an array, and returns arrays.
    """

    def __init__(self, number: int, tails: Array, heads: Array) -> None:
        """
        :param number: Number of pages.
        :param tails: Rows of tail pages, ascending: integers, shape ``(n,)``.
        :param heads: Row of the head of each: the same type and shape.
        """
        self._number, self._tails, self._heads = number, tails, heads

    @classmethod
    def of(cls, number: int, tails: Array, heads: Array) -> Array:
        """
        Make a column; the arguments are those of :meth:`__init__`.

        :return: Something that can be used like an array; an array if that takes less memory.
        """
        if 2 * len(tails) <= number:
            return cast(Array, cls(number, tails, heads))
        column = np.arange(number, dtype=tails.dtype)
        column[tails] = heads
        return column

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._tails.dtype

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self._number)
            if step == 1:
                whole = np.arange(start, stop, dtype=self.dtype)
                low, high = places_of(self._tails, [start, max(start, stop)])
                whole[self._tails[low:high] - start] = self._heads[low:high]
                return whole
            rows = np.arange(start, stop, step)
        elif isinstance(rows, np.ndarray) and rows.dtype == bool:
            rows = np.flatnonzero(rows)
        result = np.array(rows, self.dtype)
        if not len(self._tails):
            return result
        place = np.minimum(places_of(self._tails, result), len(self._tails) - 1)
        found: Array = np.where(self._tails[place] == result, self._heads[place], result)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)


@dataclass
class Pages:
    """
    Table of all base pages that have a ``struct page``.

    ============= ========== ==================================================================
    column        dtype      meaning
    ============= ========== ==================================================================
    state         ``uint8``  :class:`PageState`
    zone          ``uint8``  index in ``facts.zones``; 255 if it is in no zone
    free_order    ``int8``   order of the free block that begins at the page, or -1
    flags         ``uint64`` ``page.flags``; for a tail page, that of its head page
    refcount      ``int32``  ``page._refcount``; for a tail page, that of its head page
    mapcount      ``int32``  ``page._mapcount``, as stored (one less than the number of mappings)
    mapping       ``uint64`` ``page.mapping``; for a tail page, that of its head page
    head          ``int32``  row of the head page; for a page that is not a tail, its own row;
                             ``int64`` from 2^31 pages on
    ============= ========== ==================================================================
    """

    facts: Facts
    names: Names
    starts: Array
    """``int64``, shape ``(ranges,)``: first PFN of each range of consecutive PFNs."""
    offsets: Array
    """``int64``, shape ``(ranges + 1,)``: range ``i`` is rows ``offsets[i]:offsets[i + 1]``."""
    columns: dict[str, Array]
    missing: int = 0
    """Pages whose ``struct page`` is not in the dump."""

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __repr__(self) -> str:
        size = pages_size(len(self) * self.facts.page_size)
        return f"<Pages: {len(self):,} ({size}); columns {', '.join(self.columns)}>"

    def __getitem__(self, column: str) -> Array:
        return self.columns[column]

    @property
    def state(self) -> Array:
        return self.columns["state"]

    def all_pfns(self) -> Array:
        """Return the PFN of every row: ``int64``, shape ``(n,)``."""
        result: Array = np.repeat(self.starts - self.offsets[:-1], np.diff(self.offsets))
        result += np.arange(len(self))
        return result

    def pfns(self, rows: Array) -> Array:
        """Return the PFN of each of *rows*: ``int64``."""
        which = np.searchsorted(self.offsets, rows, "right") - 1
        result: Array = self.starts[which] + rows - self.offsets[which]
        return result

    def rows(self, pfns: Array) -> Array:
        """Return the row of each of *pfns*: ``int64``; -1 where there is no ``struct page``."""
        if not len(self.starts):
            return np.full(len(pfns), -1, np.int64)
        if len(pfns):
            # Numbers next to each other are mostly in the same range.
            ends = np.array([pfns.min(), pfns.max()])
            first, last = np.searchsorted(self.starts, ends, "right") - 1
            low = int(self.offsets[max(first, 0)] - self.starts[max(first, 0)])
            if first == last >= 0 and int(ends[1]) + low < self.offsets[first + 1]:
                found: Array = pfns + np.int64(low)
                return found
        which = np.maximum(np.searchsorted(self.starts, pfns, "right") - 1, 0)
        row = self.offsets[which] + pfns - self.starts[which]
        inside = (pfns >= self.starts[which]) & (row < self.offsets[which + 1])
        result: Array = np.where(inside, row, -1)
        return result

    def within(self, pfns: PfnRanges) -> Array:
        """Return which pages are in a set of PFNs: ``bool``, shape ``(n,)``."""
        low, high = self.first_rows(pfns.start), self.first_rows(pfns.end)
        some = low < high
        # The running sum is 1 inside of the ranges, which do not overlap.
        edges = np.zeros(len(self) + 1, np.int8)
        edges[low[some]] += 1
        edges[high[some]] -= 1
        result: Array = np.cumsum(edges[:-1], dtype=np.int8, out=edges[:-1]).view(bool)
        return result

    def first_rows(self, pfns: Array) -> Array:
        """Return the first row whose PFN is not less than each of *pfns*: ``int64``."""
        if not len(self.starts):
            return np.zeros(np.shape(pfns), np.int64)
        which = np.searchsorted(self.starts, pfns, "right") - 1
        inside = np.maximum(which, 0)
        row = np.minimum(
            self.offsets[inside] + pfns - self.starts[inside], self.offsets[inside + 1]
        )
        result: Array = np.where(which >= 0, row, 0)
        return result


@dataclass(frozen=True)
class ZoneStats:
    """The page allocator's counters of one zone."""

    populated: bool
    """Whether ``present_pages`` is not 0."""
    nr_free: Sequence[int]
    """``free_area[order].nr_free``: number of free blocks of each order."""
    free_pages: int
    """``NR_FREE_PAGES``."""
    free_cma: int
    """``NR_FREE_CMA_PAGES``."""
    watermarks: Sequence[int]
    """The min, low and high watermark in base pages, including ``watermark_boost``."""
    watermark_boost: int
    nr_reserved_highatomic: int
    lowmem_reserve: Sequence[int]
    pcp: int
    """Number of pages on the per-CPU lists (the sum of ``per_cpu_pages.count``)."""
    vmstat: Mapping[str, int] = field(default_factory=dict)
    """``vm_stat`` with the per-CPU differences added."""


@dataclass
class FreeLists:
    """Table of all free blocks with the free list that each is on: one row per block."""

    row: Array
    """``int64``: row in :class:`Pages` of the block's first page."""
    order: Array
    """``int8``: order of the block."""
    zone: Array
    """``uint8``: index in ``facts.zones``."""
    migratetype: Array
    """``int8``: migratetype of the list; -1 if the block was not found on any list."""
    pcp: Array
    """``bool``: whether the list is a per-CPU list."""


@dataclass(frozen=True)
class CmaArea:
    """A ``struct cma``, or one of its ranges."""

    name: str
    start_pfn: int
    pages: int
    order_per_bit: int
    allocated: Array
    """``bool``, shape ``(pages,)``: whether the page was allocated by ``cma_alloc()``."""


@dataclass
class Memory:
    """The physical memory of a machine: pages, free lists, zones."""

    pages: Pages
    free: FreeLists
    zones: Sequence[ZoneStats]
    pageblocks: Array
    """``int8``, shape ``((max_pfn >> pageblock_order) + 1,)``: migratetype of each pageblock; -1 if
    the pageblock has none."""
    shared_pageblocks: Sequence[tuple[int, int, int]] = ()
    """
    ``(zone, pageblock, migratetype)`` for each zone that begins in the middle of a pageblock. On
    FLATMEM such a zone has its own migratetype for the pageblock, and :attr:`pageblocks` has the
    migratetype of the preceding zone.
    """
    cma: Sequence[CmaArea] = ()
    zonelists: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Zonelist of each node: indices in ``facts.zones``, in the order in which the page allocator
    falls back to them."""
    extfrag_threshold: int = 500
    """``sysctl_extfrag_threshold``: a fragmentation index above it says "fragmentation"."""
    defrag_mode: bool = False
    """``vm.defrag_mode``: whether an allocation may take a part of a pageblock of another type
    only if reclaim and compaction did not help. Added in Linux kernel commit e3aa7df331bc ("mm:
    page_alloc: defrag_mode") (in v6.15)."""
    extfrag_format: str = "%d.%03d "
    """The printf format of this kernel for the values in ``extfrag_index``."""
    problems: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        size = self.pages.facts.page_size
        populated = [zone for zone in self.zones if zone.populated]
        free = sum(zone.free_pages for zone in populated)
        return (
            f"<Memory: {len(self.pages):,} pages ({pages_size(len(self.pages) * size)}) in "
            f"{len(populated)} zones, {free:,} free ({pages_size(free * size)})>"
        )

    def block_types(self, blocks: Array, zones: Array | int) -> Array:
        """
        Return the migratetypes of pageblocks, as each zone sees them.

        :param blocks: Pageblock numbers.
        :param zones: Index in ``facts.zones``: one for all pageblocks, or one for each.
        :return: ``int8``, in the shape of *blocks*; -1 if the pageblock has no migratetype.
        """
        result: Array = self.pageblocks[blocks]
        for zone, block, migratetype in self.shared_pageblocks:
            result[(blocks == block) & (zones == zone)] = migratetype
        return result
