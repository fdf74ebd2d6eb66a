# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sum up the memory of each process or driver in all classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from drgn_pageowner.analysis.account.page_class import PageClass
from drgn_pageowner.analysis.owners.stack_table import StackTable, modules_of_stacks, per_record
from drgn_pageowner.errors import UsageError
from drgn_pageowner.escape import without_surrogates
from drgn_pageowner.model.arrays import (
    Array,
    begins,
    by_runs,
    distinct,
    frequencies,
    slices,
    sums,
    widen,
)
from drgn_pageowner.model.columns import comm_text
from drgn_pageowner.model.heap import AreaKind, Inventory, record_of_row
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.scratch import large_empty

__all__ = ("HOLDERS", "Holder", "Holders", "columns_for_holders", "holders")

HOLDERS = ("process", "driver")
"""Kinds of holders by which memory can be summed up."""


@dataclass(frozen=True)
class Holder:
    """The memory of one process, with all its threads, or of one module."""

    key: str | int | None
    """The process ID, or the name of the module; ``None`` for memory that no module asked for. The
    process ID is the ``tgid`` of the records; if they have none (see
    :attr:`Holders.threads_apart`), it is the ``pid`` of the thread."""
    name: str | None
    """The name of the task or module; ``None`` where the kernel does not record it."""
    pages: int
    """Number of base pages."""
    bytes: int
    allocations: int | None
    """Number of records; ``None`` if a text was read that does not say."""
    classes: dict[str, int]
    """Class -> base pages, most first; empty where the use of pages is not known."""
    oldest_ns: int | None
    newest_ns: int | None
    alive: bool | None = None
    """Whether the process exists, or the module is loaded; ``None`` where that is not known."""
    command_line: str | None = None
    """Command line of the process, where the dump has it."""
    now: str | None = None
    """Current name of the process with this ID, if it differs from :attr:`name`."""
    cgroup: str | None = None
    """The memory cgroup that most of the memory of the process is charged to."""
    cgroup_pages: int | None = None
    """Base pages that are charged to :attr:`cgroup`, whoever allocated them."""


@dataclass(frozen=True)
class Holders:
    """The largest holders."""

    by: str
    """Kind of the holders: an element of :data:`HOLDERS`."""
    holders: list[Holder]
    number_of_holders: int
    """Number of holders in all, including those that are not in :attr:`holders`."""
    pages: int
    """Number of base pages of all holders."""
    bytes: int
    allocations: int | None
    now_ns: int | None
    threads_apart: bool = False
    """Whether every thread counts as a process, because the records have no ``tgid``. Added in
    Linux kernel commit bf215eab785a ("mm/page_owner.c: record tgid") (in v5.18)."""


@dataclass
class _Found:
    """Holders that were found, in the order of their numbers."""

    code: Array
    """``int32``, a row per record."""
    keys: list[str | int | None]
    names: list[str | None]
    pages: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    """``int64``, shape ``(holders, classes)``; one column without classes."""

    def sums(self, records: Snapshot, weight: Callable[[Snapshot], Array]) -> Array:
        """
        Add up a number of each record: ``int64``, a row per holder.

        :param weight: Function that returns the numbers of some records.
        """
        result = np.zeros(len(self.keys), np.int64)
        for piece in slices(len(records)):
            some = records.select(piece)
            result += sums(self.code[piece], weight(some), len(result))
        return result


def columns_for_holders(by: str) -> frozenset[str]:
    """Return the columns of records that :func:`holders` uses, as far as a kernel has them."""
    if by == "driver":
        return frozenset(("pfn", "handle", "ts_nsec"))
    return frozenset(("pfn", "handle", "ts_nsec", "pid", "tgid", "comm", "memcg"))


