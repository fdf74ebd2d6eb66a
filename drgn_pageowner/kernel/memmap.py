"""One ``struct page`` at a time: from a PFN to it and back, on every memory model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from drgn import FaultError, Object, Program
from drgn.helpers import ValidationError

from drgn_pageowner.kernel.memory import has_member
from drgn_pageowner.kernel.sections import Section, find_sections, section_of

__all__ = ("Memmap", "Problems", "member")

T = TypeVar("T")


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


class Problems:
    """What could not be found out, one line each."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)

    def attempt(self, subject: str, question: Callable[[], T]) -> T | None:
        """
        The answer to *question*, or ``None`` and a line about *subject* if there is none.
        """
        try:
            return question()
        except FaultError as fault:
            self.add(f"{subject}: not in the dump ({fault})")
        except (LookupError, AttributeError, NotImplementedError) as error:
            self.add(f"{subject}: not known how to find it in this kernel ({error})")
        except (ValidationError, ValueError) as error:
            self.add(f"{subject}: damaged ({error})")
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
