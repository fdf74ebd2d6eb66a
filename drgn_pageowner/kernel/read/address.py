# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which page somebody means: a PFN, a physical address, or any address of the kernel's."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError, Program
from drgn.helpers.linux.mm import PageSlab, compound_head

from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.kernel.dump.bulk import page_size
from drgn_pageowner.kernel.linux.kallsyms import module_regions
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout
from drgn_pageowner.kernel.linux.sections import page_ext_stride, pfn_limits
from drgn_pageowner.kernel.linux.translate import (
    direct_map,
    direct_map_end,
    direct_phys,
    image_range,
    kernel_phys,
)
from drgn_pageowner.model.page import number_of

__all__ = ("Target", "resolve")


@dataclass(frozen=True)
class Target:
    """The page that was asked for."""

    what: str
    kind: str
    """What *what* is: ``"PFN"``, ``"struct page"``, ``"direct map"``, ..."""
    pfn: int
    address: int | None
    """
    Virtual address of the byte that was asked for; ``None`` if only the page is meant, or the
    direct map does not have it (HIGHMEM).
    """


def resolve(prog: Program, memmap: Memmap, what: str) -> Target:
    """
    Find the page that *what* names.

    :param what: ``pfn:N``, ``phys:A``, or an address.
    :raises UsageError: if *what* is none of these
    :raises PageOwnerError: if there is no such page in this kernel
    """
    prefix, colon, number = what.strip().partition(":")
    shift = int(prog["PAGE_SHIFT"])
    if not colon:
        return _resolve_address(prog, memmap, what, number_of(prefix, what, bare_hex=True))
    if prefix == "pfn":
        pfn = number_of(number, what)
        _check(prog, memmap, pfn, what)
        return Target(what, "PFN", pfn, None)
    if prefix == "phys":
        phys = number_of(number, what)
        _check(prog, memmap, phys >> shift, what)
        address = direct_map(prog) + phys
        known = address < direct_map_end(prog)
        return Target(what, "physical address", phys >> shift, address if known else None)
    raise UsageError(f"{what!r} names no page: give pfn:N, phys:A, or an address")


def _check(prog: Program, memmap: Memmap, pfn: int, what: str) -> None:
    """:raises PageOwnerError: if this kernel has no memory at *pfn*"""
    max_pfn = pfn_limits(prog)[1]
    size = page_size(prog)
    if pfn >= max_pfn:
        raise PageOwnerError(
            f"{what}: beyond memory, whose last page is pfn:{max_pfn - 1:#x} "
            f"(memory ends at {max_pfn * size / (1 << 20):,.0f} MiB)"
        )
    if memmap.section(pfn) is None:
        raise PageOwnerError(
            f"{what}: no memory at pfn:{pfn:#x} of this kernel: a hole between its sections"
        )


def _resolve_address(prog: Program, memmap: Memmap, what: str, address: int) -> Target:
    pfn = memmap.pfn(address)
    if pfn is not None:
        _check(prog, memmap, pfn, what)
        return Target(what, "struct page", pfn, None)
    page_ext = _page_ext_target(prog, memmap, what, address)
    if page_ext is not None:
        return page_ext
    if _in_direct_map(prog, address):
        pfn = direct_phys(prog, address) >> int(prog["PAGE_SHIFT"])
        _check(prog, memmap, pfn, what)
        return Target(what, _direct_kind(prog, memmap, pfn, address), pfn, address)
    try:
        pfn = kernel_phys(prog, address) >> int(prog["PAGE_SHIFT"])
    except (FaultError, NotImplementedError, OverflowError):
        raise PageOwnerError(
            f"{what}: no address of this kernel's memory: neither a struct page nor in the direct "
            "map, the vmalloc area, a module or the kernel image (is a PFN meant? say pfn:N)"
        ) from None
    _check(prog, memmap, pfn, what)
    return Target(what, _mapped_kind(prog, address), pfn, address)


def _page_ext_target(prog: Program, memmap: Memmap, what: str, address: int) -> Target | None:
    """The page that the ``struct page_ext`` at *address* belongs to."""
    stride = page_ext_stride(prog)
    for section in memmap.sections if stride else ():
        offset = address - section.page_ext
        if section.page_ext and 0 <= offset < (section.end_pfn - section.start_pfn) * stride:
            pfn = section.start_pfn + offset // stride
            _check(prog, memmap, pfn, what)
            return Target(what, _page_ext_kind(prog, offset % stride), pfn, None)
    return None


def _page_ext_kind(prog: Program, offset: int) -> str:
    try:
        layout = page_ext_layout(prog)
    except PageOwnerError:
        return "page_ext entry"
    size = int(prog.type(layout.owner_type).size)
    inside = layout.owner_offset <= offset < layout.owner_offset + size
    return "page_owner record" if inside else "page_ext entry"


def _in_direct_map(prog: Program, address: int) -> bool:
    start = direct_map(prog) + pfn_limits(prog)[0] * page_size(prog)
    return start <= address < direct_map_end(prog)


def _direct_kind(prog: Program, memmap: Memmap, pfn: int, address: int) -> str:
    if _in_image(prog, address):
        # Of i386 it is in the direct map.
        return "kernel image"
    return "slab object" if _is_slab(memmap, pfn) else "direct map"


def _in_image(prog: Program, address: int) -> bool:
    image = image_range(prog)
    return image is not None and image[0] <= address < image[1]


def _is_slab(memmap: Memmap, pfn: int) -> bool:
    try:
        return PageSlab(compound_head(memmap.page(pfn)))
    except (FaultError, LookupError):
        return False


def _mapped_kind(prog: Program, address: int) -> str:
    """What an address in the kernel's page tables, but not in the direct map, belongs to."""
    if _in_image(prog, address):
        return "kernel image"
    inside = any(start <= address < end for _, start, end in module_regions(prog))
    return "module" if inside else "vmalloc"
