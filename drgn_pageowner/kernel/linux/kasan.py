# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generic KASAN: find freed slab objects with its shadow memory and its quarantine."""

from __future__ import annotations

import numpy as np
from drgn import FaultError, Program

from drgn_pageowner.kernel.dump.bulk import find_object, read_bulk, symbol_address
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.arch import arch_of
from drgn_pageowner.kernel.linux.percpu import cpu_variable
from drgn_pageowner.kernel.linux.topology import possible_cpus
from drgn_pageowner.model.arrays import Array

__all__ = ("Shadow", "find_shadow", "quarantine")

# KASAN_GRANULE_SIZE of mm/kasan/kasan.h: 1 << KASAN_SHADOW_SCALE_SHIFT.
_SCALE_SHIFT = 3
# KASAN_SLAB_FREE and KASAN_SLAB_FREE_META of mm/kasan/kasan.h. The first was called
# KASAN_KMALLOC_FREE until Linux kernel commit 06bc4cf6cdde ("kasan: give better names to shadow
# values") (in v5.19). The second was added as KASAN_KMALLOC_FREETRACK in e4b7818b9aa8 ("kasan:
# record and print the free track") (in v5.9), renamed to KASAN_SLAB_FREETRACK in 06bc4cf6cdde, and
# to its present name in a5989d4ed40c ("kasan: improve free meta storage in Generic KASAN") (in
# v6.8).
_FREED = (0xFB, 0xFA)


class Shadow:
    """Shadow memory of generic KASAN, which has one byte for every eight bytes of kernel memory."""

    def __init__(self, prog: Program, offset: int, lowest: int) -> None:
        """
        :param offset: ``KASAN_SHADOW_OFFSET``.
        :param lowest: The lowest virtual address of the kernel.
        """
        self._prog = prog
        self._offset = offset
        self.start = self.address(lowest)
        """``KASAN_SHADOW_START``."""
        self.end = offset + (1 << 64 - _SCALE_SHIFT)
        """``KASAN_SHADOW_END``."""

    def address(self, address: int) -> int:
        """
        Return the address of the shadow byte for *address*, as ``kasan_mem_to_shadow()`` does.
        """
        return (address >> _SCALE_SHIFT) + self._offset

    def freed(self, start: int, size: int, offsets: Array) -> Array:
        """
        Return which slab objects are freed, whether or not they are in KASAN's quarantine.

        :param start: Virtual address of the range of memory that contains the objects.
        :param size: Size of the range, in bytes.
        :param offsets: Offset of each object in the range, in bytes: ``int64``.
        :return: ``bool``, a row per object; false if its shadow is not in the dump.
        """
        bulk = read_bulk(self._prog, self.address(start), -(-size >> _SCALE_SHIFT))
        marks = np.frombuffer(bulk.data, np.uint8)[offsets >> _SCALE_SHIFT]
        return np.isin(marks, _FREED)


def quarantine(kernel: Kernel) -> list[int]:
    """Get the first ``struct qlist_node *`` of every list of freed objects in the quarantine."""
    file = "mm/kasan/quarantine.c"
    batches = find_object(kernel.prog, "global_quarantine", file)
    heads: list[int] = []
    cost = "KASAN's quarantine cannot be read: some freed objects look allocated"
    with kernel.tolerate(cost):
        heads += [int(batch.head) for batch in batches] if batches is not None else []
    for cpu in possible_cpus(kernel):
        with kernel.tolerate(cost):
            heads.append(int(cpu_variable(kernel, "cpu_quarantine", cpu).head))
    return [head for head in heads if head]


@once
def find_shadow(kernel: Kernel) -> Shadow | None:
    """Find the shadow memory of generic KASAN; ``None`` if this kernel has no generic KASAN."""
    # Symbols of mm/kasan/generic.c and shadow.c. Tag-based KASAN lacks the first one, and its
    # shadow has a different scale.
    names = ("__asan_load8", "kasan_early_shadow_page")
    if any(symbol_address(kernel.prog, name) is None for name in names):
        return None
    arch = arch_of(kernel)
    format_ = arch.page_table_format(kernel)
    place = arch.kasan_shadow(kernel, format_) if format_ is not None else None
    if place is None:
        return None
    shadow = Shadow(kernel.prog, *place)
    # Check the location with a global variable: its first bytes are accessible, so their shadow
    # byte must be 0.
    known = int(kernel.prog["init_mm"].address_of_())
    try:
        return shadow if kernel.prog.read(shadow.address(known), 1) == b"\0" else None
    except FaultError:
        return None
