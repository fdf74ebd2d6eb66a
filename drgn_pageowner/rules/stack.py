# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recognize stacks by the names of their functions and modules, without a database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from drgn_pageowner.analysis.owners.allocator import plain_name
from drgn_pageowner.analysis.owners.stack_table import (
    StackTable,
    allocator_names,
    modules_of_stacks,
    replaced,
)
from drgn_pageowner.analysis.report import Report
from drgn_pageowner.model.arrays import sums
from drgn_pageowner.model.records import Snapshot

__all__ = ("OF", "Holding", "StackPattern", "holdings_of_report", "sum_matches")

OF = ("records", "leaks", "suspects")
"""Kinds of stacks that a pattern may be compared with: those of all allocated pages, of leaked
pages, and of pages that may be a leak."""


class Holding(NamedTuple):
    """A stack, and what it holds."""

    frames: Sequence[tuple[str, str]]
    """Name of the function without the suffixes of compilers, and name of its module (empty: the
    kernel itself), innermost first."""
    allocator: str
    module: str
    pages: int
    allocations: int | None
    confidence: str | None = None
    """Confidence of a leak."""


@dataclass(frozen=True)
class StackPattern:
    """A pattern that stacks are compared with, and how much those that match must hold."""

    of: str = "records"
    """One of :data:`OF`."""
    functions: Sequence[str] = ()
    """Functions that occur in the stack in this order, innermost first; other functions may be
    between them. Names may have ``*``, ``?`` and ``[...]``; a pattern for the module may follow in
    brackets after a space."""
    module: str | None = None
    """Pattern for the module of the innermost frame that is in one."""
    confidence: str | None = None
    """Confidence of the leak."""
    min_pages: float = 0
    """Base pages that all matching stacks hold together, at least."""
    min_percent: float = 0
    """The same in percent of memory."""
    min_allocations: float = 0

    def matches(self, held: Holding) -> bool:
        """Return whether a stack matches."""
        if self.confidence is not None and held.confidence != self.confidence:
            return False
        if self.module is not None and not fnmatchcase(held.module, self.module):
            return False
        frames = iter(held.frames)
        return all(any(_is(pattern, frame) for frame in frames) for pattern in self.functions)

    def enough(self, pages: int, allocations: int | None, present: int) -> bool:
        """
        Return whether this is as much as the pattern asks for.

        :param present: Base pages of the machine.
        """
        return (
            pages >= self.min_pages
            and pages * 100 >= self.min_percent * present
            and (allocations or 0) >= self.min_allocations
        )


def _is(pattern: str, frame: tuple[str, str]) -> bool:
    function, module = pattern, None
    found = re.fullmatch(r"(\S+) \[(.+)\]", pattern)
    if found is not None:
        function, module = found.groups()
    name, of = frame
    return fnmatchcase(name, function) and (module is None or fnmatchcase(of, module))


def sum_matches(
    pattern: StackPattern, holdings: Iterable[Holding], present: int
) -> dict[str, Any] | None:
    """
    Sum up the stacks that match.

    :param present: Base pages of the machine.
    :return: ``pages``, ``allocations``, ``stacks``, ``percent`` (of memory), and ``allocator`` and
        ``module`` of the largest one; ``None`` if they hold too little, or there are none.
    """
    found = [held for held in holdings if pattern.matches(held)]
    if not found:
        return None
    pages = sum(held.pages for held in found)
    known = [held.allocations for held in found if held.allocations is not None]
    allocations = sum(known) if known else None
    if not pattern.enough(pages, allocations, present):
        return None
    largest = max(found, key=lambda held: held.pages)
    return {
        "pages": pages,
        "allocations": allocations,
        "stacks": len(found),
        "percent": f"{100 * pages / present:.1f} %" if present else None,
        "allocator": largest.allocator or None,
        "module": largest.module or None,
    }


def holdings_of_report(report: Report, records: Snapshot | None) -> dict[str, list[Holding]]:
    """
    Return the stacks of a dump and what they hold, by kind (:data:`OF`).

    :param records: The same dump's records, with the column ``handle``; ``None`` if it has none.
    """
    leaks = report.leaks.lost_groups if report.leaks is not None else ()
    suspects = report.suspects or ()
    return {
        "records": _of_records(records) if records is not None else [],
        "leaks": _holdings(
            StackTable.of_frames([group.stack for group in leaks]),
            [(group.pages, group.allocations, group.confidence) for group in leaks],
        ),
        "suspects": _holdings(
            StackTable.of_frames([one.stack for one in suspects]),
            [(one.pages, one.allocations, None) for one in suspects],
        ),
    }


def _of_records(records: Snapshot) -> list[Holding]:
    number = len(records.stacks)
    known = records.stack >= 0
    if "allocated" in records:
        known &= records["allocated"]
    rows = records.stack_of(known)
    pages = sums(rows, records.pages[known], number)
    used = np.flatnonzero(pages)
    counts = records.allocations
    allocations = [None] * len(used)
    if counts is not None:
        allocations = sums(rows, counts[known], number)[used].tolist()
    held = zip(pages[used].tolist(), allocations, [None] * len(used), strict=True)
    return _holdings(StackTable.of(records, used), list(held))


def _holdings(
    table: StackTable, held: Sequence[tuple[int, int | None, str | None]]
) -> list[Holding]:
    """
    Describe stacks.

    :param held: Pages, allocations and confidence of each stack.
    """
    if not len(table):
        return []
    frames = [
        (plain_name(frame.name) if frame.name is not None else "?", frame.module or "")
        for frame in table.frames
    ]
    # The name of a module's function that was loaded later tells nothing.
    frames.append(("?", ""))
    code = np.where(replaced(table), len(frames) - 1, table.code)
    of_stacks = zip(
        np.split(code, table.ends[:-1]),
        allocator_names(table).tolist(),
        modules_of_stacks(table).tolist(),
        held,
        strict=True,
    )
    return [
        Holding([frames[number] for number in numbers.tolist()], allocator, module, *amounts)
        for numbers, allocator, module, amounts in of_stacks
    ]
