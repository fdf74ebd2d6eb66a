# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare readings of a running kernel's records to see which groups grow."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.group import tally
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame

__all__ = ("Growth", "Round", "RoundKind", "Watch")

_Counts = tuple[int, int]
"""Pages and allocations."""


class RoundKind(enum.StrEnum):
    """Kinds of :class:`Round`; the values are those of JSON."""

    FIRST = "first"
    """The first reading."""
    ROUND = "round"
    """A reading compared with the one before."""
    SUMMARY = "summary"
    """The last reading compared with the first."""


@dataclass(frozen=True)
class Growth:
    """A group that has more pages than before."""

    key: dict[str, Any]
    """As :attr:`drgn_pageowner.analysis.owners.group.Group.key`."""
    pages: int
    """Base pages now."""
    allocations: int
    grown_pages: int
    """Growth since the previous round, in pages."""
    grown_allocations: int
    pages_per_second: float | None
    """``None`` if the kernel's clock stood still."""
    grown_pages_since_start: int
    """Growth since the first round, in pages."""
    grown_allocations_since_start: int
    pages_per_second_since_start: float | None
    rounds_grown: int
    """Number of rounds in which it grew."""
    handle: int
    """``depot_stack_handle_t`` of the stack with the most pages; 0 for none."""
    stack: list[Frame]


@dataclass(frozen=True)
class Round:
    """One reading compared with the one before, and with the first."""

    kind: RoundKind
    number: int
    """Number of readings before this one."""
    by: list[str]
    now_ns: int | None
    """The clock of the records (``local_clock()``)."""
    elapsed_ns: int | None
    """Time since the previous round; for a summary, since the first."""
    elapsed_ns_since_start: int | None
    allocations: int
    """Number of records that the filters let through."""
    pages: int
    grown_pages: int
    """Growth of all groups together; may be negative."""
    grown_pages_since_start: int
    number_of_groups: int
    """Number of groups that have grown, shown or not."""
    groups: list[Growth]
    """The groups that have grown, largest growth first."""


class Watch:
    """
    Compare snapshots of one running kernel, which are passed to :meth:`add` one after another.
    """

    def __init__(self, by: Sequence[str] = ("stack",), *, limit: int | None = None) -> None:
        """
        :param by: Keys, of :data:`drgn_pageowner.analysis.owners.group.GROUP_KEYS`.
        :param limit: Maximum number of groups to return of each round.
        """
        self.by = list(by)
        self.rounds = 0
        """Number of rounds after the first."""
        self._limit = limit
        self._snapshot: Snapshot | None = None
        self._first: _Reading | None = None
        self._last: _Reading | None = None
        self._grew: dict[tuple[Any, ...], int] = {}

    def add(self, snapshot: Snapshot) -> Round:
        """
        Compare *snapshot* with the one before.

        :raises UsageError: if a key is unknown, or this kernel does not record it
        """
        reading = _Reading(snapshot, self.by)
        before, self._last, self._snapshot = self._last, reading, snapshot
        if self._first is None or before is None:
            self._first = reading
            return self._round(RoundKind.FIRST, reading)
        self.rounds += 1
        for key, counts in reading.groups.items():
            if counts[0] > before.of(key)[0]:
                self._grew[key] = self._grew.get(key, 0) + 1
        return self._round(RoundKind.ROUND, before)

    def summary(self) -> Round | None:
        """Compare the last reading with the first; ``None`` if there are not two."""
        if self._first is None or not self.rounds:
            return None
        return self._round(RoundKind.SUMMARY, self._first)

    def _round(self, kind: RoundKind, before: _Reading) -> Round:
        first, now, snapshot = self._first, self._last, self._snapshot
        assert first is not None
        assert now is not None
        assert snapshot is not None
        elapsed, in_all = now.since(before), now.since(first)
        grown = [key for key, counts in now.groups.items() if counts[0] > before.of(key)[0]]
        grown.sort(
            key=lambda key: (
                before.of(key)[0] - now.of(key)[0],
                first.of(key)[0] - now.of(key)[0],
                str(key),
            )
        )
        groups = []
        for key in grown[: self._limit]:
            (pages, allocations), handle = now.of(key), now.handles[key]
            grown_pages, since_start = pages - before.of(key)[0], pages - first.of(key)[0]
            number = int(snapshot.stacks.index(np.array([handle], np.uint32))[0])
            groups.append(
                Growth(
                    key=dict(zip(self.by, key, strict=True)),
                    pages=pages,
                    allocations=allocations,
                    grown_pages=grown_pages,
                    grown_allocations=allocations - before.of(key)[1],
                    pages_per_second=_rate(grown_pages, elapsed),
                    grown_pages_since_start=since_start,
                    grown_allocations_since_start=allocations - first.of(key)[1],
                    pages_per_second_since_start=_rate(since_start, in_all),
                    rounds_grown=self._grew.get(key, 0),
                    handle=handle,
                    stack=snapshot.stack_frames(number),
                )
            )
        return Round(
            kind=kind,
            number=self.rounds,
            by=self.by,
            now_ns=now.now_ns,
            elapsed_ns=elapsed,
            elapsed_ns_since_start=in_all,
            allocations=now.allocations,
            pages=now.pages,
            grown_pages=now.pages - before.pages,
            grown_pages_since_start=now.pages - first.pages,
            number_of_groups=len(grown),
            groups=groups,
        )


class _Reading:
    """The pages and allocations of every group in one snapshot."""

    def __init__(self, snapshot: Snapshot, by: Sequence[str]) -> None:
        counted = tally(snapshot, by)
        self.now_ns = snapshot.facts.now_ns
        pages, allocations = counted.pages.tolist(), counted.allocations.tolist()
        self.groups: dict[tuple[Any, ...], _Counts] = dict(
            zip(counted.keys, zip(pages, allocations, strict=True), strict=True)
        )
        self.handles = dict(zip(counted.keys, counted.handles.tolist(), strict=True))
        self.pages, self.allocations = sum(pages), sum(allocations)

    def of(self, key: tuple[Any, ...]) -> _Counts:
        """Return the counts of a group, which are 0 if it has no records."""
        return self.groups.get(key, (0, 0))

    def since(self, other: _Reading) -> int | None:
        """Return the time from *other* to this reading: nanoseconds of the kernel's clock."""
        if self.now_ns is None or other.now_ns is None:
            return None
        return self.now_ns - other.now_ns


def _rate(pages: int, elapsed_ns: int | None) -> float | None:
    return pages * 10**9 / elapsed_ns if elapsed_ns else None
