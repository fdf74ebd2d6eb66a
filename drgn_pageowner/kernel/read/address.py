# SPDX-License-Identifier: LGPL-2.1-or-later
"""Resolve a PFN, a physical address, or any kernel address to a page."""

from __future__ import annotations

from dataclasses import dataclass

from drgn import FaultError
from drgn.helpers.linux.mm import PageSlab, compound_head

from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kallsyms import module_regions
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout
from drgn_pageowner.kernel.linux.sections import (
    find_sections,
    page_ext_stride,
    pfn_limits,
    section_of,
)
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
    """A page that the user named by a PFN or an address."""

    what: str
    kind: str
    """Kind of *what*: ``"PFN"``, ``"struct page"``, ``"direct map"``, ..."""
    pfn: int
    address: int | None
    """
    Virtual address of the requested byte; ``None`` if only the page was requested, or if it is not
    in the direct map (HIGHMEM).
    """


def resolve(kernel: Kernel, what: str) -> Target:
    """
    Find the page that *what* names.

    :param what: ``pfn:N``, ``phys:A``, or an address.
    :raises UsageError: if *what* is none of these
    :raises PageOwnerError: if there is no such page in this kernel
    """
    prefix, colon, number = what.strip().partition(":")
    shift = kernel.page_shift
    if not colon:
        return _resolve_address(kernel, what, number_of(prefix, what, bare_hex=True))
    if prefix == "pfn":
        pfn = number_of(number, what)
        _check(kernel, pfn, what)
        return Target(what, "PFN", pfn, None)
    if prefix == "phys":
        phys = number_of(number, what)
        _check(kernel, phys >> shift, what)
        address = direct_map(kernel) + phys
        known = address < direct_map_end(kernel)
        return Target(what, "physical address", phys >> shift, address if known else None)
    raise UsageError(f"{what!r} names no page: give pfn:N, phys:A, or an address")


def _check(kernel: Kernel, pfn: int, what: str) -> None:
    """
    Check that *pfn* exists.

    :raises PageOwnerError: if this kernel has no memory at *pfn*
    """
    max_pfn = pfn_limits(kernel)[1]
    size = kernel.page_size
    if pfn >= max_pfn:
        raise PageOwnerError(
            f"{what}: beyond memory, whose last page is pfn:{max_pfn - 1:#x} "
            f"(memory ends at {max_pfn * size / (1 << 20):,.0f} MiB)"
        )
    if section_of(kernel, pfn) is None:
        raise PageOwnerError(
            f"{what}: no memory at pfn:{pfn:#x} of this kernel: a hole between its sections"
        )


def _resolve_address(kernel: Kernel, what: str, address: int) -> Target:
    pfn = Memmap(kernel).pfn(address)
    if pfn is not None:
        _check(kernel, pfn, what)
        return Target(what, "struct page", pfn, None)
    page_ext = _page_ext_target(kernel, what, address)
    if page_ext is not None:
        return page_ext
    if _in_direct_map(kernel, address):
        pfn = direct_phys(kernel, address) >> kernel.page_shift
        _check(kernel, pfn, what)
        return Target(what, _direct_kind(kernel, pfn, address), pfn, address)
    try:
        pfn = kernel_phys(kernel, address) >> kernel.page_shift
    except (FaultError, NotImplementedError, OverflowError):
        raise PageOwnerError(
            f"{what}: no address of this kernel's memory: neither a struct page nor in the direct "
            "map, the vmalloc area, a module or the kernel image (is a PFN meant? say pfn:N)"
        ) from None
    _check(kernel, pfn, what)
    return Target(what, _mapped_kind(kernel, address), pfn, address)


def _page_ext_target(kernel: Kernel, what: str, address: int) -> Target | None:
    """Find the page of the ``struct page_ext`` at *address*."""
    stride = page_ext_stride(kernel)
    for section in find_sections(kernel) if stride else ():
        offset = address - section.page_ext
        if section.page_ext and 0 <= offset < (section.end_pfn - section.start_pfn) * stride:
            pfn = section.start_pfn + offset // stride
            _check(kernel, pfn, what)
            return Target(what, _page_ext_kind(kernel, offset % stride), pfn, None)
    return None


def _page_ext_kind(kernel: Kernel, offset: int) -> str:
    try:
        layout = page_ext_layout(kernel)
    except PageOwnerError:
        return "page_ext entry"
    size = int(kernel.prog.type(layout.owner_type).size)
    inside = layout.owner_offset <= offset < layout.owner_offset + size
    return "page_owner record" if inside else "page_ext entry"


def _in_direct_map(kernel: Kernel, address: int) -> bool:
    start = direct_map(kernel) + pfn_limits(kernel)[0] * kernel.page_size
    return start <= address < direct_map_end(kernel)


def _direct_kind(kernel: Kernel, pfn: int, address: int) -> str:
    if _in_image(kernel, address):
        # On i386, the image is in the direct map.
        return "kernel image"
    return "slab object" if _is_slab(kernel, pfn) else "direct map"


def _in_image(kernel: Kernel, address: int) -> bool:
    image = image_range(kernel)
    return image is not None and image[0] <= address < image[1]


def _is_slab(kernel: Kernel, pfn: int) -> bool:
    try:
        return PageSlab(compound_head(Memmap(kernel).page(pfn)))
    except (FaultError, LookupError):
        return False


def _mapped_kind(kernel: Kernel, address: int) -> str:
    """Get the kind of a mapped address outside the direct map."""
    if _in_image(kernel, address):
        return "kernel image"
    inside = any(start <= address < end for _, start, end in module_regions(kernel))
    return "module" if inside else "vmalloc"
