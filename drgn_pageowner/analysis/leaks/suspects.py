# SPDX-License-Identifier: LGPL-2.1-or-later
"""Heuristics for allocation patterns that suggest a leak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import overload

import numpy as np

from drgn_pageowner.analysis.account.page_class import UNACCOUNTED, page_classes
from drgn_pageowner.analysis.leaks.leaks import Task, owners_of
from drgn_pageowner.analysis.leaks.unnamed import module_is_gone
from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.analysis.owners.stack_table import StackTable
from drgn_pageowner.model.arrays import Array, Groups
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame

__all__ = ("Suspect", "Suspects", "largest_of", "suspects")

# With fewer allocations, no pattern over time is recognized.
_FEWEST = 4
# Equal periods of time since the oldest allocation: a stack grows if it has allocations in more
# than half of them. The steady leak of linux-6.12/drip has some in all 8.
_WINDOWS = 8
# Share of the uptime. One-time bursts on the bundled guests are spread over at most 25 % of it
# (nearly all over less than 1 %), the steady leak of linux-6.12/drip over 87 %.
_SPREAD = 0.5


@dataclass(frozen=True)
class Suspect:
    """Allocations of one stack that look like a leak."""

    allocator: str
    handle: int
    allocations: int
    pages: int
    """Number of base pages."""
    bytes: int
    score: int
    """The number of reasons."""
    reasons: list[str]
    pages_per_hour: float | None
    """Growth between the oldest and the newest allocation; ``None`` if the kernel records no
    time, or if they are so close together that they are one burst."""
    oldest_ns: int | None
    newest_ns: int | None
    tasks: list[Task]
    stack: list[Frame]


class Suspects(Sequence[Suspect]):
    """Suspected stacks. The details of each are computed when it is accessed."""

    def __init__(self, number: int, pages: Array, make: Callable[[int], Suspect]) -> None:
        """
        :param pages: ``int64``, shape ``(number,)``: number of base pages of each suspect.
        :param make: Function that takes an index and returns the suspect.
        """
        self._number = number
        self._pages = pages
        self._make = cache(make)

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> Suspect: ...
    @overload
    def __getitem__(self, index: slice) -> list[Suspect]: ...
    def __getitem__(self, index: int | slice) -> Suspect | list[Suspect]:
        places = range(self._number)[index]
        return self._make(places) if isinstance(places, int) else list(map(self._make, places))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def largest(self) -> Suspect | None:
        """Return the first one of those with most pages."""
        return self[int(self._pages.argmax())] if self._number else None


def largest_of(found: Sequence[Suspect]) -> Suspect | None:
    """Return the first one of those with most pages; ``None`` if there are none."""
    if isinstance(found, Suspects):
        return found.largest()
    return max(found, key=lambda suspect: suspect.pages, default=None)


def suspects(inventory: Inventory, classes: Array | None = None) -> Suspects:
    """
    Rank the stacks of memory of drivers and other kernel code.

    A stack is suspected if it grows steadily, if its allocations are old, if the tasks that
    allocated have exited, or if its module was unloaded. The result is sorted by number of reasons,
    then pages, largest first.
    """
    records = inventory.records
    if records is None or not len(records):
        return Suspects(0, np.zeros(0, np.int64), _nobody)
    classes = page_classes(inventory) if classes is None else classes
    return _suspects(inventory, records, classes)


@kept
def _suspects(inventory: Inventory, records: Snapshot, classes: Array) -> Suspects:
    pages = inventory.memory.pages
    rows = np.maximum(pages.rows(records["pfn"]), 0)
    chosen = np.flatnonzero(np.isin(classes[rows], UNACCOUNTED))
    stacks = Groups.of(records.stack[chosen])
    signs = _signs(inventory, chosen, stacks)
    total, score = stacks.sums(records.pages[chosen]), signs.score()
    handles = np.append(records.stacks.handles, 0)[stacks.values]
    order = np.lexsort((handles, -total, -score))[: np.count_nonzero(score)]

    def make(place: int) -> Suspect:
        number = int(order[place])
        mine = chosen[stacks.rows(number)]
        stack, held = int(stacks.values[number]), int(total[number])
        return _suspect(inventory, stack, mine, signs, number, held)

    return Suspects(len(order), total[order], make)


def _nobody(place: int) -> Suspect:
    raise IndexError(place)


@dataclass(frozen=True)
class _Signs:
    """The signs of a leak of some stacks: arrays with an element per stack."""

    periods: Array
    """``int64``: number of periods with allocations, if it is large enough to be a sign; otherwise
    0."""
    old: Array
    """``bool``: whether most of the stack's memory is old."""
    orphans: Array
    """``bool``: whether the tasks that allocated it have exited."""
    gone: Array
    """``bool``: whether a module in the stack was unloaded."""
    times: tuple[Array, Array] | None
    """``int64``: ``ts_nsec`` of the oldest and of the newest allocation."""

    def score(self) -> Array:
        result: Array = (self.periods > 0).astype(np.int64) + self.old + self.orphans + self.gone
        return result

    def reasons(self, number: int) -> list[str]:
        """Return the signs of one stack in words."""
        found = []
        if self.periods[number]:
            found.append(
                f"it grows: some of it was allocated in {self.periods[number]} of {_WINDOWS} "
                "periods"
            )
        if self.old[number]:
            found.append("most of it is older than half of the uptime")
        if self.orphans[number]:
            found.append("the tasks that allocated most of it are gone")
        if self.gone[number]:
            found.append("a frame has no symbol: its module was unloaded")
        return found


