# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walk page tables of any format: translate addresses, or find all tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from drgn import Program

from drgn_pageowner.kernel.dump.bulk import read_bulk
from drgn_pageowner.model.arrays import Array, ascending, slices

__all__ = ("Format", "PageTables", "TableEntry")

# Number of tables to read at a time if most of their entries are not needed.
_BATCH = 1024

# _PAGE_PRESENT on x86, PTE_VALID on arm64; it is the same bit in every format.
_PRESENT = 1 << 0


class Format(NamedTuple):
    """Format of an architecture's page tables. Tables of level 0 map single pages."""

    entry: np.dtype[Any]
    """Dtype of an entry."""
    page_shift: int
    """Binary logarithm of the page size."""
    bits: tuple[int, ...]
    """Number of address bits that index a table, for each level from 0 on."""
    address: int
    """Mask of the physical address in an entry."""
    large_mask: int
    """Mask of the bits of an entry above level 0 that tell whether it maps a large page."""
    large_value: int
    """Value of the bits :attr:`large_mask` in an entry that maps a large page."""
    lowest: int = 0
    """The lowest virtual address that the kernel's tables map."""

    def shift(self, level: int) -> int:
        """Get the number of the lowest address bit that indexes a table of *level*."""
        return self.page_shift + sum(self.bits[:level])

    def with_address_bits(self, number: int) -> Format:
        """Get the format of tables with the same entries that map addresses of *number* bits."""
        whole, rest = divmod(number - self.page_shift, self.bits[0])
        return self._replace(bits=(self.bits[0],) * whole + ((rest,) if rest else ()))


class TableEntry(NamedTuple):
    """An entry of a page table that maps a page."""

    root: int
    """Index of the address space among those that were searched."""
    address: int
    """Virtual address that the entry maps the page at."""
    place: int
    """Physical address of the entry."""
    value: int