def holders(
    records: Snapshot,
    inventory: Inventory | None,
    classes: Array | None,
    by: str,
    *,
    limit: int | None = None,
) -> Holders:
    """
    Sum up *records* by process or driver.

    :param records: Allocated records, or some of them.
    :param inventory: The use of every page; ``None`` if only records are known.
    :param classes: ``uint8``, a row per page of *inventory*.
    :param by: An element of :data:`HOLDERS`.
    :raises UsageError: if the records lack columns that are needed for this
    """
    found = _processes(records, inventory) if by == "process" else _drivers(records)
    if inventory is not None and classes is not None:
        _count_pages(found, records, inventory, classes, modules=by == "driver")
    else:
        found.pages = found.sums(records, lambda some: some.pages).reshape(-1, 1)
    totals = found.pages.sum(axis=1)
    allocations = None
    if records.select(slice(0)).allocations is not None:
        allocations = found.sums(records, _allocations)
    order = np.lexsort((np.arange(len(totals)), -totals))
    order = order[totals[order] > 0]
    oldest, newest = _times(records, found.code, len(totals))
    groups = _cgroups(records, found.code) if by == "process" else {}
    size, labelled = records.facts.page_size, classes is not None
    result = []
    for number in order[:limit].tolist():
        key, name = found.keys[number], found.names[number]
        cgroup, charged = groups.get(number, (None, None))
        alive, now = _life(by, key, name, inventory)
        result.append(
            Holder(
                key=key,
                name=name,
                pages=int(totals[number]),
                bytes=int(totals[number]) * size,
                allocations=None if allocations is None else int(allocations[number]),
                classes=_labels(found.pages[number]) if labelled else {},
                oldest_ns=oldest[number] if oldest is not None else None,
                newest_ns=newest[number] if newest is not None else None,
                alive=alive,
                command_line=_command_line(by, key, inventory),
                now=now,
                cgroup=cgroup,
                cgroup_pages=charged,
            )
        )
    whole = int(totals.sum())
    return Holders(
        by=by,
        holders=result,
        number_of_holders=len(order),
        pages=whole,
        bytes=whole * size,
        allocations=None if allocations is None else int(allocations.sum()),
        now_ns=records.facts.now_ns,
        threads_apart=by == "process" and "tgid" not in records,
    )


def _processes(records: Snapshot, inventory: Inventory | None) -> _Found:
    """
    Assign a number to the process of each record.

    :raises UsageError: if the records do not contain the process that allocated
    """
    column = "tgid" if "tgid" in records else "pid"
    if column not in records:
        raise UsageError(records.lacks("pid"))
    ids, code = _numbered(records[column])
    names: list[str | None] = [None] * len(ids)
    if "comm" in records and len(records):
        for number, comm in _main_comms(records, column, code, len(ids)):
            names[number] = comm
    return _Found(code, [int(number) for number in ids], names)


def _numbered(values: Array) -> tuple[Array, Array]:
    """Return the distinct *values* as :func:`distinct` does, and their indices as ``int32``."""
    found = np.zeros(0, values.dtype)
    for piece in slices(len(values)):
        found = np.union1d(found, distinct(values[piece][begins(values[piece])])[0])

    def place_of(values: Array) -> Array:
        some, place = distinct(values)
        return np.searchsorted(found, some)[place]

    code = large_empty(len(values), np.int32)
    for piece in slices(len(values)):
        code[piece] = by_runs(place_of, values[piece])
    return found, code


def _main_comms(
    records: Snapshot, column: str, code: Array, number: int
) -> Iterator[tuple[int, str]]:
    """
    Yield names of processes; the last one of each process is the one to show.

    :param column: The column that says which process a record belongs to.
    :param code: Number of the process of each record.
    :param number: Number of processes.
    """
    comms, which = _numbered(records["comm"])
    pairs, counts = [], []
    for piece in slices(len(records)):
        found, place = distinct(code[piece].astype(np.int64) * len(comms) + which[piece])
        weight = np.bincount(place, minlength=len(found))
        # Take the name of a process from a record of its main thread, if there is one.
        leads = np.ones(len(place), bool)
        if "pid" in records:
            leads = records["pid"][piece] == records[column][piece]
        weight += sums(place, leads, len(found)) * len(code)
        pairs.append(found)
        counts.append(weight)
    every, place = distinct(np.concatenate(pairs))
    total = np.zeros(len(every), np.int64)
    np.add.at(total, place, np.concatenate(counts))
    for pair in every[np.argsort(total, kind="stable")].tolist():
        yield pair // len(comms), comm_text(comms[pair % len(comms)])


def _drivers(records: Snapshot) -> _Found:
    names: list[str] = []

    def codes(table: StackTable) -> Array:
        found, code = distinct(modules_of_stacks(table).astype(str))
        names.extend(found.tolist())
        return code.astype(np.int32)

    code = per_record(records, codes)
    keys: list[str | int | None] = [name or None for name in names]
    return _Found(code, keys, [name or None for name in names])


def _allocations(records: Snapshot) -> Array:
    numbers = records.allocations
    assert numbers is not None
    return numbers


