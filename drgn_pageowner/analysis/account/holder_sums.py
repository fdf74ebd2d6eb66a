# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sum up records by their process or driver, a part of the records at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.stack_table import StackTable, modules_of_stacks
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.arrays import (
    Array,
    Growing,
    Narrow,
    Numbering,
    distinct,
    looked_up,
    runs,
    sums,
    widen,
)
from drgn_pageowner.model.columns import comm_text
from drgn_pageowner.model.records import SeenMemcgs, Snapshot

__all__ = ("CoveredByRecords", "FoundDrivers", "FoundHolders", "FoundProcesses")

_NO_ROWS = np.zeros(0, np.int64)
_NEVER = np.iinfo(np.uint64).max


class CoveredByRecords:
    """The pages that records begin at, and their orders."""

    def __init__(self) -> None:
        self._pfn: Growing | None = None
        self._order = Growing(np.uint8)

    def __len__(self) -> int:
        return len(self._order)

    def add(self, records: Snapshot) -> None:
        """Add some records."""
        if self._pfn is None:
            narrow = records.facts.max_pfn <= np.iinfo(np.uint32).max
            self._pfn = Growing(np.uint32 if narrow else np.int64)
        self._pfn.add(records["pfn"])
        self._order.add(records["order"])

    def records(self, last: Snapshot) -> Snapshot:
        """
        Return all records, with the columns ``pfn`` and ``order``.

        :param last: The last records that were added.
        """
        assert self._pfn is not None
        pfn: Any = self._pfn.take()
        if pfn.dtype == np.uint32:
            pfn = Narrow(pfn)
        return replace(last, columns={"pfn": pfn, "order": self._order.take()})


def _longer(values: Array, number: int, more: int = 0) -> Array:
    """Return *values*, and *more* until there are *number* of them."""
    return np.append(values, np.full(number - len(values), more, values.dtype))


class FoundHolders:
    """What was found in the records, by the number of their holder."""

    def __init__(self) -> None:
        self.keys: list[str | int | None] = []
        self.names: list[str | None] = []
        self.code = np.zeros(0, np.int32)
        """``int32``, a row per record: the number of its holder."""
        self.pages = np.zeros(0, np.int64)
        """``int64``, a row per holder: base pages of its records."""
        self.allocations: Array | None = np.zeros(0, np.int64)
        """``int64``, a row per holder; ``None`` if a text was read that does not say."""
        self._oldest = np.zeros(0, np.uint64)
        self._newest = np.zeros(0, np.uint64)
        self._timed = False
        self._codes = Growing(np.int32)
        self._last: Snapshot | None = None

    def _add(self, records: Snapshot, code: Array, number: int) -> None:
        """
        Add up the columns of some records.

        :param code: The number of the holder of each record.
        :param number: Number of holders so far.
        """
        self._codes.add(code)
        self._last = records
        counts = records.allocations
        if counts is None:
            self.allocations = None
        self._grow(number)
        self.pages += sums(code, records.pages, number)
        if counts is not None and self.allocations is not None:
            self.allocations += sums(code, counts, number)
        self._timed = "ts_nsec" in records
        if self._timed:
            widen(self._oldest, self._newest, code, records["ts_nsec"])

    def _renumber(self, number_of: Array, number: int) -> Snapshot:
        """
        Give the holders other numbers.

        :param number_of: The new number of each holder; several may become one.
        :param number: Number of new numbers.
        :return: The last records that were added.
        """
        assert self._last is not None
        self.code = looked_up(number_of.astype(np.int32), self._codes.take())
        self.pages = sums(number_of, self.pages, number)
        if self.allocations is not None:
            self.allocations = sums(number_of, self.allocations, number)
        oldest, newest = np.full(number, _NEVER, np.uint64), np.zeros(number, np.uint64)
        np.minimum.at(oldest, number_of, self._oldest)
        np.maximum.at(newest, number_of, self._newest)
        self._oldest, self._newest = oldest, newest
        return self._last

    def holder_of(self, key: str) -> int:
        """Return the number of the holder *key*, which is added if there is none."""
        if key not in self.keys:
            self.keys.append(key)
            self.names.append(key)
            self._grow(len(self.keys))
        return self.keys.index(key)

    def _grow(self, number: int) -> None:
        """Make room for *number* holders."""
        self.pages = _longer(self.pages, number)
        if self.allocations is not None:
            self.allocations = _longer(self.allocations, number)
        self._oldest = _longer(self._oldest, number, _NEVER)
        self._newest = _longer(self._newest, number)

    def times_of(self, number: int) -> tuple[int, int] | tuple[None, None]:
        """Return the times of the oldest and the newest record of a holder, if records have any."""
        if not self._timed:
            return None, None
        oldest, newest = int(self._oldest[number]), int(self._newest[number])
        # A module that has only its own code and data has no record, and so no times.
        return (oldest, newest) if oldest <= newest else (0, 0)


