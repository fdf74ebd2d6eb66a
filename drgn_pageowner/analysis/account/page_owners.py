# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the allocator of every page, and count pages by class, age and location."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from drgn_pageowner.analysis.account.page_class import PageClass
from drgn_pageowner.analysis.frag.blockmap import BlockMap
from drgn_pageowner.analysis.frag.blocks import BlockTable
from drgn_pageowner.analysis.owners.stack_table import StackTable, allocator_names
from drgn_pageowner.model.arrays import Array, distinct
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.units import age

__all__ = (
    "NO_RECORD",
    "AgeBand",
    "ClassOwners",
    "OwnerTable",
    "ages_by_class",
    "owner_table",
    "owners_by_class",
    "owners_of_cells",
)

NO_RECORD = "(no record)"
_NOBODYS = (PageClass.FREE, PageClass.FREE_PCP, PageClass.ABSENT)


@dataclass(frozen=True)
class ClassOwners:
    """The allocators of one class."""

    name: str
    """Label of a :class:`PageClass`."""
    pages: int
    """Number of base pages; the sum of :attr:`owners` and :attr:`other_pages`."""
    owners: list[tuple[str, int]]
    """Name of the allocator and number of base pages, largest first. A name may be
    :data:`NO_RECORD`."""
    other_owners: int
    """Number of allocators that are not in :attr:`owners`."""
    other_pages: int


@dataclass(frozen=True)
class AgeBand:
    """Memory of about the same age."""

    age: str
    """Its bounds: ``"10-30 s"``. The bands are chosen for the uptime."""
    allocations: int
    pages: int
    """Number of base pages; the sum of :attr:`classes`."""
    classes: dict[str, int]
    """Class -> base pages, most first."""


@dataclass(frozen=True)
class OwnerTable:
    """The allocator of every page."""

    names: list[str]
    """Names of allocators; codes past the end stand for pages without a record, one for each
    class."""
    code: Array
    """``int64``, a row per page: index in :attr:`names`, or ``len(names)`` plus the class."""
    classes: Array
    """``uint8``, a row per page: :class:`PageClass`."""

    @property
    def number(self) -> int:
        """Return the number of codes."""
        return len(self.names) + len(PageClass)

    def name(self, code: int) -> str:
        """Return the name of a code: an allocator, or ``"(slab, no record)"``."""
        if code < len(self.names):
            return self.names[code]
        return f"({PageClass(code - len(self.names)).label}, no record)"


@kept
def owner_table(inventory: Inventory, classes: Array) -> OwnerTable:
    """
    Find the allocator of every page.

    :param classes: The result of
        :func:`~drgn_pageowner.analysis.account.page_class.page_classes`.
    """
    records = inventory.records
    code = classes.astype(np.int64)
    if records is None or not len(records):
        return OwnerTable([], code, classes)
    numbers, stack = distinct(records.stack)
    named = allocator_names(StackTable.of(records, numbers))
    named[named == ""] = "(no stack)"
    names, of_stack = distinct(named.astype(str))
    of_record = of_stack[stack]
    code += len(names)
    recorded = np.flatnonzero(inventory.record_of_row >= 0)
    code[recorded] = of_record[inventory.record_of_row[recorded]]
    return OwnerTable(names.tolist(), code, classes)


def owners_by_class(table: OwnerTable, limit: int) -> list[ClassOwners]:
    """
    Sum up the allocators of every class, most pages first.

    :param limit: Maximum number of allocators to list for a class; the others are summed up.
    """
    shape = (len(PageClass), table.number)
    key = table.classes.astype(np.int64) * table.number + table.code
    counts = np.bincount(key, minlength=shape[0] * shape[1]).reshape(shape)
    counts[PageClass.ABSENT] = 0
    result = []
    for number in np.flatnonzero(counts.any(axis=1)).tolist():
        recorded = counts[number, : len(table.names)]
        found = [(table.names[code], int(recorded[code])) for code in np.flatnonzero(recorded)]
        nobodys = int(counts[number, len(table.names) :].sum())
        found += [(NO_RECORD, nobodys)] if nobodys else []
        found.sort(key=lambda owner: (-owner[1], owner[0]))
        result.append(
            ClassOwners(
                name=PageClass(number).label,
                pages=int(counts[number].sum()),
                owners=found[:limit],
                other_owners=len(found[limit:]),
                other_pages=sum(pages for _, pages in found[limit:]),
            )
        )
    return sorted(result, key=lambda row: -row.pages)


