# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the pages that are page tables of the kernel itself, however they were allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from drgn_pageowner.kernel.dump.bulk import find_object
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import Format, PageTables
from drgn_pageowner.kernel.linux.arch import arch_of
from drgn_pageowner.kernel.linux.translate import direct_phys, kernel_phys
from drgn_pageowner.model.arrays import Array, ascending

__all__ = ("kernel_tables",)


_COST = "not all page tables of the kernel can be followed: those that are not found look lost"


def kernel_tables(kernel: Kernel, plausible: Callable[[Array], Array]) -> Array:
    """
    Find the PFNs of the page tables that map the kernel.

    These are the tables of ``init_mm`` (direct map, vmalloc, vmemmap, modules, espfix, KASAN's
    shadow, ...), the tables that CPUs use when they start and when they enter the kernel, and the
    tables for EFI. The physical address of a table may be stored only in another table.

    :param plausible: Function that takes PFNs (``int64``) and returns which of them may be page
        tables (``bool``).
    :return: ``int64``, ascending; empty if the format of the tables is not known.
    """
    found = [np.zeros(0, np.int64)]
    shift = kernel.page_shift
    for format_, root in _roots(kernel):
        if not plausible(np.array([root >> shift]))[0]:
            continue
        tables = PageTables(kernel.prog, format_, root)
        with kernel.tolerate(_COST, gap=True):
            found.append(tables.tables(lambda addresses: plausible(addresses >> shift)) >> shift)
    return ascending(np.concatenate(found))


def _roots(kernel: Kernel) -> Iterator[tuple[Format, int]]:
    """Yield the format and the physical address of every top-level table."""
    format_ = arch_of(kernel).page_table_format(kernel)
    if format_ is None:
        return
    with kernel.tolerate(_COST, gap=True):
        yield format_, _phys(kernel, int(kernel.prog["init_mm"].pgd))
    # Page tables for the firmware's runtime services.
    mm = find_object(kernel.prog, "efi_mm")
    with kernel.tolerate(_COST, gap=True):
        if mm is not None and mm.pgd:
            yield format_, _phys(kernel, int(mm.pgd))
    yield from arch_of(kernel).table_roots(kernel, format_)


def _phys(kernel: Kernel, address: int) -> int:
    """Get the physical address of a top-level table from its kernel virtual address."""
    try:
        return kernel_phys(kernel, address)
    except NotImplementedError:
        return direct_phys(kernel, address)
