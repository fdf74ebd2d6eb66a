# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find ranges of physical memory in ``iomem_resource``, the tree behind ``/proc/iomem``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Object

from drgn_pageowner.kernel.dump.damage import chain, name_of
from drgn_pageowner.kernel.dump.kernel import Kernel, once_per_reading

__all__ = ("crash_kernel", "kernel_image", "system_ram")

_NAMES = ("System RAM", "reserved RAM")
_IMAGE = ("Kernel code", "Kernel rodata", "Kernel data", "Kernel bss")


@once_per_reading
def system_ram(kernel: Kernel) -> list[tuple[int, int]]:
    """
    Get the PFN ranges ``(first, end)`` of the machine's memory, as in ``/proc/iomem``.

    Ranges of the firmware are not included, although their pages have a ``struct page`` if they
    share a section with memory. The list is empty if the resources are not in the dump.
    """
    # Include only whole pages, as the boot memory allocator does.
    return sorted(_named(kernel, None, _NAMES))


@once_per_reading
def crash_kernel(kernel: Kernel) -> list[tuple[int, int]]:
    """Get the PFN ranges ``(first, end)`` reserved for the crash kernel; empty if unknown."""
    return sorted(_named(kernel, None, ("Crash kernel",), depth=4))


@once_per_reading
def kernel_image(kernel: Kernel) -> list[tuple[int, int]]:
    """Get the PFN ranges ``(first, end)`` of whole pages of the kernel image; empty if unknown."""
    return sorted(_named(kernel, None, _IMAGE, depth=4))


def _named(
    kernel: Kernel, parent: Object | None, names: tuple[str, ...], depth: int = 1
) -> Iterator[tuple[int, int]]:
    shift = kernel.page_shift
    with kernel.tolerate("iomem_resource cannot be read: where memory is, is unknown"):
        root = kernel.prog["iomem_resource"] if parent is None else parent
        for resource in chain(root.child, lambda resource: resource.sibling):
            name = name_of(resource.name) if resource.name else ""
            first = -(-int(resource.start) >> shift)
            last = (int(resource.end) + 1) >> shift
            if name.startswith(names) and first < last:
                yield first, last
            if depth > 1:
                yield from _named(kernel, resource, names, depth - 1)
