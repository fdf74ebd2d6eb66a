# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every page of a machine as columns, and the free lists of its zones. No drgn object survives.

A :class:`Pages` has one row per base page that has a ``struct page``, in PFN order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.kernel import Facts, Names
from drgn_pageowner.model.kinds import Kind

__all__ = (
    "DUMPED_STATES",
    "FREE_STATES",
    "MOVABLE_STATES",
    "NO_ZONE",
    "CmaArea",
    "FreeLists",
    "Memory",
    "PageState",
    "Pages",
    "ZoneStats",
)


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
    """No reference, on no free list: a tail of an allocation without ``__GFP_COMP``, or a page on
    its way from or to a list."""
    RESERVED = 5, "reserved"
    """Boot memory and firmware."""
    KERNEL = 6, "kernel"
    """Allocated by the kernel; ``struct page`` does not tell its use."""
    SLAB = 7, "slab"
    LARGE_KMALLOC = 8, "large kmalloc"
    """A large kmalloc allocation, on kernels that have a page type for it (since v6.14);
    :data:`KERNEL` on others."""
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
    """A page that a driver can migrate (zsmalloc and balloon of kernels without a type)."""
    NETPP = 19, "page_pool"
    """Of a page_pool, on kernels that have a page type for it."""


FREE_STATES = (PageState.FREE, PageState.FREE_PCP)
"""States of a page that is not allocated."""

MOVABLE_STATES = (
    PageState.ANON, PageState.FILE, PageState.SHMEM, PageState.HUGETLB, PageState.DRIVER_MOVABLE,
    PageState.ZSMALLOC,
)  # fmt: skip
"""States of a page that compaction can move, if nothing pins it."""


DUMPED_STATES = (
    PageState.KERNEL, PageState.SLAB, PageState.LARGE_KMALLOC, PageState.TABLE,
)  # fmt: skip
"""States of a page that no dump level leaves out."""


@dataclass
class Pages:
    """
    Every base page that has a ``struct page``.

    ============= ========== ==================================================================
    column        dtype      meaning
    ============= ========== ==================================================================
    state         ``uint8``  :class:`PageState`
    zone          ``uint8``  index in ``facts.zones``; 255 for none
    free_order    ``int8``   of the first page of a free block its order, else -1
    flags         ``uint64`` ``page.flags``, of a tail that of its compound head
    refcount      ``int32``  ``page._refcount``, of a tail that of its compound head
    mapcount      ``int32``  ``page._mapcount``, as it is
    mapping       ``uint64`` ``page.mapping``, of a tail that of its compound head
    head          ``int64``  row of the compound head; its own of a page that is not a tail
    ============= ========== ==================================================================
    """

    facts: Facts
    names: Names
    starts: Array
    """``int64``, shape ``(ranges,)``: first PFN of every contiguous range of rows."""
    offsets: Array
    """``int64``, shape ``(ranges + 1,)``: range ``i`` is rows ``offsets[i]:offsets[i + 1]``."""
    columns: dict[str, Array]
    missing: int = 0
    """Pages whose ``struct page`` is not in the dump."""

    def __len__(self) -> int:
        return int(self.offsets[-1])

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
        """Return the PFN of every one of *rows*: ``int64``."""
        which = np.searchsorted(self.offsets, rows, "right") - 1
        result: Array = self.starts[which] + rows - self.offsets[which]
        return result

    def rows(self, pfns: Array) -> Array:
        """Return the row of each of *pfns*: ``int64``; -1 where there is no ``struct page``."""
        if not len(self.starts):
            return np.full(len(pfns), -1, np.int64)
        which = np.maximum(np.searchsorted(self.starts, pfns, "right") - 1, 0)
        row = self.offsets[which] + pfns - self.starts[which]
        inside = (pfns >= self.starts[which]) & (row < self.offsets[which + 1])
        result: Array = np.where(inside, row, -1)
        return result


@dataclass(frozen=True)
class ZoneStats:
    """The page allocator's counters of one zone; in the order of ``facts.zones``."""

    populated: bool
    """``present_pages`` is not 0."""
    nr_free: Sequence[int]
    """``free_area[order].nr_free``: free blocks of every order."""
    free_pages: int
    """``NR_FREE_PAGES``."""
    free_cma: int
    """``NR_FREE_CMA_PAGES``."""
    watermarks: Sequence[int]
    """min, low, high, boost included."""
    watermark_boost: int
    nr_reserved_highatomic: int
    lowmem_reserve: Sequence[int]
    pcp: int
    """Pages on the per-CPU lists, by the counts of the lists."""
    vmstat: Mapping[str, int] = field(default_factory=dict)
    """``vm_stat`` with the per-CPU differences added."""


@dataclass
class FreeLists:
    """The free list of every free block: one row per block."""

    row: Array
    """``int64``: row in :class:`Pages` of the block's first page."""
    order: Array
    """``int8``."""
    zone: Array
    """``uint8``: index in ``facts.zones``."""
    migratetype: Array
    """``int8``: that of the list; -1 if the block is on none that could be followed."""
    pcp: Array
    """``bool``: on a per-CPU list."""


@dataclass(frozen=True)
class CmaArea:
    """A ``struct cma``, or one of its ranges."""

    name: str
    start_pfn: int
    pages: int
    order_per_bit: int
    allocated: Array
    """``bool``, shape ``(pages,)``: taken by ``cma_alloc()``."""


@dataclass
class Memory:
    """The physical memory of a machine: pages, free lists, zones."""

    pages: Pages
    free: FreeLists
    zones: Sequence[ZoneStats]
    pageblocks: Array
    """``int8``, shape ``(max_pfn >> pageblock_order + 1,)``: migratetype; -1 without one."""
    shared_pageblocks: Sequence[tuple[int, int, int]] = ()
    """
    ``(zone, pageblock, migratetype)`` of a zone that begins in the middle of a pageblock and has a
    migratetype of its own for it (FLATMEM); :attr:`pageblocks` has that of the zone before.
    """
    cma: Sequence[CmaArea] = ()
    zonelists: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Node -> indices in ``facts.zones``, in the order in which allocations fall back to them."""
    extfrag_threshold: int = 500
    """``sysctl_extfrag_threshold``: a fragmentation index above it says "fragmentation"."""
    defrag_mode: bool = False
    """``vm.defrag_mode``: whether an allocation may take a part of a pageblock of another type
    only if reclaim and compaction did not help. Added in Linux kernel commit e3aa7df331bc ("mm:
    page_alloc: defrag_mode") (in v6.15)."""
    extfrag_format: str = "%d.%03d "
    """The printf format of a number of ``extfrag_index`` in this kernel."""
    problems: list[str] = field(default_factory=list)

    def block_types(self, blocks: Array, zones: Array | int) -> Array:
        """
        Return the migratetypes of pageblocks, as each zone sees them.

        :param zones: Index in ``facts.zones``: one for all, or one for each.
        :return: ``int8``, in the shape of *blocks*; -1 without one.
        """
        result: Array = self.pageblocks[blocks]
        for zone, block, migratetype in self.shared_pageblocks:
            result[(blocks == block) & (zones == zone)] = migratetype
        return result
