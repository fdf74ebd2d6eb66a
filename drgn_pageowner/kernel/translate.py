"""Virtual addresses of the kernel's own page tables, and of processes'."""

from __future__ import annotations

from drgn import FaultError, Object, Program
from drgn.helpers.linux.mm import follow_phys

from drgn_pageowner.kernel.memory import symbol_address

__all__ = ("image_range", "in_kernel_image", "kernel_phys", "mapped_pfn")


def kernel_phys(prog: Program, address: int) -> int:
    """
    Physical address of a kernel virtual address, whatever maps it.

    :raises FaultError: if nothing maps it, or its page tables are not in the dump
    """
    return int(follow_phys(prog["init_mm"].address_of_(), address))


def mapped_pfn(mm: Object, address: int) -> int | None:
    """
    PFN that *address* is mapped to in an address space, or ``None``.

    :param mm: ``struct mm_struct *``
    """
    try:
        return int(follow_phys(mm, address)) >> int(mm.prog_["PAGE_SHIFT"])
    except FaultError:
        return None


def image_range(prog: Program) -> tuple[int, int] | None:
    """Virtual addresses of the kernel image: its first, and the one behind its last."""
    start = symbol_address(prog, "_text")
    # Where the kernel was moved (KASLR), _end itself may not be: its section has no memory.
    ends = [symbol_address(prog, name) for name in ("_end", "__brk_limit", "__bss_stop")]
    end = max((end for end in ends if end is not None), default=0)
    return (start, end) if start is not None and start < end else None


def in_kernel_image(prog: Program, pfn: int) -> bool:
    """Whether *pfn* is a page of the kernel image (text, data, bss)."""
    image = image_range(prog)
    if image is None:
        return False
    start, end = image
    try:
        phys = kernel_phys(prog, start)
    except (FaultError, NotImplementedError):
        return False
    shift = int(prog["PAGE_SHIFT"])
    return phys >> shift <= pfn < (phys + end - start + (1 << shift) - 1) >> shift
