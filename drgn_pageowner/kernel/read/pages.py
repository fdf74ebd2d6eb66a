# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a :class:`~drgn_pageowner.model.pages.Memory`: every page and every free list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from drgn_pageowner.kernel.dump.bulk import find_object
from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.live import Changes, read_rows
from drgn_pageowner.kernel.dump.parallel import in_order, shared_empty
from drgn_pageowner.kernel.linux.cma import read_cma_areas
from drgn_pageowner.kernel.linux.formats import extfrag_format
from drgn_pageowner.kernel.linux.free_lists import lists_of
from drgn_pageowner.kernel.linux.ioport import system_ram
from drgn_pageowner.kernel.linux.kfence import find_kfence
from drgn_pageowner.kernel.linux.names import read_names
from drgn_pageowner.kernel.linux.page_state import SectionPages, StateDecoder
from drgn_pageowner.kernel.linux.pageblock import (
    read_section_pageblocks,
    read_shared_pageblocks,
)
from drgn_pageowner.kernel.linux.sections import Section
from drgn_pageowner.kernel.linux.translate import direct_phys
from drgn_pageowner.kernel.linux.zone_stats import (
    free_list_heads,
    read_zone_stats,
    read_zonelists,
)
from drgn_pageowner.kernel.read.covered import sections_with_rows
from drgn_pageowner.kernel.read.kernel import read_facts
from drgn_pageowner.model.arrays import Array, among, frequencies, ranges, slices, sums
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.packed import Packed, Packing
from drgn_pageowner.model.pages import (
    DUMPED_STATES,
    HEAD_COLUMNS,
    FreeLists,
    Heads,
    Memory,
    Pages,
    PageState,
    row_type,
)
from drgn_pageowner.model.threads import in_threads
from drgn_pageowner.progress import progress

__all__ = ("PageReader", "read_all_pages")


_DTYPES: dict[str, type[np.generic]] = {
    "state": np.uint8,
    "zone": np.uint8,
    "free_order": np.int8,
    "flags": np.uint64,
    "refcount": np.int32,
    "mapcount": np.int32,
    "mapping": np.uint64,
    "head": np.int32,
}


_AFTER_ALL = 1 << 62
"""A PFN after all others."""

# Values of absent pages in columns where 0 would mean something else.
_NOTHING = {"state": PageState.ABSENT, "zone": 255, "free_order": -1, "mapcount": -1}


def read_all_pages(
    kernel: Kernel, *, columns: Iterable[str] = (), packing: Packing | None = None
) -> Memory:
    """
    Read every ``struct page`` and every free list.

    :param columns: Columns of :class:`Pages` to read besides ``state``, ``zone`` and
        ``free_order``: any of ``flags``, ``refcount``, ``mapcount``, ``mapping`` and ``head``.
    :param packing: Compresses ``flags``, ``refcount`` and ``mapping``, which are
        :class:`~drgn_pageowner.model.packed.Packed` then; and ``head`` is
        :class:`~drgn_pageowner.model.pages.Heads`.
    :raises PageOwnerError: if ``mem_section`` is not in the dump
    """
    return PageReader(kernel, columns, packing=packing).read()


@dataclass
class _SectionFound:
    """What is known about a section besides the columns of its pages."""

    changes: Changes
    """The numbers of struct pages that a running kernel changed."""
    missing: int = 0
    """Number of pages whose ``struct page`` is not in the dump."""
    across: list[tuple[Array, Array]] = field(default_factory=list)
    """PFNs of tail pages and of their heads, which are in other sections."""
    candidates: list[tuple[Array, Array, Array]] = field(default_factory=list)
    """PFN, ``page.lru.next`` and order of pages that may be on a free list."""
    pageblocks: Array = field(default_factory=lambda: np.zeros(0, np.int8))
    """Migratetypes of the pageblocks."""
    tails: list[tuple[Array, Array]] = field(default_factory=list)
    """Rows of tail pages and of their heads, if these are kept instead of the column ``head``."""
    files: list[tuple[Array, Array]] = field(default_factory=list)
    """Mappings of files that have pages, and the number of pages of each."""
    buffers: list[Array] = field(default_factory=list)
    """Rows of pages of block devices."""
    packed: dict[str, list[tuple[bytes, int]]] = field(default_factory=dict)
    """Columns that are compressed: results of :meth:`Packed.blocks`."""


