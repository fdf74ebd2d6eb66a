# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages of the kernel's own page tables, however they were allocated."""

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

    Those of ``init_mm`` (direct map, vmalloc, vmemmap, modules, espfix, KASAN's shadow, ...), those
    with which CPUs start and enter the kernel, and EFI's. Their physical addresses need not be
    stored anywhere except in other tables.

    :param plausible: Takes PFNs (``int64``); returns which of them may be page tables (``bool``).
    :return: ``int64``, ascending; empty for an architecture whose tables are not known.
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
    """Return format and physical address of every root."""
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
    """Get the physical address of a root that is in the kernel image or in the direct map."""
    try:
        return kernel_phys(kernel, address)
    except NotImplementedError:
        return direct_phys(kernel, address)
