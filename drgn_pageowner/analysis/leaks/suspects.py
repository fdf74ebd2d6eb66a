# SPDX-License-Identifier: LGPL-2.1-or-later
"""Heuristics for allocation patterns that suggest a leak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.account.page_class import UNACCOUNTED, page_classes
from drgn_pageowner.analysis.leaks.leaks import Task, owners_of
from drgn_pageowner.analysis.leaks.unnamed import module_is_gone
from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.model.arrays import Array, grouped
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.stacks import Frame

__all__ = ("Suspect", "suspects")

# Fewer allocations show no pattern in time.
_FEWEST = 4
# Equal periods of time since the oldest allocation: a stack grows if it has allocations in more
# than half of them. The steady leak of linux-6.12/drip has some in all 8.
_WINDOWS = 8
# A part of the uptime. Bursts of the bundled guests, which come once, are spread over 25 % at most
# (nearly all over less than 1 %); the steady leak of linux-6.12/drip is over 87 %.
_SPREAD = 0.5


@dataclass(frozen=True)
class Suspect:
    """Allocations of one stack that look like a leak."""

    allocator: str
    handle: int
    allocations: int
    pages: int
    """Base pages."""
    bytes: int
    score: int
    """The number of reasons."""
    reasons: list[str]
    pages_per_hour: float | None
    """Growth between the oldest and the newest; ``None`` where the kernel keeps no time, or where
    they are so close together that they tell of a burst."""
    oldest_ns: int | None
    newest_ns: int | None
    tasks: list[Task]
    stack: list[Frame]


def suspects(inventory: Inventory, classes: Array | None = None) -> list[Suspect]:
    """
    Rank the stacks of memory that no class explains.

    A stack is suspected if it grows steadily, if its allocations are old, if the tasks that
    allocated are gone, if its module is gone. Most reasons come first, then most pages.
    """
    records = inventory.records
    if records is None or not len(records):
        return []
    pages = inventory.memory.pages
    rows = np.maximum(pages.rows(records["pfn"]), 0)
    if classes is None:
        classes = page_classes(inventory)
    chosen = np.flatnonzero(np.isin(classes[rows], UNACCOUNTED))
    stack = records.stack[chosen]
    found = []
    for number, members in zip(*grouped(stack), strict=True):
        suspect = _look_at(inventory, int(number), chosen[members])
        if suspect.reasons:
            found.append(suspect)
    found.sort(key=lambda s: (-s.score, -s.pages, s.handle))
    return found


def _look_at(inventory: Inventory, stack: int, rows: Array) -> Suspect:
    records, facts = inventory.records, inventory.memory.pages.facts
    assert records is not None
    frames = records.stack_frames(stack)
    total = int(records.pages[rows].sum())
    tasks = owners_of(records, rows, inventory)
    reasons = []
    oldest = newest = None
    rate = None
    if "ts_nsec" in records:
        times = np.sort(records["ts_nsec"][rows].astype(np.int64))
        oldest, newest = int(times[0]), int(times[-1])
        rate = _rate(records.pages[rows], oldest, newest, facts.now_ns)
        if facts.now_ns is not None:
            reasons += _reasons_of_time(times, facts.now_ns)
    dead = sum(task.allocations for task in tasks if not task.alive)
    if tasks and 2 * dead > sum(task.allocations for task in tasks):
        reasons.append("the tasks that allocated most of it are gone")
    if module_is_gone(frames):
        reasons.append("a frame has no symbol: its module was unloaded")
    return Suspect(
        allocator=str(allocator_of(frames) or "(no stack)"),
        handle=int(records.stacks.handles[stack]) if stack >= 0 else 0,
        allocations=len(rows),
        pages=total,
        bytes=total * facts.page_size,
        score=len(reasons),
        reasons=reasons,
        pages_per_hour=rate,
        oldest_ns=oldest,
        newest_ns=newest,
        tasks=tasks,
        stack=frames,
    )


def _rate(pages: Array, oldest: int, newest: int, now: int | None) -> float | None:
    """Return base pages an hour, of allocations that went on for a good part of the uptime."""
    spread = newest - oldest
    if len(pages) < _FEWEST or now is None or spread < _SPREAD * now or spread <= 0:
        return None
    return float(pages.sum()) * 3600e9 / spread


def _reasons_of_time(times: Array, now: int) -> list[str]:
    """Return the reasons that the times of a stack's live allocations give."""
    reasons = []
    span = now - int(times[0])
    if len(times) >= _FEWEST and span > 0:
        # Memory that is used and freed is young; leaked memory is of every age.
        window = np.minimum((times - times[0]) * _WINDOWS // max(span, 1), _WINDOWS - 1)
        filled = len(np.unique(window))
        if filled >= _WINDOWS // 2 + 1:
            reasons.append(f"it grows: some of it was allocated in {filled} of {_WINDOWS} periods")
    if now > 0 and len(times) >= _FEWEST:
        old = int(np.count_nonzero(times < now // 2))
        if 2 * old > len(times) and int(times[-1]) > now // 4:
            reasons.append("most of it is older than half of the uptime")
    return reasons
