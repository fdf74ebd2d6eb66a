# SPDX-License-Identifier: LGPL-2.1-or-later
"""Translate virtual addresses of the kernel and of processes to physical addresses."""

from __future__ import annotations

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.linux.mm import follow_phys

from drgn_pageowner.kernel.dump.bulk import enumerators, symbol_address
from drgn_pageowner.kernel.dump.kernel import Kernel, once, once_per_reading
from drgn_pageowner.kernel.dump.pgtable import Format, PageTables
from drgn_pageowner.kernel.linux.arch import arch_of
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


@once
def direct_map(kernel: Kernel) -> int:
    """
    Get the virtual address at which the direct map maps, or would map, physical address 0.

    :raises NotImplementedError: if neither drgn nor variables of the kernel determine it
    """
    return arch_of(kernel).direct_map(kernel)


@once_per_reading
def direct_map_end(kernel: Kernel) -> int:
    """Get the end address of the direct map, which maps all of memory except HIGHMEM."""
    if "ZONE_HIGHMEM" in enumerators(kernel.prog, "enum zone_type"):
        return int(kernel.prog["high_memory"])
    return direct_map(kernel) + pfn_limits(kernel)[1] * kernel.page_size


def direct_phys(kernel: Kernel, address: int) -> int:
    """
    Get the physical address of an address in the direct map.

    :raises ValueError: if the address is below the direct map
    """
    phys = address - direct_map(kernel)
    if phys < 0:
        raise ValueError(f"{address:#x} is not in the direct map")
    return phys


def kernel_phys(kernel: Kernel, address: int) -> int:
    """
    Get the physical address of a kernel virtual address of any mapping.

    :raises FaultError: if nothing maps it, or its page tables are not in the dump
    :raises NotImplementedError: if the page tables of this architecture are not known
    """
    try:
        return int(follow_phys(kernel.prog["init_mm"].address_of_(), address))
    except NotImplementedError:
        tables = page_tables(kernel)
        if tables is None:
            raise
    pfn = int(tables.pfns(address, 1)[0])
    if pfn < 0:
        raise FaultError("address is not mapped", address)
    return pfn * kernel.page_size + address % kernel.page_size


def kernel_pfns(kernel: Kernel, address: int, number: int) -> Array:
    """
    Get the PFNs that a range of virtual pages of the kernel is mapped to.

    :param address: Virtual address of the first page.
    :param number: Number of pages.
    :return: ``int64``, shape ``(number,)``; -1 where nothing is mapped, or the mapping is unknown.
    """
    tables = page_tables(kernel)
    if tables is not None:
        return tables.pfns(address, number)
    size = kernel.page_size
    # Ask drgn for one range per page table, because all pages of a table may be contiguous.
    step = size // 8
    parts = []
    position = address // size
    end = position + number
    while position < end:
        following = min((position // step + 1) * step, end)
        parts.append(_ask_drgn(kernel, position, following - position, size))
        position = following
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _ask_drgn(kernel: Kernel, first: int, number: int, size: int) -> Array:
    """
    Get the PFNs of virtual pages with drgn's page table walker.

    It takes 20 us for each page, unless the pages are physically contiguous.

    :param first: Number of the first virtual page.
    :param number: Number of pages.
    :param size: Page size, in bytes.
    :return: ``int64``, shape ``(number,)``; -1 where nothing is mapped.
    """
    low, high = (_pfn_or_none(kernel, page * size) for page in (first, first + number - 1))
    if low >= 0 and high - low == number - 1:
        return low + np.arange(number, dtype=np.int64)
    pages = range(first, first + number)
    return np.array([_pfn_or_none(kernel, page * size) for page in pages], np.int64)


def _pfn_or_none(kernel: Kernel, address: int) -> int:
    try:
        return kernel_phys(kernel, address) // kernel.page_size
    except (FaultError, NotImplementedError):
        return -1


def page_tables(kernel: Kernel) -> PageTables | None:
    """Get the page tables of ``init_mm``; return ``None`` if their format is not known."""
    found = _format_and_root(kernel)
    return PageTables(kernel.prog, *found) if found is not None else None


@once
def _format_and_root(kernel: Kernel) -> tuple[Format, int] | None:
    """Get the format of ``init_mm``'s page tables, and the physical address of the first table."""
    format_ = arch_of(kernel).page_table_format(kernel)
    if format_ is None:
        return None
    init_mm = kernel.prog["init_mm"]
    virtual, known = int(init_mm.pgd), int(init_mm.address_of_())
    try:
        root = int(follow_phys(init_mm.address_of_(), virtual))
        # VMCOREINFO does not distinguish all formats of arm64; compare the result with drgn's.
        pfn = int(follow_phys(init_mm.address_of_(), known)) // kernel.page_size
        found = int(PageTables(kernel.prog, format_, root).pfns(known, 1)[0])
        return (format_, root) if found == pfn else None
    except NotImplementedError:
        return format_, direct_phys(kernel, virtual)
    except FaultError:
        return None


def mapped_pfn(kernel: Kernel, mm: Object, address: int) -> int | None:
    """
    Get the PFN that a virtual address is mapped to in the address space of a process.

    :param mm: ``struct mm_struct *``
    :return: ``None`` if nothing is mapped.
    :raises NotImplementedError: if the page tables of this architecture are not known
    """
    try:
        return int(follow_phys(mm, address)) >> kernel.page_shift
    except FaultError:
        return None
    except NotImplementedError:
        format_ = arch_of(kernel).page_table_format(kernel)
        if format_ is None:
            raise
    root = direct_phys(kernel, int(mm.pgd))
    pfn = int(PageTables(kernel.prog, format_, root).pfns(address, 1)[0])
    return pfn if pfn >= 0 else None


@once
def image_range(kernel: Kernel) -> tuple[int, int] | None:
    """Get the virtual addresses ``(start, end)`` of the kernel image; ``None`` if unknown."""
    start = symbol_address(kernel.prog, "_text")
    if start is None:
        return None
    ends = [symbol_address(kernel.prog, name) for name in arch_of(kernel).image_ends]
    ends.append(_end_of_resource(kernel, start))
    end = max(end for end in ends if end is not None)
    return (start, end) if start < end else None


def _end_of_resource(kernel: Kernel, start: int) -> int:
    """
    Get the end of the kernel image from ``iomem_resource``.

    :param start: Virtual address of the start of the image.
    :return: Virtual address of the end of the image; *start* if the end is unknown.
    """
    try:
        phys = kernel_phys(kernel, start)
    except (FaultError, NotImplementedError):
        return start
    ends = [end << kernel.page_shift for _, end in kernel_image(kernel)]
    return start + max(0, max(ends, default=phys) - phys)


def in_kernel_image(kernel: Kernel, pfn: int) -> bool:
    """Return whether *pfn* is a page of the kernel image (text, data, bss)."""
    image = image_range(kernel)
    if image is None:
        return False
    start, end = image
    try:
        phys = kernel_phys(kernel, start)
    except (FaultError, NotImplementedError):
        return False
    shift = kernel.page_shift
    return phys >> shift <= pfn < (phys + end - start + (1 << shift) - 1) >> shift