class PageTables:
    """Page tables of one address space. Each table is read in one piece."""

    def __init__(self, prog: Program, format_: Format, root: int) -> None:
        """
        :param root: Physical address of the top-level table, to which ``mm_struct.pgd`` points.
        """
        self._prog = prog
        self._format = format_
        self._root = root

    def pfns(self, address: int, number: int) -> Array:
        """
        Find the PFNs that a range of virtual pages is mapped to.

        :param address: Virtual address of the first page.
        :param number: Number of pages.
        :return: ``int64``, shape ``(number,)``; -1 where nothing is mapped, or the page table is
            not in the dump.
        """
        result = np.full(number, -1, np.int64)
        if address >= self._format.lowest:
            self._fill(len(self._format.bits) - 1, self._root, address, result)
        return result

    def _fill(self, level: int, table: int, address: int, result: Array) -> None:
        """
        Store the PFNs of consecutive virtual pages, all of which one table maps.

        :param level: Level of the table.
        :param table: Physical address of the table.
        :param address: Virtual address of the first page.
        :param result: The PFNs are stored here: ``int64``, a row per page.
        """
        format_ = self._format
        shift = format_.shift(level)
        pages = 1 << (shift - format_.page_shift)
        first = (address >> shift) & ((1 << format_.bits[level]) - 1)
        # The first entry may map pages before the address.
        before = (address >> format_.page_shift) & (pages - 1)
        count = -(-(before + len(result)) // pages)
        entries = self._entries(table, first, count)
        if level == 0:
            present = (entries & np.uint64(_PRESENT)) != 0
            numbers = (entries & np.uint64(format_.address)) >> np.uint64(format_.page_shift)
            result[present] = numbers[present].astype(np.int64)
            return
        for index in np.flatnonzero(entries & np.uint64(_PRESENT)).tolist():
            low = max(index * pages - before, 0)
            part = result[low : (index + 1) * pages - before]
            entry = int(entries[index])
            target = entry & format_.address
            start = address + (low << format_.page_shift)
            if entry & format_.large_mask == format_.large_value:
                offset = (start >> format_.page_shift) & (pages - 1)
                # The address bits below the large page are flags of the entry.
                page = target >> format_.page_shift & -pages
                part[:] = page + offset + np.arange(len(part))
            else:
                self._fill(level - 1, target, start, part)

    def tables(self, plausible: Callable[[Array], Array]) -> Array:
        """
        Find every table that can be reached from the top-level table, level by level.

        :param plausible: Function that takes physical addresses (``int64``) and returns which of
            them may be tables (``bool``), because a damaged entry may point anywhere.
        :return: Physical addresses of the tables, including the top-level table: ``int64``,
            ascending.
        """
        frontier = np.array([self._root], np.int64)
        found = [frontier]
        for level in range(len(self._format.bits) - 1, 0, -1):
            entries = self._whole_tables(level, frontier).ravel()
            frontier = ascending(self._targets(entries[self._is_table(entries)]))
            frontier = frontier[plausible(frontier)]
            found.append(frontier)
        return ascending(np.concatenate(found))

    def trees(
        self, roots: Array, plausible: Callable[[Array], Array], end: int
    ) -> tuple[Array, Array]:
        """
        Find every table of several address spaces, and the single pages that these tables map.

        :param roots: Physical addresses of the top-level tables: ``int64``, ascending.
        :param plausible: Function that takes physical addresses (``int64``) and returns which of
            them may be tables (``bool``), because a damaged entry may point anywhere.
        :param end: Entries of top-level tables for virtual addresses from here on are ignored.
        :return: Physical addresses of the tables, including the top-level tables, and PFNs of the
            mapped pages, without large pages: ``int64``, ascending.
        """
        frontier, found = roots, [roots]
        top = len(self._format.bits) - 1
        for level in range(top, 0, -1):
            entries = self._whole_tables(level, frontier)
            if level == top:
                entries = entries[:, : -(-end >> self._format.shift(top))]
            entries = entries.ravel()
            frontier = ascending(self._targets(entries[self._is_table(entries)]))
            frontier = frontier[plausible(frontier)]
            found.append(frontier)
        pages = self._whole_tables(0, frontier).ravel()
        pages = self._targets(pages[(pages & np.uint64(_PRESENT)) != 0]) >> self._format.page_shift
        return ascending(np.concatenate(found)), ascending(pages)

    def mappings(
        self, roots: Array, plausible: Callable[[Array], Array], end: int, pfn: int, limit: int
    ) -> list[TableEntry]:
        """
        Find the entries that map a page, or a large page that contains it, in several address
        spaces.

        :param roots: Physical addresses of the top-level tables: ``int64``, shape ``(n,)``.
        :param plausible: As in :meth:`trees`.
        :param end: Entries of top-level tables for virtual addresses from here on are ignored.
        :param pfn: PFN of the page.
        :param limit: The largest number of entries to return.
        """
        format_, top = self._format, len(self._format.bits) - 1
        tables, base, owner = roots, np.zeros(len(roots), np.int64), np.arange(len(roots))
        found: list[TableEntry] = []
        for level in range(top, -1, -1):
            shift = format_.shift(level)
            pages = 1 << (shift - format_.page_shift)
            below = [np.zeros((3, 0), np.int64)]
            for mine in slices(len(tables), _BATCH):
                entries = self._whole_tables(level, tables[mine])
                index = np.arange(entries.shape[1], dtype=np.int64)
                address = base[mine][:, None] + (index << shift)
                place = tables[mine][:, None] + index * format_.entry.itemsize
                of = np.broadcast_to(owner[mine][:, None], entries.shape)
                table = self._is_table(entries) & (address < end)
                if not level:
                    table[:] = False
                target = self._targets(entries)
                leaf = ((entries & np.uint64(_PRESENT)) != 0) & ~table & (address < end)
                # The address bits below a large page are flags of the entry.
                leaf &= target >> format_.page_shift & -pages == pfn & -pages
                for row in np.argwhere(leaf)[: limit - len(found)].tolist():
                    at = tuple(row)
                    inside = (pfn & (pages - 1)) << format_.page_shift
                    found.append(TableEntry(int(of[at]), int(address[at]) + inside,
                                       int(place[at]), int(entries[at])))  # fmt: skip
                below.append(np.stack([target[table], address[table], of[table]]))
            tables, base, owner = np.concatenate(below, axis=1)
            known = plausible(tables)
            tables, base, owner = tables[known], base[known], owner[known]
        return found

    def mapped(self, start: int, end: int) -> tuple[Array, Array]:
        """
        Find the physical pages that a range of virtual addresses is mapped to.

        The range may be far larger than memory. A table that maps several parts of the range is
        read only once.

        :param start: First virtual address of the range.
        :param end: First virtual address after the range.
        :return: First PFN, and number of pages, of each mapped page or large page: ``int64``.
        """
        format_, top = self._format, len(self._format.bits) - 1
        mask = (1 << format_.shift(top + 1)) - 1
        low, high = np.uint64(start & mask), np.uint64((end - 1) & mask)
        tables, base = np.array([self._root], np.int64), np.zeros(1, np.uint64)
        pfns, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for level in range(top, -1, -1):
            shift = format_.shift(level)
            entries = self._whole_tables(level, tables)
            index = np.arange(entries.shape[1], dtype=np.uint64) << np.uint64(shift)
            address = base[:, None] + index
            last = address + np.uint64((1 << shift) - 1)
            inside = ((entries & np.uint64(_PRESENT)) != 0) & (address <= high) & (last >= low)
            entries, address = entries[inside], address[inside]
            below = self._is_table(entries) if level else np.zeros(len(entries), bool)
            pages = 1 << (shift - format_.page_shift)
            # The address bits below a large page are flags of the entry.
            pfn = (self._targets(entries[~below]) >> format_.page_shift) & -pages
            pfns.append(ascending(pfn))
            numbers.append(np.full(len(pfns[-1]), pages, np.int64))
            tables, first = np.unique(self._targets(entries[below]), return_index=True)
            base = address[below][first]
        return np.concatenate(pfns), np.concatenate(numbers)

    def _is_table(self, entries: Array) -> Array:
        """Return which *entries* of a table above level 0 point to another table: ``bool``."""
        format_ = self._format
        large = (entries & np.uint64(format_.large_mask)) == np.uint64(format_.large_value)
        result: Array = ((entries & np.uint64(_PRESENT)) != 0) & ~large
        return result

    def _targets(self, entries: Array) -> Array:
        """Return the physical addresses in *entries*: ``int64``."""
        result: Array = (entries & np.uint64(self._format.address)).astype(np.int64)
        return result

    def _whole_tables(self, level: int, tables: Array) -> Array:
        """
        Read all entries of several tables of one level.

        :param tables: Physical addresses of the tables, ascending.
        :return: ``uint64``, a row per table.
        """
        number = 1 << self._format.bits[level]
        size = number * self._format.entry.itemsize
        runs = np.split(tables, np.flatnonzero(np.diff(tables) != size) + 1)
        read = [self._entries(int(run[0]), 0, len(run) * number) for run in runs if len(run)]
        return np.concatenate([np.zeros(0, np.uint64), *read]).reshape(-1, number)

    def _entries(self, table: int, first: int, count: int) -> Array:
        """Read *count* entries of a table from index *first* on: ``uint64``; 0 if missing."""
        size = self._format.entry.itemsize
        bulk = read_bulk(self._prog, table + first * size, count * size, physical=True)
        return np.frombuffer(bulk.data, self._format.entry).astype(np.uint64)
