# SPDX-License-Identifier: LGPL-2.1-or-later
"""page_owner as a whole and the consistency of its data, as the command ``info`` shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drgn_pageowner.model.kernel import Facts

__all__ = ("Consistency", "Info", "OwnerSource")


@dataclass(frozen=True)
class Consistency:
    """The kernel's own count of pages per stack (``stack_record.count``, v6.9) and ours."""

    stacks: int
    """Stacks compared."""
    equal: int
    different: Sequence[tuple[int, int, int]]
    """``(handle, pages by the kernel, pages by us)`` where they differ, largest first."""
    kernel_pages: int
    our_pages: int


@dataclass(frozen=True)
class OwnerSource:
    """Something of a kernel that tells who allocated memory."""

    name: str
    """``"page_owner"``, ``"allocation tags"``, ``"SLUB user tracking"`` or ``"KASAN"``."""
    on: bool
    state: str
    """In words: on, off, not compiled in, of which caches."""
    answers: str
    """The questions that it answers, and the commands that ask them; empty if it is not on."""


@dataclass(frozen=True)
class Info:
    """page_owner of one kernel."""

    facts: Facts
    records: int | None = 0
    """Allocations: head records of allocated pages; ``None`` if a text does not say."""
    freed_records: int = 0
    pages: int | None = 0
    """Base pages of :attr:`records`; ``None`` if a text does not say."""
    stacks: int = 0
    """Distinct stacks of :attr:`records`."""
    first_ns: int | None = None
    """The time of the oldest record of a page that is still allocated."""
    coverage: Mapping[str, Any] = field(default_factory=dict)
    consistency: Consistency | None = None
    modules: Sequence[str] = ()
    sources: Sequence[OwnerSource] = ()
    """What this kernel can tell owners by."""
    problems: Sequence[str] = ()