def ages_by_class(inventory: Inventory, classes: Array) -> list[AgeBand]:
    """Count pages by age of their records, youngest first; empty if this kernel records no
    times."""
    records = inventory.records
    if records is None or "ts_nsec" not in records or records.facts.now_ns is None:
        return []
    rows = inventory.memory.pages.rows(records["pfn"])
    kinds = np.where(rows >= 0, classes[rows], PageClass.UNKNOWN).astype(np.int64)
    names, band = _bands(records)
    shape = (len(names), len(PageClass))
    key = band * shape[1] + kinds
    pages = np.bincount(key, records.pages, shape[0] * shape[1]).reshape(shape).astype(np.int64)
    allocations = np.bincount(band, minlength=len(names))
    result = []
    for number, name in enumerate(names):
        order = np.argsort(-pages[number], kind="stable")
        of_class = {
            PageClass(kind).label: int(pages[number, kind])
            for kind in order.tolist()
            if pages[number, kind]
        }
        result.append(AgeBand(name, int(allocations[number]), int(pages[number].sum()), of_class))
    return result


# Round numbers of seconds, minutes, hours and days as bounds of age bands, in milliseconds.
_BOUNDS = tuple(
    1000 * second // 10
    for second in (
        1, 2, 5, 10, 20, 50, 100, 200, 300, 600, 1200, 3000, 6000, 18000, 36000, 108000, 216000,
        432000, 864000, 1728000, 6048000, 12096000, 25920000, 77760000, 157680000, 315360000,
    )
)  # fmt: skip
_MOST_BANDS = 8


def _bands(records: Snapshot) -> tuple[list[str], Array]:
    """
    Divide the uptime into bands of age.

    :return: Their names, youngest first, and ``int64``, a row per record: its band.
    """
    now = np.uint64(records.facts.now_ns or 0)
    # Bands shorter than a second are only used if the machine was up for less than 10 s.
    least = 1000 if now >= 10**10 else 0
    bounds = [ms for ms in _BOUNDS if ms >= least and ms * 10**6 < int(now)]
    bounds = bounds[-(_MOST_BANDS - 1) :]
    limits = np.array([ms * 10**6 for ms in bounds], np.uint64)
    ages = now - np.minimum(records["ts_nsec"], now)
    names = [_bound(ms) for ms in bounds]
    if not names:
        return [f"up to {age(int(now))}"], np.zeros(len(records), np.int64)
    between = [_between(one, other) for one, other in pairwise(names)]
    labels = [f"< {names[0]}", *between, f"> {names[-1]}"]
    return labels, np.searchsorted(limits, ages, "right").astype(np.int64)


def _between(one: str, other: str) -> str:
    """Return ``"1-2 s"`` or ``"30 s - 1 min"``."""
    (number, unit), unit_of_other = one.split(), other.split()[1]
    return f"{number}-{other}" if unit == unit_of_other else f"{one} - {other}"


def _bound(ms: int) -> str:
    for unit, scale in (("d", 86400000), ("h", 3600000), ("min", 60000), ("s", 1000)):
        if ms >= scale:
            return f"{ms / scale:g} {unit}"
    return f"{ms} ms"


def owners_of_cells(
    owners: OwnerTable, table: BlockTable, block: Array, maps: Sequence[BlockMap], limit: int
) -> list[list[list[tuple[str, int]]]]:
    """
    Find the allocators with most pages in every cell of a map; free pages do not count.

    :param block: ``int64``, a row per page: number of its pageblock.
    :param maps: Of :func:`~drgn_pageowner.analysis.frag.blockmap.block_map`.
    :param limit: Maximum number of allocators to list for a cell.
    :return: For every cell of every map, allocators and base pages, most first.
    """
    if not maps:
        return []
    # A cell of a map: consecutive pageblocks whose first page is in the same zone.
    group = np.arange(len(table.part_of)) // maps[0].blocks_per_cell
    zone = table.part_of.astype(np.int64)
    group = group * (int(zone.max(initial=0)) + 2) + zone + 1
    changes = np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1])
    cell_of_block = np.repeat(np.arange(len(changes)), np.diff(np.append(changes, len(group))))
    rows = np.flatnonzero(~np.isin(owners.classes, _NOBODYS))
    key = cell_of_block[block[rows]] * owners.number + owners.code[rows]
    pairs, counts = np.unique(key, return_counts=True)
    cell, code = pairs // owners.number, pairs % owners.number
    order = np.lexsort((code, -counts, cell))
    cell, code, counts = cell[order], code[order], counts[order]
    first = np.searchsorted(cell, cell)
    kept = np.arange(len(cell)) - first < limit
    found: dict[int, list[tuple[str, int]]] = {}
    for where, who, pages in zip(
        cell[kept].tolist(), code[kept].tolist(), counts[kept].tolist(), strict=True
    ):
        found.setdefault(where, []).append((owners.name(who), pages))
    # Cells of a map are identified by their first pageblock.
    order_of = table.pages.bit_length() - 1
    return [
        [found.get(int(cell_of_block[cell.pfn >> order_of]), []) for cell in one.cells]
        for one in maps
    ]
