# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sum up the memory of each process or driver in all classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.account.holder_sums import (
    CoveredByRecords,
    FoundDrivers,
    FoundHolders,
    FoundProcesses,
)
from drgn_pageowner.analysis.account.page_class import PageClass
from drgn_pageowner.escape import without_surrogates
from drgn_pageowner.model.arrays import Array, frequencies, slices
from drgn_pageowner.model.heap import AreaKind, Inventory, record_of_row
from drgn_pageowner.model.records import Snapshot

__all__ = ("HOLDERS", "Holder", "Holders", "columns_for_holders", "holders")

# Number of records that are looked at together.
_ROWS = 1 << 19
_NO_ROWS = np.zeros(0, np.int64)

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


def columns_for_holders(by: str) -> frozenset[str]:
    """Return the columns of records that :func:`holders` uses, as far as a kernel has them."""
    if by == "driver":
        return frozenset(("pfn", "handle", "ts_nsec"))
    return frozenset(("pfn", "handle", "ts_nsec", "pid", "tgid", "comm", "memcg"))


def holders(
    records: Snapshot | Iterable[Snapshot],
    inventory: Inventory | None,
    classes: Array | None,
    by: str,
    *,
    limit: int | None = None,
) -> Holders:
    """
    Sum up records by process or driver.

    :param records: Allocated records, or some of them; or parts of these, of a dump, which need not
        be in memory together.
    :param inventory: The use of every page; ``None`` if only records are known.
    :param classes: ``uint8``, a row per page of *inventory*.
    :param by: An element of :data:`HOLDERS`.
    :raises UsageError: if the records lack columns that are needed for this
    """
    found: FoundProcesses | FoundDrivers = FoundProcesses() if by == "process" else FoundDrivers()
    covered = CoveredByRecords()
    by_pages = inventory is not None and classes is not None
    known = inventory is not None and records is inventory.records
    for part in _pieces(records) if isinstance(records, Snapshot) else records:
        found.add(part)
        if by_pages and not known:
            covered.add(part)
    last = found.finish()
    pages = found.pages.reshape(-1, 1)
    if inventory is not None and classes is not None:
        record = inventory.record_of_row
        every = not isinstance(records, Snapshot) and len(covered) == len(inventory.records or ())
        if not (known or every):
            record = record_of_row(inventory.memory.pages, covered.records(last))
        pages = _count_pages(found, record, inventory, classes)
    totals, allocations = pages.sum(axis=1), found.allocations
    order = np.lexsort((np.arange(len(totals)), -totals))
    order = order[totals[order] > 0]
    groups = found.cgroups() if isinstance(found, FoundProcesses) else {}
    size, labelled = last.facts.page_size, classes is not None
    result = []
    for number in order[:limit].tolist():
        key, name = found.keys[number], found.names[number]
        cgroup, charged = groups.get(number, (None, None))
        alive, now = _life(by, key, name, inventory)
        oldest, newest = found.times_of(number)
        result.append(
            Holder(
                key=key,
                name=name,
                pages=int(totals[number]),
                bytes=int(totals[number]) * size,
                allocations=None if allocations is None else int(allocations[number]),
                classes=_labels(pages[number]) if labelled else {},
                oldest_ns=oldest,
                newest_ns=newest,
                alive=alive,
                command_line=_command_line(by, key, inventory),
                now=now,
                cgroup=cgroup,
                cgroup_pages=charged,
            )
        )
    sum_of_pages = int(totals.sum())
    return Holders(
        by=by,
        holders=result,
        number_of_holders=len(order),
        pages=sum_of_pages,
        bytes=sum_of_pages * size,
        allocations=None if allocations is None else int(allocations.sum()),
        now_ns=last.facts.now_ns,
        threads_apart=by == "process" and "tgid" not in last,
    )


def _pieces(records: Snapshot) -> Iterable[Snapshot]:
    """Return *records* in parts, of which there is at least one."""
    return records.pieces(_ROWS) if len(records) > _ROWS else (records,)


def _count_pages(found: FoundHolders, record: Array, inventory: Inventory, classes: Array) -> Array:
    """
    Count the pages of every holder in every class.

    If holders are modules, the memory with the code and data of a module counts as the module's
    own, whoever loaded it.

    :param record: Index of the record of each page, or -1.
    :return: ``int64``, shape ``(holders, classes)``.
    """
    moved = owners = _NO_ROWS
    if isinstance(found, FoundDrivers):
        moved, owners = _of_modules(found, inventory, record)
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
    return cells.reshape(-1, number)


def _of_modules(found: FoundHolders, inventory: Inventory, record: Array) -> tuple[Array, Array]:
    """
    Find the memory with the code and data of modules, and add the modules to the holders.

    :param record: Index of the record of each page, or -1.
    :return: Rows of the pages that have a record, and the holder that each belongs to.
    """
    rows, owners = [_NO_ROWS], [_NO_ROWS]
    for area in inventory.areas:
        if area.kind is AreaKind.MODULE and area.name:
            holder = found.holder_of(area.name)
            mine = area.rows[area.rows >= 0]
            mine = mine[record[mine] >= 0]
            rows.append(mine)
            owners.append(np.full(len(mine), holder))
    # If two areas map a page, the last one counts.
    every, last = np.unique(np.concatenate(rows)[::-1], return_index=True)
    return every, np.concatenate(owners)[::-1][last]


def _labels(pages: Array) -> dict[str, int]:
    """Return the classes that a holder has pages of, most first."""
    order = np.argsort(-pages, kind="stable")
    return {
        PageClass.label_of(number): int(pages[number]) for number in order.tolist() if pages[number]
    }


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