def _signs(inventory: Inventory, rows: Array, stacks: Groups) -> _Signs:
    """
    Look for the signs of leaks.

    :param rows: Indices of the records.
    :param stacks: The records grouped by stack.
    """
    records, now = inventory.records, inventory.memory.pages.facts.now_ns
    assert records is not None
    periods, old = np.zeros(len(stacks), np.int64), np.zeros(len(stacks), bool)
    extremes = None
    if "ts_nsec" in records:
        times = records["ts_nsec"][rows].astype(np.int64)
        in_order = times[np.lexsort((times, stacks.inverse))]
        extremes = in_order[stacks.starts], in_order[stacks.ends - 1]
        if now is not None:
            periods, old = _signs_of_time(times, stacks, *extremes, now)
    return _Signs(
        periods=periods,
        old=old,
        orphans=_orphans(inventory, rows, stacks),
        gone=module_is_gone(StackTable.of(records, stacks.values)),
        times=extremes,
    )


def _signs_of_time(
    times: Array, stacks: Groups, oldest: Array, newest: Array, now: int
) -> tuple[Array, Array]:
    """Return :attr:`_Signs.periods` and :attr:`_Signs.old`, by the times of live allocations."""
    enough = stacks.counts >= _FEWEST
    # Memory in normal use is freed and allocated again, so most of it is young; leaked memory has
    # all ages.
    span = now - oldest
    each = stacks.inverse
    window = (times - oldest[each]) * _WINDOWS // np.maximum(span, 1)[each]
    window = np.minimum(window, _WINDOWS - 1)
    filled = np.bincount(np.unique(each * _WINDOWS + window) // _WINDOWS, minlength=len(stacks))
    grows = enough & (span > 0) & (filled >= _WINDOWS // 2 + 1)
    aged = stacks.sums(times < now // 2)
    old = enough & (2 * aged > stacks.counts) & (newest > now // 4) & (now > 0)
    return np.where(grows, filled, 0), old


def _orphans(inventory: Inventory, rows: Array, stacks: Groups) -> Array:
    """
    Find the stacks for which the tasks of most records have exited: ``bool``, a row per stack.
    """
    records = inventory.records
    assert records is not None
    if "pid" not in records or not len(stacks):
        return np.zeros(len(stacks), bool)
    dead = ~np.isin(records["pid"][rows], list(inventory.tasks))
    result: Array = 2 * stacks.sums(dead) > stacks.counts
    return result


def _suspect(
    inventory: Inventory, stack: int, rows: Array, signs: _Signs, number: int, pages: int
) -> Suspect:
    records, facts = inventory.records, inventory.memory.pages.facts
    assert records is not None
    frames = records.stack_frames(stack)
    oldest = newest = rate = None
    if signs.times is not None:
        oldest, newest = int(signs.times[0][number]), int(signs.times[1][number])
        rate = _rate(len(rows), pages, oldest, newest, facts.now_ns)
    reasons = signs.reasons(number)
    return Suspect(
        allocator=str(allocator_of(frames) or "(no stack)"),
        handle=int(records.stacks.handles[stack]) if stack >= 0 else 0,
        allocations=len(rows),
        pages=pages,
        bytes=pages * facts.page_size,
        score=len(reasons),
        reasons=reasons,
        pages_per_hour=rate,
        oldest_ns=oldest,
        newest_ns=newest,
        tasks=owners_of(records, rows, inventory),
        stack=frames,
    )


def _rate(number: int, pages: int, oldest: int, newest: int, now: int | None) -> float | None:
    """
    Return the growth in base pages per hour; ``None`` unless the allocations span a large part of
    the uptime.
    """
    spread = newest - oldest
    if number < _FEWEST or now is None or spread < _SPREAD * now or spread <= 0:
        return None
    return float(pages) * 3600e9 / spread
