# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of page_owner and the consistency of its data, as the command ``info`` shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drgn_pageowner.model.kernel import Facts

__all__ = ("Consistency", "Info", "OwnerSource")


@dataclass(frozen=True)
class Consistency:
    """
    The kernel's own count of pages per stack, compared with the records. ``stack_record.count``
    counts pages since Linux kernel commit 217b2119b9e2 ("mm,page_owner: implement the tracking of
    the stacks count") (in v6.9).
    """

    stacks: int
    """Number of stacks compared."""
    equal: int
    different: Sequence[tuple[int, int, int]]
    """``(handle, kernel's count of pages, pages of the records)`` of each stack whose counts
    differ, largest difference first."""
    kernel_pages: int
    our_pages: int


@dataclass(frozen=True)
class OwnerSource:
    """A feature of the kernel that records who allocated memory."""

    name: str
    """``"page_owner"``, ``"allocation tags"``, ``"SLUB user tracking"`` or ``"KASAN"``."""
    on: bool
    state: str
    """Its state in words: on, off, not compiled in, or enabled for which caches."""
    answers: str
    """The questions that its data answer, and the commands that use them; empty if it is off."""


@dataclass(frozen=True)
class Info:
    """The state of page_owner, and totals of its records."""

    facts: Facts
    records: int | None = 0
    """Number of allocations; ``None`` if a text was read that does not have it."""
    freed_records: int = 0
    pages: int | None = 0
    """Number of base pages of these allocations; ``None`` if a text was read that does not have
    it."""
    stacks: int = 0
    """Number of distinct stacks of these allocations."""
    first_ns: int | None = None
    """Time of the oldest allocation that was not freed, in nanoseconds since boot."""
    coverage: Mapping[str, Any] = field(default_factory=dict)
    consistency: Consistency | None = None
    modules: Sequence[str] = ()
    sources: Sequence[OwnerSource] = ()
    """The features of this kernel that record owners."""
    problems: Sequence[str] = ()
