# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read virtual addresses of i386 kernels, whose page tables neither drgn nor libkdumpfile can walk.

Virtual addresses are translated with the kernel's own page tables, and the memory is then read by
physical address. In ELF dumps, drgn finds the direct map by itself, but neither vmalloc memory nor
modules. The running kernel does not need this, because /proc/kcore has virtual addresses.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from drgn import Architecture, FaultError, Program, ProgramFlags

from drgn_pageowner.kernel.dump.bulk import readable
from drgn_pageowner.kernel.dump.pgtable import Format, PageTables
from drgn_pageowner.kernel.dump.vmcoreinfo import vmcoreinfo
from drgn_pageowner.model.arrays import Array

__all__ = ("PAGE_PSE", "page_table_format", "read_through_page_tables")

PAGE_PSE = 1 << 7
"""``_PAGE_PSE`` of arch/x86/include/asm/pgtable_types.h, which is set in an entry that maps a large
page."""

# Values of CONFIG_PAGE_OFFSET, the start of the direct map, by CONFIG_VMSPLIT_* (arch/x86/Kconfig).
_PAGE_OFFSETS = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000)
_REGION_PAGES = 1024
_MOST_REGIONS = 256
_END = 1 << 32


def read_through_page_tables(prog: Program) -> None:
    """
    Make *prog* translate virtual addresses with the page tables of its i386 kernel.

    Programs of other architectures and of the running kernel are not changed.

    :param prog: Program of a dump or guest; its symbols need not be loaded.
    """
    platform = prog.platform
    if platform is None or platform.arch != Architecture.I386:
        return
    if prog.flags & ProgramFlags.IS_LOCAL:
        return
    root = _root(prog)
    if root is not None:
        memory = _VirtualMemory(prog, root)
        prog.add_memory_segment(0, _END - 1, memory.read, False)


def page_table_format(prog: Program) -> Format:
    """Get the format of an i386 kernel's page tables from its VMCOREINFO."""
    shift = int(prog["PAGE_SHIFT"])
    if vmcoreinfo(prog).config("X86_PAE"):
        mask = (1 << 52) - (1 << shift)
        return Format(np.dtype("<u8"), shift, (9, 9, 2), mask, PAGE_PSE, PAGE_PSE)
    mask = (1 << 32) - (1 << shift)
    return Format(np.dtype("<u4"), shift, (10, 10), mask, PAGE_PSE, PAGE_PSE)


def _root(prog: Program) -> int | None:
    """
    Find the physical address of ``swapper_pg_dir``.

    VMCOREINFO has its virtual address, which is in the direct map like the whole kernel image. All
    possible start addresses of the direct map are tried. A start address is correct if the page
    tables found with it map the virtual address of ``swapper_pg_dir`` to the physical address at
    which they were found.

    :return: ``None`` if the page tables are not found.
    """
    address = vmcoreinfo(prog).symbol("swapper_pg_dir")
    if address is None:
        return None
    format_ = page_table_format(prog)
    for offset in _PAGE_OFFSETS:
        phys = address - offset
        if phys < 0:
            continue
        pfn = int(PageTables(prog, format_, phys).pfns(address, 1)[0])
        if pfn == phys >> format_.page_shift:
            return phys
    return None


class _VirtualMemory:
    """Memory reader by virtual address, for :meth:`drgn.Program.add_memory_segment`."""

    def __init__(self, prog: Program, root: int) -> None:
        format_ = page_table_format(prog)
        self._prog = prog
        self._shift = format_.page_shift
        self._tables = PageTables(prog, format_, root)
        # Cache no translations of a running guest, which may change its page tables.
        keep = 0 if prog.flags & ProgramFlags.IS_LIVE else _MOST_REGIONS
        self._region = functools.lru_cache(keep)(self._read_region)

    def _read_region(self, number: int) -> Array:
        start = number * _REGION_PAGES << self._shift
        return self._tables.pfns(start, _REGION_PAGES)

    def _pfns(self, first: int, last: int) -> Array:
        """
        Get the PFNs that a range of virtual pages is mapped to.

        :param first: Number of the first virtual page.
        :param last: Number of the last virtual page.
        :return: ``int64``, a row per virtual page; -1 where nothing is mapped.
        """
        regions = range(first // _REGION_PAGES, last // _REGION_PAGES + 1)
        begin = first - regions[0] * _REGION_PAGES
        whole = np.concatenate([self._region(number) for number in regions])
        return whole[begin : begin + last - first + 1]

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """
        Read *count* bytes at the virtual address *address*.

        :raises FaultError: if a page is not mapped or not in the dump; the exception has the first
            such virtual address
        """
        size = 1 << self._shift
        first, end = address >> self._shift, address + count
        pfns = self._pfns(first, (end - 1) >> self._shift)
        # Starts of runs of physically contiguous pages.
        starts = [0, *(np.flatnonzero(np.diff(pfns) != 1) + 1).tolist(), len(pfns)]
        parts = []
        for start, following in itertools.pairwise(starts):
            position = max(address, (first + start) * size)
            pfn = int(pfns[start])
            if pfn < 0:
                raise FaultError("address is not mapped", position)
            length = min(end, (first + following) * size) - position
            phys = pfn * size + position % size
            try:
                parts.append(self._prog.read(phys, length, True))
            except FaultError as fault:
                there = len(readable(self._prog, phys, length, size, True))
                raise FaultError(str(fault), position + there) from None
        return b"".join(parts)
