# SPDX-License-Identifier: LGPL-2.1-or-later
"""Heuristics for allocation patterns that suggest a leak."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from drgn_pageowner.analysis.account.page_class import UNACCOUNTED, page_classes
from drgn_pageowner.analysis.account.page_owners import record_classes
from drgn_pageowner.analysis.leaks.leaks import Task, tasks_of_groups
from drgn_pageowner.analysis.leaks.unnamed import module_is_gone
from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.analysis.owners.stack_table import StackTable, allocator_codes
from drgn_pageowner.model.arrays import (
    Array,
    among,
    frequencies,
    looked_up,
    packed_pairs,
    ranges,
    slices,
    sums,
    unpacked_pairs,
    widen,
)
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame, frames_of_stack

__all__ = ("Suspect", "Suspects", "largest_of", "suspects")

# With fewer allocations, no pattern over time is recognized.
_FEWEST = 4
# Equal periods of time since the oldest allocation: a stack grows if it has allocations in more
# than half of them. The steady leak of linux-6.12/drip has some in all 8.
_WINDOWS = 8
# Number of suspects whose details are computed together.
_TOGETHER = 1 << 12
# How often records of some stacks are looked for among all; then all records are sorted.
_LOOKS = 4
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
    """Suspected stacks. The details of each are computed when it is accessed, and kept only if it
    is accessed alone."""

    def __init__(self, number: int, pages: Array, make: Callable[[Array], list[Suspect]]) -> None:
        """
        :param pages: ``int64``, shape ``(number,)``: number of base pages of each suspect.
        :param make: Function that takes indices (``int64``) and returns their suspects.
        """
        self._number = number
        self._pages = pages
        self._make = make
        self._alone: dict[int, Suspect] = {}

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, index: int) -> Suspect: ...
    @overload
    def __getitem__(self, index: slice) -> Suspects: ...
    def __getitem__(self, index: int | slice) -> Suspect | Suspects:
        places = np.arange(self._number)[index]
        if isinstance(index, slice):
            make = self._make
            return Suspects(len(places), self._pages[places], lambda some: make(places[some]))
        place = int(places)
        if place not in self._alone:
            self._alone[place] = self._make(places.reshape(1))[0]
        return self._alone[place]

    def __iter__(self) -> Iterator[Suspect]:
        for piece in slices(self._number, _TOGETHER):
            yield from self._make(np.arange(piece.start, piece.stop))

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
    chosen = among(record_classes(inventory, records, classes), UNACCOUNTED)
    stacks = _Stacks(records, chosen)
    signs = _signs(inventory, stacks)
    score = signs.score()
    handles = np.append(records.stacks.handles, 0)[stacks.values]
    order = np.lexsort((handles, -stacks.pages, -score))[: np.count_nonzero(score)]

    def make(places: Array) -> list[Suspect]:
        numbers = order[places]
        groups = _Chosen(
            numbers=numbers,
            stack=stacks.values[numbers],
            handles=handles[numbers],
            allocations=stacks.counts[numbers],
            pages=stacks.pages[numbers],
            rows=stacks.rows(numbers),
        )
        return _details(inventory, groups, signs)

    return Suspects(len(order), stacks.pages[order], make)


def _nobody(places: Array) -> list[Suspect]:
    return []


class _Stacks:
    """Some records, grouped by stack."""

    def __init__(self, records: Snapshot, chosen: Array) -> None:
        """
        :param records: All records.
        :param chosen: ``bool``, a row per record.
        """
        number = len(records.stacks) + 1
        stack = np.full(len(records), -1, np.int32)
        counts, pages = np.zeros(number, np.int64), np.zeros(number, np.int64)
        for piece in slices(len(records)):
            some, mine = records.select(piece), chosen[piece]
            # 0 is no stack.
            stacks = (some.stack + 1)[mine]
            stack[piece][mine] = stacks
            counts += frequencies(stacks, number)
            pages += sums(stacks, some.pages[mine], number)
        used = np.flatnonzero(counts)
        rank = np.full(number + 1, -1, np.int32)
        rank[used] = np.arange(len(used))
        self.group = looked_up(rank, stack)
        """``int32``, a row per record: its group, or -1."""
        self.values = used - 1
        """``int64``, a row per group: index in :attr:`Snapshot.stacks`; -1 for no stack."""
        self.counts = counts[used]
        """``int64``, a row per group: number of records."""
        self.pages = pages[used]
        """``int64``, a row per group: number of base pages."""
        self._order: Array | None = None
        self._looks = 0

    def __len__(self) -> int:
        return len(self.values)

    def pieces(self) -> Iterator[tuple[Array, Array]]:
        """Yield the records some at a time: ``int64``, their indices; and their groups."""
        for piece in slices(len(self.group)):
            mine = np.flatnonzero(self.group[piece] >= 0)
            yield mine + piece.start, self.group[piece][mine]

    def rows(self, groups: Array) -> Array:
        """Return the indices of the records of *groups*, one group after another, ascending in
        each: ``int64``."""
        if self._looks < _LOOKS:
            self._looks += 1
            place = np.full(len(self) + 1, len(groups), np.int32)
            place[groups] = np.arange(len(groups))
            found = np.flatnonzero(looked_up(place < len(groups), self.group))
            result: Array = found[np.argsort(place[self.group[found]], kind="stable")]
            return result
        if self._order is None:
            chosen = np.flatnonzero(self.group >= 0)
            pairs = packed_pairs(self.group[chosen], chosen)
            pairs.sort()
            self._order = unpacked_pairs(pairs)[1].copy()
        starts = np.cumsum(self.counts) - self.counts
        places = ranges(starts[groups], self.counts[groups])
        return self._order[places].astype(np.int64)


@dataclass(frozen=True)
class _Chosen:
    """Some suspected stacks: arrays with an element per stack, ``int64`` unless noted."""

    numbers: Array
    """Index of each stack in the arrays of :class:`_Signs`."""
    stack: Array
    """Index in :attr:`Snapshot.stacks`; -1 for no stack."""
    handles: Array
    """``uint32``; 0 for no stack."""
    allocations: Array
    pages: Array
    """Number of base pages."""
    rows: Array
    """Indices of the records of all stacks, one stack after another."""


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


def _signs(inventory: Inventory, stacks: _Stacks) -> _Signs:
    """
    Look for the signs of leaks.

    :param stacks: Records grouped by stack.
    """
    records, now = inventory.records, inventory.memory.pages.facts.now_ns
    assert records is not None
    periods, old = np.zeros(len(stacks), np.int64), np.zeros(len(stacks), bool)
    extremes = None
    if "ts_nsec" in records:
        oldest = np.full(len(stacks), np.iinfo(np.int64).max)
        newest = np.full(len(stacks), np.iinfo(np.int64).min)
        for rows, each in stacks.pieces():
            times = records["ts_nsec"][rows].astype(np.int64)
            widen(oldest, newest, each, times)
        extremes = oldest, newest
        if now is not None:
            periods, old = _signs_of_time(records, stacks, oldest, newest, now)
    return _Signs(
        periods=periods,
        old=old,
        orphans=_orphans(inventory, stacks),
        gone=module_is_gone(StackTable.of(records, stacks.values)),
        times=extremes,
    )


def _signs_of_time(
    records: Snapshot, stacks: _Stacks, oldest: Array, newest: Array, now: int
) -> tuple[Array, Array]:
    """Return :attr:`_Signs.periods` and :attr:`_Signs.old`, by the times of live allocations."""
    enough = stacks.counts >= _FEWEST
    # Memory in normal use is freed and allocated again, so most of it is young; leaked memory has
    # all ages.
    span = now - oldest
    there, aged = np.zeros(len(stacks) * _WINDOWS, bool), np.zeros(len(stacks), np.int64)
    for rows, each in stacks.pieces():
        times = records["ts_nsec"][rows].astype(np.int64)
        window = (times - oldest[each]) * _WINDOWS // np.maximum(span, 1)[each]
        there[each * np.int64(_WINDOWS) + np.minimum(window, _WINDOWS - 1)] = True
        aged += frequencies(each[times < now // 2], len(stacks))
    filled = there.reshape(-1, _WINDOWS).sum(axis=1)
    grows = enough & (span > 0) & (filled >= _WINDOWS // 2 + 1)
    old = enough & (2 * aged > stacks.counts) & (newest > now // 4) & (now > 0)
    return np.where(grows, filled, 0), old


def _orphans(inventory: Inventory, stacks: _Stacks) -> Array:
    """
    Find the stacks for which the tasks of most records have exited: ``bool``, a row per stack.
    """
    records = inventory.records
    assert records is not None
    if "pid" not in records or not len(stacks):
        return np.zeros(len(stacks), bool)
    dead, tasks = np.zeros(len(stacks), np.int64), list(inventory.tasks)
    for rows, each in stacks.pieces():
        gone = ~np.isin(records["pid"][rows], tasks)
        dead += frequencies(each[gone], len(stacks))
    result: Array = 2 * dead > stacks.counts
    return result


def _details(inventory: Inventory, chosen: _Chosen, signs: _Signs) -> list[Suspect]:
    """Compute the details of some suspects."""
    records, facts = inventory.records, inventory.memory.pages.facts
    assert records is not None
    number = len(chosen.numbers)
    table = StackTable.of(records, chosen.stack)
    names = [*map(str, table.frames), "(no stack)"]
    codes = allocator_codes(table)
    # What is true of the other frames of such a stack depends on it.
    doubtful = table.any(table.marks(lambda frame: not frame.called))
    oldest: list[int | None] = [None] * number
    newest, rates = list(oldest), list[float | None]([None] * number)
    if signs.times is not None:
        oldest, newest = (times[chosen.numbers].tolist() for times in signs.times)
        for place in _growing(
            chosen, signs.times[0][chosen.numbers], signs.times[1][chosen.numbers], facts.now_ns
        ):
            rates[place] = float(chosen.pages[place]) * 3600e9 / (newest[place] - oldest[place])
    each = np.repeat(np.arange(number), chosen.allocations)
    frames, places = table.frames, table.code.tolist()
    result = []
    columns = (
        chosen.numbers, table.starts, table.ends, doubtful, codes, chosen.handles,
        chosen.allocations, chosen.pages,
    )  # fmt: skip
    for (one, start, end, doubt, code, handle, allocations, pages), rate, first, last, tasks in zip(
        zip(*(column.tolist() for column in columns), strict=True),
        rates,
        oldest,
        newest,
        tasks_of_groups(records, chosen.rows, each, number, inventory),
        strict=True,
    ):
        reasons = signs.reasons(one)
        stack, allocator = [frames[place] for place in places[start:end]], names[code]
        if doubt:
            stack = frames_of_stack(stack)
            allocator = str(allocator_of(stack))
        result.append(
            Suspect(
                allocator=allocator,
                handle=handle,
                allocations=allocations,
                pages=pages,
                bytes=pages * facts.page_size,
                score=len(reasons),
                reasons=reasons,
                pages_per_hour=rate,
                oldest_ns=first,
                newest_ns=last,
                tasks=tasks,
                stack=stack,
            )
        )
    return result


def _growing(chosen: _Chosen, oldest: Array, newest: Array, now: int | None) -> list[int]:
    """
    Find the suspects whose growth can be given: their allocations span a large part of the uptime.

    :param oldest: ``int64``, an element per suspect: ``ts_nsec`` of its oldest allocation.
    :param newest: The same of its newest allocation.
    :return: Their indices.
    """
    if now is None:
        return []
    spread = newest - oldest
    enough = (chosen.allocations >= _FEWEST) & (spread >= _SPREAD * now) & (spread > 0)
    result: list[int] = np.flatnonzero(enough).tolist()
    return result
