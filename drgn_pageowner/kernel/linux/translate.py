# SPDX-License-Identifier: LGPL-2.1-or-later
"""Virtual addresses of the kernel's own page tables, and of processes'."""

from __future__ import annotations

import numpy as np
from drgn import FaultError, Object, Program
from drgn.helpers.linux.mm import follow_phys, pfn_to_virt

from drgn_pageowner.kernel.dump.bulk import find_object, find_type, page_size, symbol_address
from drgn_pageowner.kernel.dump.pgtable import PageTables, table_format
from drgn_pageowner.kernel.linux.ioport import kernel_image
from drgn_pageowner.kernel.linux.sections import pfn_limits
from drgn_pageowner.model.arrays import Array

__all__ = (
    "direct_map",
    "direct_map_end",
    "direct_phys",
    "image_range",
    "in_kernel_image",
    "kernel_pfns",
    "kernel_phys",
    "mapped_pfn",
    "page_tables",
)


def direct_map(prog: Program) -> int:
    """
    Virtual address that the direct map has, or would have, for physical address 0.

    :raises NotImplementedError: if neither drgn nor this kernel's own variables tell
    """
    try:
        return int(pfn_to_virt(prog, 0))
    except NotImplementedError:
        # drgn does not know the page tables of a 32-bit kernel; there the direct map ends where
        # high_memory, a variable of mm/memory.c, begins.
        high_memory = find_object(prog, "high_memory")
        if high_memory is None:
            raise
        return int(high_memory) - int(prog["max_low_pfn"]) * page_size(prog)


def direct_map_end(prog: Program) -> int:
    """The address behind the direct map: all of memory is in it, but for HIGHMEM."""
    zones = find_type(prog, "enum zone_type")
    names = {e.name for e in (zones.enumerators or () if zones is not None else ())}
    if "ZONE_HIGHMEM" in names:
        return int(prog["high_memory"])
    return direct_map(prog) + pfn_limits(prog)[1] * page_size(prog)


def direct_phys(prog: Program, address: int) -> int:
    """
    Physical address of an address in the direct map.

    :raises ValueError: if the address is below the direct map
    """
    phys = address - direct_map(prog)
    if phys < 0:
        raise ValueError(f"{address:#x} is not in the direct map")
    return phys


def kernel_phys(prog: Program, address: int) -> int:
    """
    Physical address of a kernel virtual address, whatever maps it.

    :raises FaultError: if nothing maps it, or its page tables are not in the dump
    :raises NotImplementedError: if the page tables of this architecture are not known
    """
    try:
        return int(follow_phys(prog["init_mm"].address_of_(), address))
    except NotImplementedError:
        tables = page_tables(prog)
        if tables is None:
            raise
    pfn = int(tables.pfns(address, 1)[0])
    if pfn < 0:
        raise FaultError("address is not mapped", address)
    return pfn * page_size(prog) + address % page_size(prog)


def kernel_pfns(prog: Program, address: int, number: int) -> Array:
    """
    PFNs that *number* pages from *address* on are mapped to, whatever maps them.

    :return: ``int64``, shape ``(number,)``; -1 where nothing is mapped, or it is not known.
    """
    tables = page_tables(prog)
    if tables is not None:
        return tables.pfns(address, number)
    size = page_size(prog)
    # What one page table maps may well be one large page.
    step = size // 8
    parts = []
    position = address // size
    end = position + number
    while position < end:
        following = min((position // step + 1) * step, end)
        parts.append(_ask_drgn(prog, position, following - position, size))
        position = following
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _ask_drgn(prog: Program, first: int, number: int, size: int) -> Array:
    """PFNs of *number* pages; 20 us for each where they do not follow one another."""
    low, high = (_pfn_or_none(prog, page * size) for page in (first, first + number - 1))
    if low >= 0 and high - low == number - 1:
        return low + np.arange(number, dtype=np.int64)
    pages = range(first, first + number)
    return np.array([_pfn_or_none(prog, page * size) for page in pages], np.int64)


def _pfn_or_none(prog: Program, address: int) -> int:
    try:
        return kernel_phys(prog, address) // page_size(prog)
    except (FaultError, NotImplementedError):
        return -1


def page_tables(prog: Program) -> PageTables | None:
    """The kernel's page tables, if this architecture's are known here."""
    key = "drgn_pageowner.page_tables"
    if key not in prog.cache:
        prog.cache[key] = _find_tables(prog)
    found: PageTables | None = prog.cache[key]
    return found


def _find_tables(prog: Program) -> PageTables | None:
    format_ = table_format(prog)
    if format_ is None:
        return None
    init_mm = prog["init_mm"]
    root, known = int(init_mm.pgd), int(init_mm.address_of_())
    try:
        tables = PageTables(prog, format_, int(follow_phys(init_mm.address_of_(), root)))
        # arm64 has more formats than VMCOREINFO tells apart: trust what agrees with drgn.
        pfn = int(follow_phys(init_mm.address_of_(), known)) // page_size(prog)
        return tables if int(tables.pfns(known, 1)[0]) == pfn else None
    except NotImplementedError:
        return PageTables(prog, format_, direct_phys(prog, root))
    except FaultError:
        return None


def mapped_pfn(mm: Object, address: int) -> int | None:
    """
    PFN that *address* is mapped to in an address space, or ``None``.

    :param mm: ``struct mm_struct *``
    :raises NotImplementedError: if the page tables of this architecture are not known
    """
    prog = mm.prog_
    try:
        return int(follow_phys(mm, address)) >> int(prog["PAGE_SHIFT"])
    except FaultError:
        return None
    except NotImplementedError:
        format_ = table_format(prog)
        if format_ is None:
            raise
    root = direct_phys(prog, int(mm.pgd))
    pfn = int(PageTables(prog, format_, root).pfns(address, 1)[0])
    return pfn if pfn >= 0 else None


def image_range(prog: Program) -> tuple[int, int] | None:
    """Virtual addresses of the kernel image: its first, and the one behind its last."""
    start = symbol_address(prog, "_text")
    if start is None:
        return None
    # Where the kernel was moved (KASLR), _end itself may not be: its section has no memory. Of
    # arm64 none of these is, but there the resource ends with _end.
    ends = [symbol_address(prog, name) for name in ("_end", "__brk_limit", "__bss_stop")]
    ends.append(_end_of_resource(prog, start))
    end = max(end for end in ends if end is not None)
    return (start, end) if start < end else None


def _end_of_resource(prog: Program, start: int) -> int:
    """Virtual address of the end of the image by ``iomem_resource``; *start* if that is silent."""
    try:
        phys = kernel_phys(prog, start)
    except (FaultError, NotImplementedError):
        return start
    ends = [end << int(prog["PAGE_SHIFT"]) for _, end in kernel_image(prog)]
    return start + max(0, max(ends, default=phys) - phys)


def in_kernel_image(prog: Program, pfn: int) -> bool:
    """Whether *pfn* is a page of the kernel image (text, data, bss)."""
    image = image_range(prog)
    if image is None:
        return False
    start, end = image
    try:
        phys = kernel_phys(prog, start)
    except (FaultError, NotImplementedError):
        return False
    shift = int(prog["PAGE_SHIFT"])
    return phys >> shift <= pfn < (phys + end - start + (1 << shift) - 1) >> shift