def _count_pages(
    found: _Found, records: Snapshot, inventory: Inventory, classes: Array, *, modules: bool
) -> None:
    """
    Count the pages of every holder in every class.

    :param modules: Whether holders are modules. The memory with the code and data of a module then
        counts as the module's own, whoever loaded it.
    """
    record = inventory.record_of_row
    if records is not inventory.records:
        record = record_of_row(inventory.memory.pages, records)
    moved, owners = _of_modules(found, inventory, record) if modules else (_NO_ROWS, _NO_ROWS)
    number = len(PageClass)
    cells = np.zeros(len(found.keys) * number, np.int64)
    for piece in slices(len(record)):
        held = np.flatnonzero(record[piece] >= 0)
        key = found.code[record[piece][held]].astype(np.int64) * number
        key += classes[piece][held]
        cells += frequencies(key, len(cells))
    cells -= np.bincount(
        found.code[record[moved]].astype(np.int64) * number + classes[moved], minlength=len(cells)
    )
    cells += np.bincount(owners * number + classes[moved], minlength=len(cells))
    found.pages = cells.reshape(-1, number)


_NO_ROWS = np.zeros(0, np.int64)


def _of_modules(found: _Found, inventory: Inventory, record: Array) -> tuple[Array, Array]:
    """
    Find the memory with the code and data of modules, and add the modules to the holders.

    :param record: Index of the record of each page, or -1.
    :return: Rows of the pages that have a record, and the holder that each belongs to.
    """
    rows, owners = [_NO_ROWS], [_NO_ROWS]
    for area in inventory.areas:
        if area.kind is AreaKind.MODULE and area.name:
            if area.name not in found.keys:
                found.keys.append(area.name)
                found.names.append(area.name)
            mine = area.rows[area.rows >= 0]
            mine = mine[record[mine] >= 0]
            rows.append(mine)
            owners.append(np.full(len(mine), found.keys.index(area.name)))
    # If two areas map a page, the last one counts.
    every, last = np.unique(np.concatenate(rows)[::-1], return_index=True)
    return every, np.concatenate(owners)[::-1][last]


def _labels(pages: Array) -> dict[str, int]:
    """Return the classes that a holder has pages of, most first."""
    order = np.argsort(-pages, kind="stable")
    return {
        PageClass.label_of(number): int(pages[number]) for number in order.tolist() if pages[number]
    }


def _times(
    records: Snapshot, code: Array, number: int
) -> tuple[Sequence[int] | None, Sequence[int] | None]:
    if "ts_nsec" not in records:
        return None, None
    oldest = np.full(number, np.iinfo(np.uint64).max, np.uint64)
    newest = np.zeros(number, np.uint64)
    for piece in slices(len(code)):
        widen(oldest, newest, code[piece], records["ts_nsec"][piece])
    # A module that has only its own code and data has no record, and so no times.
    oldest[oldest > newest] = 0
    return oldest.tolist(), newest.tolist()


def _cgroups(records: Snapshot, code: Array) -> dict[int, tuple[str, int]]:
    """
    Find the memory cgroup that most pages of each holder are charged to.

    :param code: Number of the holder of each record.
    :return: Number of a holder -> the path of the memory cgroup, and all base pages charged to it.
    """
    if "memcg" not in records or not len(records):
        return {}
    memcg = records["memcg"].astype(np.int64)
    charged = np.flatnonzero(memcg >= 0)
    if not len(charged):
        return {}
    most = int(memcg.max()) + 1
    pages = records.pages[charged]
    totals = sums(memcg[charged], pages, most)
    pairs, which = distinct(code[charged] * most + memcg[charged])
    weights = sums(which, pages, len(pairs))
    found = {}
    for place in np.argsort(weights, kind="stable").tolist():
        holder, group = divmod(int(pairs[place]), most)
        found[holder] = records.memcgs[group].path, int(totals[group])
    return found


def _command_line(by: str, key: str | int | None, inventory: Inventory | None) -> str | None:
    if by != "process" or key is None or inventory is None:
        return None
    return inventory.command_lines.get(int(key))


def _life(
    by: str, key: str | int | None, name: str | None, inventory: Inventory | None
) -> tuple[bool | None, str | None]:
    if inventory is None or key is None:
        return None, None
    if by == "driver":
        return key in set(inventory.modules), None
    now = inventory.tasks.get(int(key))
    # The idle task of the boot CPU is in no list of tasks.
    if key == 0:
        return True, None
    same = now is None or name is None or without_surrogates(now) == without_surrogates(name)
    return now is not None, None if same else now
