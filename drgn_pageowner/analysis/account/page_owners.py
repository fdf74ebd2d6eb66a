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
from drgn_pageowner.analysis.frag.mobility import Blocks
from drgn_pageowner.analysis.owners.stack_table import StackTable, allocator_names, per_record
from drgn_pageowner.model.arrays import Array, among, distinct, frequencies, slices, sums
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.scratch import large_empty
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
    "record_classes",
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
    of_record: Array
    """``int32``, a row per record: index of its allocator in :attr:`names`."""
    record_of_row: Array
    """``int32``, a row per page: the record that covers it, or -1."""
    classes: Array
    """``uint8``, a row per page: :class:`PageClass`."""

    @property
    def number(self) -> int:
        """Return the number of codes."""
        return len(self.names) + len(PageClass)

    def codes(self, piece: slice) -> Array:
        """
        Return the allocators of some pages: ``int64``, an index in :attr:`names` for each, or
        ``len(names)`` plus the class.
        """
        code = self.classes[piece].astype(np.int64) + len(self.names)
        recorded = np.flatnonzero(self.record_of_row[piece] >= 0)
        code[recorded] = self.of_record[self.record_of_row[piece][recorded]]
        return code

    def name(self, code: int) -> str:
        """Return the name of a code: an allocator, or ``"(slab, no record)"``."""
        if code < len(self.names):
            return self.names[code]
        return f"({PageClass(code - len(self.names)).label}, no record)"


def owner_table(inventory: Inventory, classes: Array) -> OwnerTable:
    """
    Find the allocator of every page.

    :param classes: The result of
        :func:`~drgn_pageowner.analysis.account.page_class.page_classes`.
    """
    records = inventory.records
    if records is None or not len(records):
        return OwnerTable([], np.zeros(0, np.int32), inventory.record_of_row, classes)
    names: list[str] = []

    def codes(table: StackTable) -> Array:
        named = allocator_names(table)
        named[named == ""] = "(no stack)"
        found, code = distinct(named.astype(str))
        names.extend(found.tolist())
        return code.astype(np.int32)

    of_record = per_record(records, codes)
    return OwnerTable(names, of_record, inventory.record_of_row, classes)


def owners_by_class(table: OwnerTable, limit: int) -> list[ClassOwners]:
    """
    Sum up the allocators of every class, most pages first.

    :param limit: Maximum number of allocators to list for a class; the others are summed up.
    """
    number = table.number
    total = np.zeros(len(PageClass) * number, np.int64)
    for piece in slices(len(table.classes)):
        key = table.classes[piece].astype(np.int64) * number
        key += table.codes(piece)
        total += frequencies(key, len(total))
    counts = total.reshape(len(PageClass), number)
    counts[PageClass.ABSENT] = 0
    result = []
    for kind in np.flatnonzero(counts.any(axis=1)).tolist():
        recorded = counts[kind, : len(table.names)]
        found = [(table.names[code], int(recorded[code])) for code in np.flatnonzero(recorded)]
        nobodys = int(counts[kind, len(table.names) :].sum())
        found += [(NO_RECORD, nobodys)] if nobodys else []
        found.sort(key=lambda owner: (-owner[1], owner[0]))
        result.append(
            ClassOwners(
                name=PageClass(kind).label,
                pages=int(counts[kind].sum()),
                owners=found[:limit],
                other_owners=len(found[limit:]),
                other_pages=sum(pages for _, pages in found[limit:]),
            )
        )
    return sorted(result, key=lambda row: -row.pages)


@kept
def record_classes(inventory: Inventory, records: Snapshot, classes: Array) -> Array:
    """
    Return the class of the first page of each record: ``uint8``, a row per record;
    :attr:`PageClass.UNKNOWN` for a record of a page without a ``struct page``.

    :param classes: ``uint8``, a row per page.
    """
    pages = inventory.memory.pages
    result = large_empty(len(records), np.uint8)
    for piece in slices(len(records)):
        rows = pages.rows(records["pfn"][piece])
        result[piece] = np.where(rows >= 0, classes[rows], PageClass.UNKNOWN)
    return result


def ages_by_class(inventory: Inventory, classes: Array) -> list[AgeBand]:
    """Count pages by age of their records, youngest first; empty if this kernel records no
    times."""
    records = inventory.records
    if records is None or "ts_nsec" not in records or records.facts.now_ns is None:
        return []
    of_record = record_classes(inventory, records, classes)
    now = records.facts.now_ns
    names, limits = _bands(now)
    shape = (len(names), len(PageClass))
    pages, allocations = np.zeros(shape, np.int64), np.zeros(len(names), np.int64)
    for piece in slices(len(records)):
        ages = np.uint64(now) - np.minimum(records["ts_nsec"][piece], np.uint64(now))
        band = np.searchsorted(limits, ages, "right")
        key = band * shape[1] + of_record[piece]
        pages += sums(key, records.select(piece).pages, pages.size).reshape(shape)
        allocations += frequencies(band, len(names))
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


def _bands(now: int) -> tuple[list[str], Array]:
    """
    Divide the uptime into bands of age.

    :param now: The uptime, in nanoseconds.
    :return: Their names, youngest first, and ``uint64``: the age that each but the first begins at.
    """
    # Bands shorter than a second are only used if the machine was up for less than 10 s.
    least = 1000 if now >= 10**10 else 0
    bounds = [ms for ms in _BOUNDS if ms >= least and ms * 10**6 < now]
    bounds = bounds[-(_MOST_BANDS - 1) :]
    names = [_bound(ms) for ms in bounds]
    if not names:
        return [f"up to {age(now)}"], np.zeros(0, np.uint64)
    between = [_between(one, other) for one, other in pairwise(names)]
    labels = [f"< {names[0]}", *between, f"> {names[-1]}"]
    return labels, np.array([ms * 10**6 for ms in bounds], np.uint64)


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
    owners: OwnerTable,
    table: BlockTable,
    block: Array | Blocks,
    maps: Sequence[BlockMap],
    limit: int,
) -> list[list[list[tuple[str, int]]]]:
    """
    Find the allocators with most pages in every cell of a map; free pages do not count.

    :param block: Number of each page's pageblock: ``int32``, a row per page.
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
    found_pairs, found_counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for piece in slices(len(block)):
        # Numbers of blocks ascend, so a piece has few cells.
        of_page = cell_of_block[block[piece]]
        lowest = int(of_page[0])
        key = (of_page - lowest) * owners.number
        key += owners.codes(piece)
        key = key[~among(owners.classes[piece], _NOBODYS)]
        in_piece = frequencies(key)
        present = np.flatnonzero(in_piece)
        found_pairs.append(present + lowest * owners.number)
        found_counts.append(in_piece[present])
    # The last cell of a piece may be the first of the next.
    pairs, place = np.unique(np.concatenate(found_pairs), return_inverse=True)
    counts = sums(place.reshape(-1), np.concatenate(found_counts), len(pairs))
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