class PageReader:
    """Reader of every ``struct page`` that may also count the pages of files."""

    def __init__(
        self,
        kernel: Kernel,
        columns: Iterable[str] = (),
        *,
        devices: Array | None = None,
        narrow: bool = False,
        packing: Packing | None = None,
    ) -> None:
        """
        :param columns: See :func:`read_all_pages`.
        :param devices: Mappings of block devices: ``uint64``, ascending. If they are given, the
            pages of files and of block devices are found, too.
        :param narrow: Whether to keep less of the pages: not ``free_order``, ``mapcount`` only as
            -1 or 0 (``int8``), and ``head`` as :class:`~drgn_pageowner.model.pages.Heads`.
        :param packing: See :func:`read_all_pages`.
        """
        self._kernel, self._packing = kernel, packing
        # Whether the column head is of the type Heads.
        self._few_tails = narrow or packing is not None
        self._wanted = frozenset(columns)
        self._devices, self._narrow = devices, narrow
        self._files: list[tuple[Array, Array]] = []
        self._buffers: list[Array] = []
        self._tails: list[tuple[Array, Array]] = []
        self._facts: Facts = read_facts(kernel)
        self._decoder = StateDecoder(kernel)
        self._columns: dict[str, Array] = {}
        self._packed: dict[str, Packed] = {}
        self._missing = 0
        self._changes = Changes()
        self._across: list[tuple[Array, Array]] = []
        self._candidates: list[tuple[Array, Array, Array]] = []

    def read(self, then: Callable[[], None] = lambda: None) -> Memory:
        """
        Return the pages and free lists.

        :param then: Called when the memmaps were read. What is left to do takes long, but one CPU
            only.
        :raises PageOwnerError: if ``mem_section`` is not in the dump
        """
        facts, problems = self._facts, list(self._facts.problems)
        blocks = np.full((facts.max_pfn >> facts.pageblock_order) + 1, -1, np.int8)
        places = sections_with_rows(self._kernel, facts.max_pfn)
        sections = [section for section, _, _ in places]
        starts = [section.start_pfn for section in sections]
        lengths = [end - first for _, first, end in places]
        number = sum(lengths)
        size = number * self._decoder.dtype.itemsize
        self._make_columns(number, size)
        results = in_order(self._kernel, self._section, places, size=size)
        results = progress(results, description="memmap", total=len(places), unit=" section")
        for section, found in zip(sections, results, strict=True):
            self._missing += found.missing
            for name, blocks_of_column in found.packed.items():
                self._packed[name].add(blocks_of_column)
            self._changes.add(found.changes)
            self._across += found.across
            self._candidates += found.candidates
            self._tails += found.tails
            self._files += found.files
            self._buffers += found.buffers
            types = found.pageblocks
            first = section.start_pfn >> facts.pageblock_order
            kept = min(len(types), len(blocks) - first)
            known = types[:kept] >= 0
            blocks[first : first + kept][known] = types[:kept][known]
        then()
        pages = self._pages(starts, lengths)
        if self._missing:
            problems.append(
                f"{self._missing} of {len(pages)} pages have no readable struct page: "
                "what they are used for is unknown"
            )
        problems += self._changes.problems("struct pages")
        self._note_missing(pages)
        free = self._free_lists(pages)
        threshold = find_object(self._kernel.prog, "sysctl_extfrag_threshold")
        # Added in Linux kernel commit e3aa7df331bc ("mm: page_alloc: defrag_mode") (in v6.15).
        defrag = find_object(self._kernel.prog, "defrag_mode", "mm/page_alloc.c")
        zones = read_zone_stats(self._kernel)
        return Memory(
            pages=pages,
            free=free,
            zones=zones,
            pageblocks=blocks,
            shared_pageblocks=read_shared_pageblocks(self._kernel),
            cma=read_cma_areas(self._kernel, problems),
            zonelists=read_zonelists(self._kernel),
            extfrag_threshold=500 if threshold is None else int(threshold),
            defrag_mode=defrag is not None and bool(defrag),
            extfrag_format=extfrag_format(self._kernel),
            problems=self._kernel.problems(problems),
        )

    def files(self) -> tuple[Array, Array]:
        """
        Return the mappings of files that have pages in the page cache: ``uint64``, ascending, and
        the number of pages of each: ``int64``.
        """
        if not self._files:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        every = np.concatenate([mapping for mapping, _ in self._files]).astype(np.uint64)
        found, which = np.unique(every, return_inverse=True)
        pages = np.concatenate([number for _, number in self._files])
        return found, sums(which, pages, len(found))

    def buffers(self) -> Array:
        """Return the rows of pages in the page cache of block devices: ``int64``."""
        return np.concatenate([np.zeros(0, np.int64), *self._buffers])

    def _note_missing(self, pages: Pages) -> None:
        """
        Report pages that are missing from the dump although no dump level excludes them.

        A makedumpfile that is older than the kernel may misinterpret struct pages. Version 1.7.2,
        for example, treats pages that have a page type as user memory if the kernel has Linux
        kernel commit 4ffca5a96678 ("mm: support only one page_type per page") (in v6.12).
        """
        contents = self._kernel.contents
        if contents is None or not len(contents.excluded):
            return
        excluded = pages.within(contents.excluded)

        def count(rows: slice) -> Array:
            return frequencies(pages.state[rows][excluded[rows]], 256)

        of_state = np.zeros(256, np.int64)
        for part in in_threads(count, slices(len(pages))):
            of_state += part
        counts = {state: int(of_state[state]) for state in DUMPED_STATES}
        number = sum(counts.values())
        if not number:
            return
        kinds = ", ".join(f"{count:,} {state.label}" for state, count in counts.items() if count)
        self._kernel.gaps.append(
            f"{number:,} pages of kernel memory were left out of the dump, which no dump level "
            f"asks for ({kinds}): was it written by a makedumpfile that is older than this kernel?"
        )

    def _make_columns(self, rows: int, size: int) -> None:
        """
        Allocate the columns for all pages; sections fill in their parts.

        :param size: Number of bytes of the memmaps.
        """
        names = {"state", "zone", "free_order", *self._wanted}
        dtypes = {name: dtype for name, dtype in _DTYPES.items() if name in names}
        if self._narrow:
            narrow = {"mapcount": np.int8}
            dtypes = {
                name: narrow.get(name, dtype)
                for name, dtype in dtypes.items()
                if name != "free_order"
            }
        if self._few_tails:
            dtypes.pop("head", None)
        if "head" in dtypes:
            dtypes["head"] = row_type(rows)
        if self._packing is not None:
            packed = [name for name in HEAD_COLUMNS if name in dtypes]
            self._packed = {name: Packed(dtypes.pop(name), self._packing) for name in packed}
        self._columns = {
            name: shared_empty(self._kernel, rows, dtype, size=size)
            for name, dtype in dtypes.items()
        }

    def _section(self, place: tuple[Section, int, int]) -> _SectionFound:
        """
        Read a section, and fill in its part of the columns.

        :param place: The section, its first row, and the row after its last.
        """
        section, row, end = place
        found = _SectionFound(changes=Changes())
        if not section.online:
            self._not_online(end - row, row)
            for name, packed in self._packed.items():
                found.packed[name] = packed.blocks(np.zeros(end - row, packed.dtype))
            return found
        dtype = self._decoder.dtype
        rows, bulk = read_rows(self._kernel.prog, section.memmap, dtype, end - row, found.changes)
        decoded = self._decoder.decode(section.start_pfn, rows)
        for offset, size in bulk.missing:
            low, high = offset // dtype.itemsize, -(-(offset + size) // dtype.itemsize)
            decoded.state[low:high] = PageState.UNKNOWN
            decoded.zone[low:high] = 255
            found.missing += high - low
        self._keep(decoded, row, found)
        found.pageblocks = read_section_pageblocks(self._kernel, section)
        return found

    def _not_online(self, number: int, row: int) -> None:
        """Mark pages that the page allocator does not manage; their memmap is meaningless."""
        for name, column in self._columns.items():
            column[row : row + number] = _NOTHING.get(name, 0)
        if "head" in self._columns:
            self._columns["head"][row : row + number] = np.arange(row, row + number)

    def _keep(self, decoded: SectionPages, row: int, found: _SectionFound) -> None:
        """Copy the decoded section to the columns, from *row* on, and the rest to *found*."""
        number = len(decoded.state)
        columns = {name: column[row : row + number] for name, column in self._columns.items()}
        columns["state"][:] = decoded.state
        columns["zone"][:] = decoded.zone
        if "free_order" in columns:
            columns["free_order"][:] = decoded.free_order
        tails, heads = decoded.tails, decoded.heads
        outside = (heads < 0) | (heads >= number)
        if outside.any():
            found.across.append((tails[outside] + decoded.first, heads[outside] + decoded.first))
            tails, heads = tails[~outside], heads[~outside]
        if "head" in columns:
            columns["head"][:] = np.arange(row, row + number)
            columns["head"][tails] = heads + row
        elif len(tails):
            kind = row_type(row + number)
            found.tails.append(((tails + row).astype(kind), (heads + row).astype(kind)))
        for name in HEAD_COLUMNS:
            self._keep_of_heads(name, columns.get(name), decoded.rows[name], tails, heads, found)
        if "mapcount" in columns and self._narrow:
            np.negative((decoded.mapcount < 0).view(np.int8), out=columns["mapcount"])
        elif "mapcount" in columns:
            columns["mapcount"][:] = decoded.mapcount
        if self._devices is not None:
            self._find_files(decoded, Heads.of(number, tails, heads), row, found)
        found.candidates.append(
            (
                decoded.candidates + decoded.first,
                decoded.next,
                decoded.free_order[decoded.candidates],
            )
        )

    def _keep_of_heads(
        self,
        name: str,
        column: Array | None,
        rows: Array,
        tails: Array,
        heads: Array,
        found: _SectionFound,
    ) -> None:
        """
        Keep a column of :data:`HEAD_COLUMNS`, if it is wanted.

        :param column: The section's part of it; ``None`` if it is compressed or not wanted.
        :param rows: The member of each ``struct page``.
        """
        packed = self._packed.get(name)
        if packed is not None:
            column = np.empty(len(rows), packed.dtype)
        if column is None:
            return
        column[:] = rows
        column[tails] = rows[heads]
        if packed is not None:
            found.packed[name] = packed.blocks(column)

    def _find_files(
        self, decoded: SectionPages, head: Array, row: int, found: _SectionFound
    ) -> None:
        """
        Find the pages of files and block devices in a section.

        :param head: Row in the section of each page's head.
        """
        assert self._devices is not None
        cached = np.flatnonzero(among(decoded.state, (PageState.FILE, PageState.SHMEM)))
        if not len(cached):
            return
        # Only the first page of a large folio points to the file. Folios of files are smaller than
        # sections.
        heads = head[cached]
        mapping = decoded.mapping[heads]
        of_device = (decoded.state[cached] == PageState.FILE) & np.isin(mapping, self._devices)
        if of_device.any():
            found.buffers.append(cached[of_device] + row)
        mapping = decoded.mapping[head[heads]]
        pointers, counts = np.unique(mapping[mapping != 0], return_counts=True)
        found.files.append((pointers, counts))

    def _pages(self, starts: list[int], lengths: list[int]) -> Pages:
        columns = self._columns
        first, count = np.array(starts, np.int64), np.array(lengths, np.int64)
        # Merge adjacent sections, so that there are few ranges to search.
        begins = np.ones(len(first), bool)
        begins[1:] = first[1:] != first[:-1] + count[:-1]
        edges = np.concatenate([[0], np.cumsum(count)])
        pages = Pages(
            facts=self._facts,
            names=read_names(self._kernel),
            starts=first[begins],
            offsets=np.append(edges[:-1][begins], edges[-1]).astype(np.int64),
            columns=columns,
            missing=self._missing,
        )
        for tails, heads in self._across:
            # Gigantic pages: their heads are in earlier sections.
            rows, head_rows = pages.rows(tails), pages.rows(heads)
            known = head_rows >= 0
            kind = row_type(len(pages))
            self._tails.append((rows[known].astype(kind), head_rows[known].astype(kind)))
            for name in ("state", *HEAD_COLUMNS):
                if name in columns:
                    columns[name][rows[known]] = columns[name][head_rows[known]]
            for packed in self._packed.values():
                packed.change(rows[known], head_rows[known])
            if "head" in columns:
                columns["head"][rows[known]] = head_rows[known]
        if self._few_tails and "head" in self._wanted:
            columns["head"] = self._heads(len(pages))
        self._mark_holes(pages)
        self._mark_kfence(pages)
        columns |= {name: cast(Array, packed) for name, packed in self._packed.items()}
        return pages

    def _heads(self, number: int) -> Array:
        """
        Make the column ``head`` of the tails that were found.

        :param number: Number of pages.
        """
        kind = row_type(number)
        tails, heads = (
            np.concatenate([np.zeros(0, kind), *(part[index] for part in self._tails)])
            for index in range(2)
        )
        self._tails = []
        if not (tails[1:] > tails[:-1]).all():
            in_order = np.argsort(tails, kind="stable")
            tails, heads = tails[in_order], heads[in_order]
        return Heads.of(number, tails, heads)

    def _mark_kfence(self, pages: Pages) -> None:
        """
        Correct the state of pages in KFENCE's pool, which are marked as slabs without being slabs.
        """
        pool = find_kfence(self._kernel)
        if pool is None:
            return
        try:
            first = direct_phys(self._kernel, pool.start) // self._kernel.page_size
        except DAMAGE as error:
            unless_mistaken(error)
            return
        end = first + pool.size // self._kernel.page_size
        rows = pages.rows(np.arange(first, end, dtype=np.int64))
        rows = rows[rows >= 0]
        pages.state[rows[pages.state[rows] == PageState.SLAB]] = PageState.KERNEL

    def _mark_holes(self, pages: Pages) -> None:
        """Mark reserved pages as absent where the machine has no memory."""
        ram = system_ram(self._kernel)
        if not ram:
            return
        # What lies between ranges, and before the first and after the last.
        holes = np.array([0, *(end for _, end in ram)], np.int64)
        following = np.array([*(first for first, _ in ram), _AFTER_ALL], np.int64)
        rows = pages.first_rows(np.stack([holes, np.maximum(holes, following)]))
        for first, end in rows.T.tolist():
            hole = pages.state[first:end]
            np.putmask(hole, hole == PageState.RESERVED, PageState.ABSENT)

    def _free_lists(self, pages: Pages) -> FreeLists:
        pfns, links, orders = (
            np.concatenate([part[index] for part in self._candidates])
            if self._candidates
            else np.zeros(0, np.int64)
            for index in range(3)
        )
        heads = list(free_list_heads(self._kernel))
        lists = lists_of(self._kernel, heads, pfns, links.astype(np.uint64))
        table = np.array(
            [(h.zone, h.migratetype, h.order, int(h.pcp)) for h in heads] or [(0, 0, 0, 0)],
            np.int16,
        )
        of_list = table[lists]
        buddy = orders >= 0
        pcp = (lists >= 0) & ~buddy & (of_list[:, 3] != 0)
        # Pages of the buddy allocator count even if their list could not be followed.
        kept = np.flatnonzero(buddy | pcp)
        rows = pages.rows(pfns[kept])
        migratetype = np.where(lists[kept] >= 0, of_list[kept, 1], -1).astype(np.int8)
        order = np.where(pcp[kept], of_list[kept, 2], orders[kept]).astype(np.int8)
        in_order = np.argsort(rows)
        result = FreeLists(
            row=rows[in_order],
            order=order[in_order],
            zone=pages["zone"][rows[in_order]],
            migratetype=migratetype[in_order],
            pcp=pcp[kept][in_order],
        )
        cached = result.row[result.pcp]
        sizes = np.int64(1) << result.order[result.pcp].astype(np.int64)
        pages.state[np.minimum(ranges(cached, sizes), len(pages) - 1)] = PageState.FREE_PCP
        return result
