# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generic KASAN: where its shadow memory is, and what it says of slab objects."""

from __future__ import annotations

import numpy as np
from drgn import Architecture, FaultError, Program

from drgn_pageowner.kernel.dump.bulk import read_bulk, symbol_address
from drgn_pageowner.kernel.dump.pgtable import table_format
from drgn_pageowner.model.arrays import Array

__all__ = ("Shadow", "find_shadow")

# KASAN_GRANULE_SIZE of mm/kasan/kasan.h: 1 << KASAN_SHADOW_SCALE_SHIFT.
_SCALE_SHIFT = 3
# KASAN_SHADOW_OFFSET of arch/x86/Kconfig, the same for four and five levels of page tables.
_X86_64_OFFSET = 0xDFFFFC0000000000
# KASAN_SLAB_FREE and KASAN_SLAB_FREE_META of mm/kasan/kasan.h. Before v5.11 these were called
# KASAN_KMALLOC_FREE and, since v5.8, KASAN_KMALLOC_FREETRACK.
_FREED = (0xFB, 0xFA)


class Shadow:
    """Shadow memory: a byte for every eight bytes of kernel memory."""

    def __init__(self, prog: Program, offset: int, lowest: int) -> None:
        """
        :param offset: ``KASAN_SHADOW_OFFSET``.
        :param lowest: The lowest address of the kernel.
        """
        self._prog = prog
        self._offset = offset
        self.start = self.address(lowest)
        """``KASAN_SHADOW_START``."""
        self.end = offset + (1 << 64 - _SCALE_SHIFT)
        """``KASAN_SHADOW_END``."""

    def address(self, address: int) -> int:
        """Address of the byte for *address*: ``kasan_mem_to_shadow()``."""
        return (address >> _SCALE_SHIFT) + self._offset

    def freed(self, start: int, size: int, offsets: Array) -> Array:
        """
        Which slab objects were freed, in KASAN's quarantine or not.

        :param start: Virtual address of a range of memory, and *size* in bytes.
        :param offsets: Of objects in that range: ``int64``, in bytes.
        :return: ``bool``; false where the dump lacks the shadow.
        """
        bulk = read_bulk(self._prog, self.address(start), -(-size >> _SCALE_SHIFT))
        marks = np.frombuffer(bulk.data, np.uint8)[offsets >> _SCALE_SHIFT]
        return np.isin(marks, _FREED)


def find_shadow(prog: Program) -> Shadow | None:
    """The shadow memory of generic KASAN; ``None`` for a kernel without it."""
    # In mm/kasan/generic.c and shadow.c. KASAN with tags in pointers has a shadow of another scale.
    names = ("__asan_load8", "kasan_early_shadow_page")
    if any(symbol_address(prog, name) is None for name in names):
        return None
    platform, format_ = prog.platform, table_format(prog)
    assert platform is not None
    if format_ is None:
        return None
    bits = format_.shift(len(format_.bits))
    if platform.arch == Architecture.X86_64:
        offset, lowest = _X86_64_OFFSET, (1 << 64) - (1 << bits - 1)
    elif platform.arch == Architecture.AARCH64:
        # Where it ends, half of the addresses of VA_BITS_MIN bits begin: _PAGE_END(VA_BITS_MIN).
        least = bits if bits < 52 else 47 if format_.page_shift == 14 else 48
        offset = (1 << 64) - (1 << least - 1) - (1 << 64 - _SCALE_SHIFT)
        lowest = (1 << 64) - (1 << bits)
    else:
        return None
    shadow = Shadow(prog, offset, lowest)
    # The first bytes of a global variable may be accessed.
    try:
        known = prog.read(shadow.address(int(prog["init_mm"].address_of_())), 1) == b"\0"
    except FaultError:
        return None
    return shadow if known else None
