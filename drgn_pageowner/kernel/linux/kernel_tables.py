# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages of the page tables that the kernel keeps for itself, whatever allocated them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
from drgn import Architecture, Program, TypeKind

from drgn_pageowner.kernel.dump.bulk import find_object, page_size, symbol_address
from drgn_pageowner.kernel.dump.damage import DAMAGE
from drgn_pageowner.kernel.dump.pgtable import Format, PageTables, table_format
from drgn_pageowner.kernel.linux.translate import direct_phys, kernel_phys
from drgn_pageowner.model.arrays import Array, ascending

__all__ = ("kernel_tables",)

# IDMAP_VA_BITS of arch/arm64/include/asm/mmu_context.h, since Linux kernel commit e6128a8e523c
# ("arm64: mm: Use 48-bit virtual addressing for the permanent ID map") (in v6.9). Before, the
# variable idmap_t0sz says it.
_ARM64_IDMAP_BITS = 48
# Page tables for the firmware's runtime services.
_ADDRESS_SPACES = ("efi_mm",)


def kernel_tables(prog: Program, plausible: Callable[[Array], Array]) -> Array:
    """
    PFNs of the page tables that map the kernel.

    Those of ``init_mm`` (direct map, vmalloc, vmemmap, modules, espfix, KASAN's shadow, ...), those
    that CPUs start and leave the kernel with, and EFI's. Their physical addresses are in other
    tables, and need be nowhere else.

    :param plausible: Takes PFNs (``int64``); returns which of them may be page tables (``bool``).
    :return: ``int64``, ascending; nothing for an architecture whose tables are not known.
    """
    format_ = table_format(prog)
    if format_ is None:
        return np.zeros(0, np.int64)
    shift = format_.page_shift
    found = [np.zeros(0, np.int64)]
    for layout, root in _roots(prog, format_):
        if not plausible(np.array([root >> shift]))[0]:
            continue
        tables = PageTables(prog, layout, root)
        with contextlib.suppress(*DAMAGE):
            found.append(tables.tables(lambda addresses: plausible(addresses >> shift)) >> shift)
    return ascending(np.concatenate(found))


def _roots(prog: Program, format_: Format) -> Iterator[tuple[Format, int]]:
    """Format and physical address of every root."""
    with contextlib.suppress(*DAMAGE):
        yield format_, _phys(prog, int(prog["init_mm"].pgd))
    for name in _ADDRESS_SPACES:
        mm = find_object(prog, name)
        with contextlib.suppress(*DAMAGE):
            if mm is not None and mm.pgd:
                yield format_, _phys(prog, int(mm.pgd))
    platform = prog.platform
    assert platform is not None
    if platform.arch == Architecture.X86_64:
        yield from _x86_roots(prog, format_)
    elif platform.arch == Architecture.AARCH64:
        yield from _arm64_roots(prog, format_)


def _phys(prog: Program, address: int) -> int:
    """Physical address of a root, in the kernel image or in the direct map."""
    try:
        return kernel_phys(prog, address)
    except NotImplementedError:
        return direct_phys(prog, address)


def _x86_roots(prog: Program, format_: Format) -> Iterator[tuple[Format, int]]:
    # CPUs are started with it (arch/x86/realmode/init.c).
    header = find_object(prog, "real_mode_header")
    with contextlib.suppress(*DAMAGE):
        # Without DWARF of the real mode's code it is a symbol of no type.
        if header is not None and header.type_.kind == TypeKind.POINTER and header:
            yield format_, int(header.trampoline_pgd)
    # With CONFIG_MITIGATION_PAGE_TABLE_ISOLATION (before v6.9 CONFIG_PAGE_TABLE_ISOLATION) the
    # second half of the root is what user space runs with: kernel_to_user_pgdp().
    size = page_size(prog)
    with contextlib.suppress(*DAMAGE):
        root = prog.symbol("init_top_pgt")
        if root.size >= 2 * size:
            yield format_, kernel_phys(prog, root.address) + size


def _arm64_roots(prog: Program, format_: Format) -> Iterator[tuple[Format, int]]:
    # The entry trampoline of KPTI, and what TTBR0 has while no process is to be seen.
    for name in ("tramp_pg_dir", "reserved_pg_dir"):
        address = symbol_address(prog, name)
        with contextlib.suppress(*DAMAGE):
            if address is not None:
                yield format_, kernel_phys(prog, address)
    address = symbol_address(prog, "idmap_pg_dir")
    with contextlib.suppress(*DAMAGE):
        if address is not None:
            t0sz = find_object(prog, "idmap_t0sz")
            bits = _ARM64_IDMAP_BITS if t0sz is None else 64 - int(t0sz)
            yield format_.with_address_bits(bits), kernel_phys(prog, address)
