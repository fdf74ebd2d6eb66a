# SPDX-License-Identifier: LGPL-2.1-or-later
"""Summarize the records of a kernel, and compare them with the kernel's own counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from drgn_pageowner.model.arrays import Array, frequencies, slices, sums
from drgn_pageowner.model.info import Consistency, Info
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Stacks

__all__ = ("consistency", "summarize")


class _Sums:
    """Numbers of some records, to which those of others can be added."""

    def __init__(self) -> None:
        self.records: int | None = 0
        self.freed = 0
        self.pages: int | None = 0
        self.first_ns: int | None = None
        self._handles: list[Array] = []
        self._pages: list[Array] = []

    def add(self, records: Snapshot) -> None:
        """Add the numbers of *records*, a piece at a time."""
        for piece in [*slices(len(records))] or [slice(0)]:
            self._add(records.select(piece))

    def _add(self, records: Snapshot) -> None:
        allocated = records["allocated"]
        self.freed += int(np.count_nonzero(~allocated))
        mine = records.select(allocated)
        number = mine.count()
        self.records = None if number is None or self.records is None else self.records + number
        if not records.says_pages():
            self.pages = None
        pages = mine.pages if records.says_pages() else np.zeros(len(mine), np.int64)
        if self.pages is not None:
            self.pages += int(pages.sum())
        if "ts_nsec" in mine and len(mine):
            first = int(mine["ts_nsec"].min())
            self.first_ns = first if self.first_ns is None else min(first, self.first_ns)
        stack = mine.stack + 1
        there = np.flatnonzero(frequencies(stack, 1)[1:])
        self._handles.append(records.stacks.handles[there])
        self._pages.append(sums(stack, pages, len(records.stacks) + 1)[1:][there])

    def of_stacks(self, stacks: Stacks) -> tuple[Array, Array]:
        """
        Return the number of pages of each stack, and whether it has a record.

        :param stacks: Those of all records.
        :return: ``int64`` and ``bool``, a row per stack.
        """
        pages, there = np.zeros(len(stacks), np.int64), np.zeros(len(stacks), bool)
        for handles, some in zip(self._handles, self._pages, strict=True):
            # A handle is in a part once. There are no stacks if the depot cannot be read.
            number = stacks.index(handles)
            known = number >= 0
            pages[number[known]] += some[known]
            there[number[known]] = True
        return pages, there


def consistency(snapshot: Snapshot) -> Consistency | None:
    """
    Compare ``stack_record.count`` with the pages of the records.

    :return: ``None`` for kernels without a count, that is, before Linux kernel commit 217b2119b9e2
        ("mm,page_owner: implement the tracking of the stacks count") (in v6.9).
    """
    if snapshot.stacks.counts is None:
        return None
    found = _Sums()
    found.add(snapshot)
    return _consistency(snapshot.stacks, found.of_stacks(snapshot.stacks)[0])


def _consistency(stacks: Stacks, ours: Array) -> Consistency | None:
    """
    Compare the kernel's numbers of pages with ours.

    :param ours: ``int64``, a row per stack.
    """
    counts = stacks.counts
    if counts is None:
        return None
    # init_pages_in_zone() gives pages the early-boot stack without counting them.
    counted = (counts > 0) | ((ours > 0) & (counts >= 0))
    early = (counts == 0) & (ours > 0)
    counted &= ~early
    different = np.flatnonzero(counted & (counts != ours))
    by_size = different[np.argsort(-np.abs(counts - ours)[different], kind="stable")]
    return Consistency(
        stacks=int(counted.sum()),
        equal=int((counted & (counts == ours)).sum()),
        different=[(int(stacks.handles[i]), int(counts[i]), int(ours[i])) for i in by_size],
        kernel_pages=int(counts[counted].sum()),
        our_pages=int(ours[counted].sum()),
    )


def summarize(
    records: Snapshot | Iterable[Snapshot], modules: Sequence[str], panic_message: str | None
) -> Info:
    """
    Compute the numbers that ``info`` prints.

    :param records: A snapshot with records of freed pages and the columns ``handle`` and
        ``ts_nsec``; or the parts of one.
    """
    found = _Sums()
    for part in [records] if isinstance(records, Snapshot) else records:
        found.add(part)
    pages, there = found.of_stacks(part.stacks)
    return Info(
        facts=replace(part.facts, panic_message=panic_message),
        records=found.records,
        freed_records=found.freed,
        pages=found.pages,
        stacks=int(np.count_nonzero(there)),
        first_ns=found.first_ns,
        coverage=part.coverage,
        consistency=_consistency(part.stacks, pages),
        modules=modules,
        problems=part.problems,
    )
