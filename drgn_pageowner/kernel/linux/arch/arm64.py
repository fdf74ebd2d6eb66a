# SPDX-License-Identifier: LGPL-2.1-or-later
"""Facts about arm64, with any page size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from drgn.helpers.linux.mm import follow_phys

from drgn_pageowner.kernel.dump.bulk import find_object, symbol_address
from drgn_pageowner.kernel.dump.damage import suppress_damage
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import Format
from drgn_pageowner.kernel.linux.arch.base import Arch
from drgn_pageowner.model.arrays import Array

__all__ = ("Arm64",)

# PMD_TYPE_TABLE of arch/arm64/include/asm/pgtable-hwdef.h: set if an entry above level 0 points to
# a table, clear if it maps a block.
_TABLE = 1 << 1
# IDMAP_VA_BITS of arch/arm64/include/asm/mmu_context.h, since Linux kernel commit e6128a8e523c
# ("arm64: mm: Use 48-bit virtual addressing for the permanent ID map") (in v6.9). Before, it is in
# the variable idmap_t0sz.
_IDMAP_BITS = 48


class Arm64(Arch):
    """
    Facts about arm64.

    Page tables with LPA2 have another format, which VMCOREINFO does not show. They are left to
    drgn's page table walker.
    """

    stack_pointer = "cpu_context.sp"
    irq_stack_pointers = ("irq_stack_ptr",)
    # GITS_BASER_VALID of include/linux/irqchip/arm-gic-v3.h.
    address_mark = 1 << 63
    call_size = 4

    def page_table_format(self, kernel: Kernel) -> Format | None:
        va_bits, shift = kernel.vmcoreinfo.number("VA_BITS"), kernel.page_shift
        if not va_bits:
            return None
        mask, lowest = (1 << 48) - (1 << shift), (1 << 64) - (1 << va_bits)
        table = Format(np.dtype("<u8"), shift, (shift - 3,), mask, _TABLE, 0, lowest)
        return table.with_address_bits(va_bits)

    def table_roots(self, kernel: Kernel, format_: Format) -> Iterator[tuple[Format, int]]:
        # tramp_pg_dir is the table of KPTI's entry trampoline, reserved_pg_dir is in TTBR0 while
        # user space is not mapped, and idmap_pg_dir maps virtual to equal physical addresses.
        t0sz = find_object(kernel.prog, "idmap_t0sz")
        for name in ("tramp_pg_dir", "reserved_pg_dir", "idmap_pg_dir"):
            address = symbol_address(kernel.prog, name)
            with suppress_damage():
                if address is None:
                    continue
                layout = format_
                if name == "idmap_pg_dir":
                    bits = _IDMAP_BITS if t0sz is None else 64 - int(t0sz)
                    layout = format_.with_address_bits(bits)
                init_mm = kernel.prog["init_mm"].address_of_()
                yield layout, int(follow_phys(init_mm, address))

    def calls(self, code: Array) -> Array:
        # BL, BLR, and the variants of BLR with pointer authentication, such as BLRAA.
        words = np.ascontiguousarray(code).view("<u4")[:, 0]
        found: Array = (words >> 26 == 0x25) | (words & 0xFFFFFC1F == 0xD63F0000)
        found |= words & 0xFEFFF800 == 0xD63F0800
        return found

    def kasan_shadow(self, kernel: Kernel, format_: Format) -> tuple[int, int] | None:
        # The shadow ends where the upper half of the addresses of VA_BITS_MIN bits begins, at
        # _PAGE_END(VA_BITS_MIN).
        bits = format_.shift(len(format_.bits))
        least = bits if bits < 52 else 47 if format_.page_shift == 14 else 48
        return (1 << 64) - (1 << least - 1) - (1 << 61), (1 << 64) - (1 << bits)
