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
    """Stacks compared."""
    equal: int
    different: Sequence[tuple[int, int, int]]
    """``(handle, pages by the kernel, pages by us)`` where they differ, largest first."""
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
    """The questions that it answers, and the commands that use it; empty if it is off."""


@dataclass(frozen=True)
class Info:
    """The state of page_owner, and totals of its records."""

    facts: Facts
    records: int | None = 0
    """Number of allocations; ``None`` if a text does not say."""
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
    """The features of this kernel that record owners."""
    problems: Sequence[str] = ()
