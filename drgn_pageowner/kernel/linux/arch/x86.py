# SPDX-License-Identifier: LGPL-2.1-or-later
"""x86: 64 bits and 32 bits (i386)."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.kernel.dump import i386
from drgn_pageowner.kernel.dump.bulk import find_object
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import Format
from drgn_pageowner.kernel.linux.arch.base import Arch

__all__ = ("I386", "X86_64")


class X86_64(Arch):  # noqa: N801
    """x86-64, with four or five levels of page tables."""

    # Where the kernel was moved (KASLR), _end may have been left behind, because its section has no
    # memory.
    image_ends = ("_end", "__brk_limit", "__bss_stop")
    irq_stacks = ("irq_stack_backing_store", "exception_stacks")

    def page_table_format(self, kernel: Kernel) -> Format:
        levels = 5 if kernel.vmcoreinfo.number("pgtable_l5_enabled") else 4
        mask = (1 << 52) - (1 << kernel.page_shift)
        encryption = find_object(kernel.prog, "sme_me_mask")
        if encryption is not None:
            mask &= ~int(encryption)
        large = i386.PAGE_PSE
        return Format(np.dtype("<u8"), kernel.page_shift, (9,) * levels, mask, large, large)


class I386(X86_64):
    """i386, with and without PAE."""

    def page_table_format(self, kernel: Kernel) -> Format:
        return i386.page_table_format(kernel.prog)
