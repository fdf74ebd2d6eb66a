# SPDX-License-Identifier: LGPL-2.1-or-later
"""Base class for facts about architectures, with defaults for architectures without a file here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from drgn.helpers.linux.mm import pfn_to_virt

from drgn_pageowner.kernel.dump.bulk import find_object
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import Format
from drgn_pageowner.model.arrays import Array

__all__ = ("Arch",)


class Arch:
    """Facts that differ between architectures. Subclasses override the defaults."""

    image_ends: tuple[str, ...] = ("_end", "__bss_stop")
    """Symbols at the end of the kernel image; the one with the highest address is the end."""
    stack_pointer = "sp"
    """Member of ``struct thread_struct`` with the stack pointer of a task that is not running."""
    irq_stacks: tuple[str, ...] = ()
    """Names of per-CPU variables that are stacks for interrupts and exceptions."""
    irq_stack_pointers: tuple[str, ...] = ()
    """Names of per-CPU variables that point to stacks for interrupts, which are vmalloc areas."""
    address_mark = 0
    """Mask of a bit that tables of devices may set in a word with a physical address; 0 if the
    architecture has no such tables."""

    def page_table_format(self, kernel: Kernel) -> Format | None:
        """
        Get the format of the kernel's page tables.

        :return: ``None`` if the format is unknown; drgn then walks the tables, page by page.
        """
        return None

    def table_roots(self, kernel: Kernel, format_: Format) -> Iterator[tuple[Format, int]]:
        """
        Find the roots of kernel page tables other than those of ``init_mm``.

        :param format_: Format of the page tables of ``init_mm``.
        :return: Format and physical address of each top-level table.
        """
        yield from ()

    def kasan_shadow(self, kernel: Kernel, format_: Format) -> tuple[int, int] | None:
        """
        Get the location of generic KASAN's shadow memory.

        :param format_: Format of the page tables of ``init_mm``.
        :return: ``KASAN_SHADOW_OFFSET``, and the lowest virtual address of the kernel; ``None`` if
            the location is unknown for this architecture.
        """
        return None

    call_size = 0
    """Number of bytes before a return address that :meth:`calls` needs; 0 if the encoding of calls
    is not implemented for the architecture."""

    def calls(self, code: Array) -> Array:
        """
        Return whether the instruction before each return address is a call.

        :param code: The :attr:`call_size` bytes before each address: ``uint8``, shape
            ``(n, call_size)``.
        :return: ``bool``, shape ``(n,)``.
        """
        return np.ones(len(code), bool)

    def direct_map(self, kernel: Kernel) -> int:
        """
        Get the virtual address at which the direct map maps, or would map, physical address 0.

        :raises NotImplementedError: if neither drgn nor variables of the kernel determine it
        """
        try:
            return int(pfn_to_virt(kernel.prog, 0))
        except NotImplementedError:
            # drgn does not know the page tables of some 32-bit kernels. On these, the direct map
            # ends at the address high_memory, a variable of mm/memory.c.
            high_memory = find_object(kernel.prog, "high_memory")
            if high_memory is None:
                raise
            return int(high_memory) - int(kernel.prog["max_low_pfn"]) * kernel.page_size