class FoundProcesses(FoundHolders):
    """Processes that have records."""

    def __init__(self) -> None:
        super().__init__()
        self._ids, self._comms = Numbering(), Numbering()
        self._named, self._counts, self._leads = Numbering(), _NO_ROWS, _NO_ROWS
        self._memcgs = SeenMemcgs()
        self._charged, self._weights = Numbering(), _NO_ROWS

    def add(self, records: Snapshot) -> None:
        """
        Add the processes of some records.

        :raises UsageError: if the records do not contain the process that allocated
        """
        column = "tgid" if "tgid" in records else "pid"
        if column not in records:
            raise UsageError(records.lacks("pid"))
        code = self._ids.of(records[column])
        self._add(records, code, len(self._ids))
        if "comm" in records:
            self._add_names(records, column, code)
        if "memcg" in records:
            memcg = self._memcgs.indices(records)
            charged = np.flatnonzero(memcg >= 0)
            pairs = self._charged.of(_pairs(code[charged], memcg[charged]))
            self._weights = _longer(self._weights, len(self._charged))
            self._weights += sums(pairs, records.pages[charged], len(self._weights))

    def _add_names(self, records: Snapshot, column: str, code: Array) -> None:
        pairs = _pairs(code, self._comms.of(records["comm"]))
        # Take the name of a process from a record of its main thread, if there is one.
        leads = np.ones(len(code), bool)
        if "pid" in records:
            leads = records["pid"] == records[column]
        first, lengths = runs(pairs, leads)
        named = self._named.of(pairs[first])
        number = len(self._named)
        self._counts = _longer(self._counts, number) + sums(named, lengths, number)
        leading = lengths * leads[first]
        self._leads = _longer(self._leads, number) + sums(named, leading, number)

    def finish(self) -> Snapshot:
        """Number the processes by their IDs, and return the last records that were added."""
        ids = self._ids.values
        rank = _ranks(ids)
        last = self._renumber(rank, len(ids))
        self.keys = np.sort(ids).tolist()
        self.names = [None] * len(ids)
        comms = self._comms.values
        of_pair, of_comm = _unpaired(self._named.values)
        process = rank[of_pair]
        weight = self._counts + self._leads * len(self.code)
        # The last name of each process is the one to show.
        for pair in np.lexsort((_ranks(comms)[of_comm], process, weight)).tolist():
            self.names[process[pair]] = comm_text(comms[of_comm[pair]])
        self._charged_pairs = rank[_unpaired(self._charged.values)[0]]
        return last

    def cgroups(self) -> dict[int, tuple[str, int]]:
        """
        Find the memory cgroup that most pages of each process are charged to.

        :return: Number of a process -> the path of the memory cgroup, and all base pages charged to
            it.
        """
        memcgs, memcg = self._memcgs.by_path(_unpaired(self._charged.values)[1])
        totals = sums(memcg, self._weights, len(memcgs))
        process = self._charged_pairs
        return {
            int(process[pair]): (memcgs[memcg[pair]].path, int(totals[memcg[pair]]))
            for pair in np.lexsort((memcg, process, self._weights)).tolist()
        }


class FoundDrivers(FoundHolders):
    """Modules that have records, or none, by the stacks of the records."""

    def __init__(self) -> None:
        super().__init__()
        self._handles = Numbering()

    def add(self, records: Snapshot) -> None:
        """Add the drivers of some records."""
        handles = records["handle"] if "handle" in records else np.zeros(len(records), np.uint32)
        code = self._handles.of(handles)
        self._add(records, code, len(self._handles))

    def finish(self) -> Snapshot:
        """Find the module of each stack, and return the last records that were added."""
        assert self._last is not None
        stacks = self._last.stacks.index(self._handles.values.astype(np.uint32))
        table = StackTable.of(self._last, stacks)
        names, module = distinct(modules_of_stacks(table).astype(str))
        self.names = [name or None for name in names.tolist()]
        self.keys = [*self.names]
        return self._renumber(module, len(names))


def _pairs(first: Array, second: Array) -> Array:
    """Return pairs of numbers from 0 on as one number each: ``int64``."""
    return first.astype(np.int64) << 32 | second


def _unpaired(pairs: Array) -> tuple[Array, Array]:
    """Return the numbers in the result of :func:`_pairs`."""
    return pairs >> 32, pairs & (1 << 32) - 1


def _ranks(values: Array) -> Array:
    """Return the place of each of some distinct values in their order: ``int64``."""
    result = np.empty(len(values), np.int64)
    result[np.argsort(values)] = np.arange(len(values))
    return result
