# SPDX-License-Identifier: LGPL-2.1-or-later
"""Facts about x86, with 64 bits and with 32 bits (i386)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from drgn import TypeKind
from drgn.helpers.linux.mm import follow_phys

from drgn_pageowner.kernel.dump import i386
from drgn_pageowner.kernel.dump.bulk import find_object
from drgn_pageowner.kernel.dump.damage import suppress_damage
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import Format
from drgn_pageowner.kernel.linux.arch.base import Arch
from drgn_pageowner.model.arrays import Array

__all__ = ("I386", "X86_64")


# KASAN_SHADOW_OFFSET of arch/x86/Kconfig, the same for four and five levels of page tables.
_KASAN_SHADOW_OFFSET = 0xDFFFFC0000000000


def _call_size(modrm: int) -> int:
    """
    Get the size of a CALL r/m instruction (opcode FF /2) in bytes, from its ModR/M byte. The
    instruction consists of opcode, ModR/M byte, a SIB byte if R/M is 4, and a displacement. Return
    0 if the ModR/M byte belongs to another instruction.
    """
    mod, rm = modrm >> 6, modrm & 7
    if modrm >> 3 & 7 != 2:
        return 0
    displacement = {0: 4 if rm == 5 else 0, 1: 1, 2: 4, 3: 0}[mod]
    return 2 + (rm == 4 and mod != 3) + displacement


_CALL_SIZES = np.array([_call_size(modrm) for modrm in range(256)], np.uint8)


class X86_64(Arch):  # noqa: N801
    """Facts about x86-64, with four or five levels of page tables."""

    # If the kernel was relocated (KASLR), _end may be unrelocated, because its section has no
    # memory.
    image_ends = ("_end", "__brk_limit", "__bss_stop")
    irq_stacks = ("irq_stack_backing_store", "exception_stacks")
    call_size = 7

    def page_table_format(self, kernel: Kernel) -> Format:
        levels = 5 if kernel.vmcoreinfo.number("pgtable_l5_enabled") else 4
        mask = (1 << 52) - (1 << kernel.page_shift)
        encryption = find_object(kernel.prog, "sme_me_mask")
        if encryption is not None:
            mask &= ~int(encryption)
        large = i386.PAGE_PSE
        return Format(np.dtype("<u8"), kernel.page_shift, (9,) * levels, mask, large, large)

    def table_roots(self, kernel: Kernel, format_: Format) -> Iterator[tuple[Format, int]]:
        # CPUs start with the page table trampoline_pgd (arch/x86/realmode/init.c). Without DWARF
        # for the real mode code, real_mode_header is a symbol without a type.
        header = find_object(kernel.prog, "real_mode_header")
        with suppress_damage():
            if header is not None and header.type_.kind == TypeKind.POINTER and header:
                yield format_, int(header.trampoline_pgd)
        # With CONFIG_MITIGATION_PAGE_TABLE_ISOLATION (CONFIG_PAGE_TABLE_ISOLATION before Linux
        # kernel commit ea4654e08853 ("x86/bugs: Rename CONFIG_PAGE_TABLE_ISOLATION =>
        # CONFIG_MITIGATION_PAGE_TABLE_ISOLATION") (in v6.9)) the second half of the root is the
        # table that user space runs with: kernel_to_user_pgdp().
        with suppress_damage():
            root = kernel.prog.symbol("init_top_pgt")
            if root.size >= 2 * kernel.page_size:
                init_mm = kernel.prog["init_mm"].address_of_()
                yield format_, int(follow_phys(init_mm, root.address)) + kernel.page_size

    def calls(self, code: Array) -> Array:
        # CALL rel32, or CALL r/m.
        found: Array = code[:, -5] == 0xE8
        for length in (2, 3, 4, 6, 7):
            found |= (code[:, -length] == 0xFF) & (_CALL_SIZES[code[:, 1 - length]] == length)
        return found

    def kasan_shadow(self, kernel: Kernel, format_: Format) -> tuple[int, int] | None:
        lowest = (1 << 64) - (1 << format_.shift(len(format_.bits)) - 1)
        return _KASAN_SHADOW_OFFSET, lowest


class I386(X86_64):
    """Facts about i386, with and without PAE."""

    def table_roots(self, kernel: Kernel, format_: Format) -> Iterator[tuple[Format, int]]:
        yield from ()

    def kasan_shadow(self, kernel: Kernel, format_: Format) -> tuple[int, int] | None:
        return None

    def page_table_format(self, kernel: Kernel) -> Format:
        return i386.page_table_format(kernel.prog)
