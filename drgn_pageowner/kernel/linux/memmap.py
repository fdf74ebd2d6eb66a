# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert single PFNs to their ``struct page`` and back, on every memory model."""

from __future__ import annotations

from drgn import Object

from drgn_pageowner.kernel.dump.bulk import has_member
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.sections import Section, find_sections, section_of

__all__ = ("Memmap", "member")


class Memmap:
    """Finds the ``struct page`` of a PFN, and the PFN of a ``struct page``."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.sections = find_sections(kernel)
        self.size = kernel.struct_page_size
        """``sizeof(struct page)``."""

    def section(self, pfn: int) -> Section | None:
        """Find the section that contains *pfn*; return ``None`` if no section does."""
        return section_of(self.kernel, pfn)

    def page(self, pfn: int) -> Object:
        """
        Get the ``struct page`` of a PFN.

        :return: ``struct page *``
        :raises ValueError: if there is no memory at *pfn*
        """
        section = self.section(pfn)
        if section is None:
            raise ValueError(f"no memory at pfn {pfn:#x}")
        address = section.memmap + (pfn - section.start_pfn) * self.size
        return Object(self.kernel.prog, "struct page *", value=address)

    def pfn(self, address: int) -> int | None:
        """Get the PFN of the ``struct page`` at or around *address*; ``None`` outside memmaps."""
        for section in self.sections:
            offset = address - section.memmap
            if 0 <= offset < (section.end_pfn - section.start_pfn) * self.size:
                return section.start_pfn + offset // self.size
        return None


def member(object_: Object, *paths: str) -> Object:
    """
    Get the first member among *paths* that a structure has.

    :param object_: The structure, or a pointer to it.
    :param paths: Alternative paths of the member, such as ``a.b`` for a nested member.
    :raises AttributeError: if the structure has none of the members
    """
    type_ = object_.type_
    if hasattr(type_, "type") and type_.kind.name == "POINTER":
        type_ = type_.type
    for path in paths:
        if has_member(type_, path):
            for name in path.split("."):
                object_ = object_.member_(name)
            return object_
    raise AttributeError(f"{type_.type_name()} has no member {' or '.join(paths)}")
