# SPDX-License-Identifier: LGPL-2.1-or-later
"""One ``struct page`` at a time: from a PFN to it and back, on every memory model."""

from __future__ import annotations

from drgn import Object, Program

from drgn_pageowner.kernel.dump.bulk import has_member
from drgn_pageowner.kernel.linux.sections import Section, find_sections, section_of

__all__ = ("Memmap", "member")


class Memmap:
    """Where every ``struct page`` of a kernel is."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.sections = find_sections(prog)
        self.size = int(prog.type("struct page").size)
        """``sizeof(struct page)``."""

    def section(self, pfn: int) -> Section | None:
        """The section that holds *pfn*."""
        return section_of(self.sections, pfn)

    def page(self, pfn: int) -> Object:
        """
        :return: ``struct page *``
        :raises ValueError: if there is no memory at *pfn*
        """
        section = self.section(pfn)
        if section is None:
            raise ValueError(f"no memory at pfn {pfn:#x}")
        address = section.memmap + (pfn - section.start_pfn) * self.size
        return Object(self.prog, "struct page *", value=address)

    def pfn(self, address: int) -> int | None:
        """PFN of the ``struct page`` that *address* lies in, or ``None`` if it lies in none."""
        for section in self.sections:
            offset = address - section.memmap
            if 0 <= offset < (section.end_pfn - section.start_pfn) * self.size:
                return section.start_pfn + offset // self.size
        return None


def member(object_: Object, *paths: str) -> Object:
    """
    The first of *paths* that *object_* (a structure or a pointer to one) has.

    :raises AttributeError: if it has none
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
