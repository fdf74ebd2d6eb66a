# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interface of an architecture, and defaults for architectures that have no file here."""

from __future__ import annotations

from collections.abc import Iterator

from drgn.helpers.linux.mm import pfn_to_virt

from drgn_pageowner.kernel.dump.bulk import find_object
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import Format

__all__ = ("Arch",)


class Arch:
    """Facts that differ between architectures."""

    image_ends: tuple[str, ...] = ("_end", "__bss_stop")
    """Symbols at the end of the kernel image; the highest of them counts."""
    stack_pointer = "sp"
    """Member of ``struct thread_struct`` with the stack pointer of a task that is not running."""
    irq_stacks: tuple[str, ...] = ()
    """Per-CPU variables that are stacks for interrupts and exceptions."""
    irq_stack_pointers: tuple[str, ...] = ()
    """Per-CPU variables that point to such stacks, which are vmalloc areas."""
    address_mark = 0
    """A bit that is set along with physical addresses in tables of devices; 0 for none."""

    def page_table_format(self, kernel: Kernel) -> Format | None:
        """
        Get the format of the page tables.

        :return: ``None`` if unknown; drgn then walks them page by page.
        """
        return None

    def table_roots(self, kernel: Kernel, format_: Format) -> Iterator[tuple[Format, int]]:
        """
        Find the roots of kernel page tables other than those of ``init_mm``.

        :param format_: Format of the page tables of ``init_mm``.
        :return: Format and physical address of each root.
        """
        yield from ()

    def kasan_shadow(self, kernel: Kernel, format_: Format) -> tuple[int, int] | None:
        """
        Get the location of generic KASAN's shadow memory.

        :return: ``KASAN_SHADOW_OFFSET``, and the lowest address of the kernel; ``None`` if this
            architecture has none.
        """
        return None

    def direct_map(self, kernel: Kernel) -> int:
        """
        Get the virtual address at which the direct map maps, or would map, physical address 0.

        :raises NotImplementedError: if neither drgn nor variables of the kernel determine it
        """
        try:
            return int(pfn_to_virt(kernel.prog, 0))
        except NotImplementedError:
            # drgn does not know the page tables of some 32-bit kernels. There the direct map ends
            # where high_memory, a variable of mm/memory.c, begins.
            high_memory = find_object(kernel.prog, "high_memory")
            if high_memory is None:
                raise
            return int(high_memory) - int(kernel.prog["max_low_pfn"]) * kernel.page_size
