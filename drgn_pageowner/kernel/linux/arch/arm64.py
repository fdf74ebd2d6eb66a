# SPDX-License-Identifier: LGPL-2.1-or-later
"""arm64, with any size of pages."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import Format
from drgn_pageowner.kernel.linux.arch.base import Arch

__all__ = ("Arm64",)

# PMD_TYPE_TABLE of arch/arm64/include/asm/pgtable-hwdef.h: a block lacks this bit.
_TABLE = 1 << 1


class Arm64(Arch):
    """arm64; formats that VMCOREINFO does not tell apart (LPA2) are left to drgn."""

    stack_pointer = "cpu_context.sp"
    irq_stack_pointers = ("irq_stack_ptr",)

    def page_table_format(self, kernel: Kernel) -> Format | None:
        va_bits, shift = kernel.vmcoreinfo.number("VA_BITS"), kernel.page_shift
        if not va_bits:
            return None
        index = shift - 3
        whole, rest = divmod(va_bits - shift, index)
        bits = (index,) * whole + ((rest,) if rest else ())
        mask, lowest = (1 << 48) - (1 << shift), (1 << 64) - (1 << va_bits)
        return Format(np.dtype("<u8"), shift, bits, mask, _TABLE, 0, lowest)
