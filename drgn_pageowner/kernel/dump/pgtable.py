# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walk page tables a table at a time, whatever their format, for a range of addresses."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from drgn import Program

from drgn_pageowner.kernel.dump.bulk import read_bulk
from drgn_pageowner.model.arrays import Array

__all__ = ("Format", "PageTables")

# Of every format: _PAGE_PRESENT on x86, PTE_VALID on arm64.
_PRESENT = 1 << 0


class Format(NamedTuple):
    """Format of an architecture's page tables. Level 0 maps single pages."""

    entry: np.dtype[Any]
    page_shift: int
    bits: tuple[int, ...]
    """Bits of the address that index a table of each level."""
    address: int
    """Mask of the physical address in an entry."""
    large_mask: int
    large_value: int
    """Value of the bits :attr:`large_mask` in entries above level 0 that map a large page."""
    lowest: int = 0
    """The first address that the kernel's tables map."""

    def shift(self, level: int) -> int:
        """Get the lowest bit of an address that indexes a table of *level*."""
        return self.page_shift + sum(self.bits[:level])


class PageTables:
    """Page tables with a known root, of which each table is read in one piece."""

    def __init__(self, prog: Program, format_: Format, root: int) -> None:
        """
        :param root: Physical address of the top-level table: of ``mm_struct.pgd``.
        """
        self._prog = prog
        self._format = format_
        self._root = root

    def pfns(self, address: int, number: int) -> Array:
        """
        Find the PFNs that *number* pages from *address* on are mapped to.

        :return: ``int64``, shape ``(number,)``; -1 where nothing is mapped, or the dump does not
            hold the table.
        """
        result = np.full(number, -1, np.int64)
        if address >= self._format.lowest:
            self._fill(len(self._format.bits) - 1, self._root, address, result)
        return result

    def _fill(self, level: int, table: int, address: int, result: Array) -> None:
        """Fill in *result* for the pages from *address* on, all of which *table* maps."""
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

    def _entries(self, table: int, first: int, count: int) -> Array:
        """Read entries of a table: ``uint64``; 0 where the dump does not hold them."""
        size = self._format.entry.itemsize
        bulk = read_bulk(self._prog, table + first * size, count * size, physical=True)
        return np.frombuffer(bulk.data, self._format.entry).astype(np.uint64)
