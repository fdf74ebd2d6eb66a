# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the place (node or variable) that contains each word of memory, and the offset in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from drgn_pageowner.model.arrays import (
    Array,
    Growing,
    ascending,
    kept_rows,
    looked_up,
    packed_pairs,
    ranges,
    slices,
    sparse_zeros,
)
from drgn_pageowner.model.heap import Area
from drgn_pageowner.model.pages import Pages
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.threads import in_threads
from drgn_pageowner.model.types import Pointers

__all__ = ("AllocationPages", "Intervals", "PointerList")

_FARTHEST = np.iinfo(np.int32).max
_SIGN = np.int32(np.iinfo(np.int32).min)
# Number of records that are looked at together.
_PIECE = 1 << 18


class AllocationPages:
    """
    Map from pages to allocations, and to the position of each page in its allocation.

    A vmalloc area is one allocation that consists of several records.
    """

    def __init__(
        self, record_of_row: Array, pages: Pages, records: Snapshot, areas: Sequence[Area]
    ) -> None:
        """
        :param record_of_row: ``int32``, a row for each page: the record that covers it, or -1.
        :param records: The records, in PFN order, with ``pfn`` and ``order``.
        """
        self.page_of_row = sparse_zeros(len(record_of_row), np.int32)
        """``int32``: number of the page in its allocation."""
        # Most records are the first of their allocation.
        self._after_first = sparse_zeros(len(records), np.int32)
        for part in slices(len(records), _PIECE):
            number = np.flatnonzero(records["order"][part]) + part.start
            first = pages.rows(records["pfn"][number])
            number, first = number[first >= 0], first[first >= 0]
            sizes = np.minimum(records.select(number).pages, len(pages) - first)
            rows, page = ranges(first, sizes), ranges(np.zeros(len(first), np.int64), sizes)
            mine = record_of_row[rows] == np.repeat(number, sizes)
            self.page_of_row[rows[mine]] = page[mine]
        for area in areas:
            good = np.flatnonzero(area.rows >= 0)
            rows = area.rows[good]
            record = record_of_row[rows]
            good, rows, record = (column[record >= 0] for column in (good, rows, record))
            if len(rows) and good[0] == 0:
                self.page_of_row[rows] = good
                # The last page of a record decides.
                after = np.minimum(rows + 1, len(record_of_row) - 1)
                last = (record_of_row[after] != record) | (after == rows)
                self._after_first[record[last]] = record[last] - record[0]

    def first_record(self, records: Array) -> Array:
        """Return the first record of each record's allocation: ``int64``."""
        result: Array = records - self._after_first[records].astype(np.int64)
        return result


class Intervals:
    """Ranges of memory that do not overlap, with a search for the range that contains a byte."""

    def __init__(self, rows: Array, first: Array, sizes: Array, page_size: int) -> None:
        """
        :param rows: ``int64``, shape ``(n,)``: row of the page in which each range begins; -1 to
            skip the range.
        :param first: ``int64``, shape ``(n,)``: offset of the range in that page, in bytes.
        :param sizes: ``int64``, shape ``(n,)``: size of the range, in bytes; a range does not cross
            the end of its page.
        """
        key = rows * page_size + first
        order = np.argsort(key, kind="stable")
        order = order[(rows[order] >= 0) & (sizes[order] > 0)]
        self._number, self._start = order, key[order]
        self._end = self._start + sizes[order]
        self._page_size = page_size
        self.rows = ascending(rows[order].copy())
        """``int64``: rows of the pages that contain ranges."""
        self._has = sparse_zeros(int(self.rows[-1]) + 1 if len(self.rows) else 0, np.bool_)
        self._has[self.rows] = True

    def find(self, rows: Array, offset: Array) -> tuple[Array, Array]:
        """
        Find the range that contains each byte.

        :param rows: ``int64``, shape ``(n,)``: row of the page of each byte.
        :param offset: ``int64``, shape ``(n,)``: offset of the byte in the page, in bytes.
        :return: Index of the range (``int64``; -1 for none), and the offset of the byte in it.
        """
        number, at = np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.int64)
        if not len(self._start):
            return number, at
        # Most words are in pages without any.
        some = np.flatnonzero(rows < len(self._has))
        some = some[self._has[rows[some]]]
        key = rows[some] * self._page_size + offset[some]
        place = np.maximum(np.searchsorted(self._start, key, "right") - 1, 0)
        inside = (key >= self._start[place]) & (key < self._end[place])
        some, place, key = some[inside], place[inside], key[inside]
        number[some], at[some] = self._number[place], key - self._start[place]
        return number, at


def split_at_pages(first: Array, sizes: Array, page_size: int) -> tuple[Array, Array, Array, Array]:
    """
    Split ranges of memory at page boundaries.

    :param first: ``int64``, shape ``(n,)``: offset of each range in its first page, in bytes.
    :param sizes: ``int64``, shape ``(n,)``: size of each range, in bytes.
    :return: For each piece: index of the range, number of the page within the range, offset in that
        page, and size; ``int64``.
    """
    pages = -(-(first + sizes) // page_size)
    number = np.repeat(np.arange(len(first)), pages)
    page = ranges(np.zeros(len(first), np.int64), pages)
    start = np.where(page == 0, first[number], 0)
    end = np.minimum(first[number] + sizes[number] - page * page_size, page_size)
    return number, page, start, end - start


class PointerList:
    """Accumulates pointers that are found in batches."""

    def __init__(self) -> None:
        self._columns = tuple(Growing(np.int32) for _ in range(4))

    def add(self, place: Array, offset: Array, target: Array, at: Array) -> None:
        """
        Add pointers, except those whose place or target is -1.

        The arguments are ``int64``, shape ``(n,)``, and have the meaning of the columns of
        :class:`Pointers`.
        """
        good = (place >= 0) & (target >= 0)
        for column, values in zip(self._columns, (place, offset, target, at), strict=True):
            part = values[good]
            # An offset that does not fit in int32 is larger than any type, so it is stored as
            # unknown.
            part[part > _FARTHEST] = -1
            column.add(part)

    def extend(self, later: PointerList) -> None:
        """Add the pointers of another list."""
        for column, more in zip(self._columns, later._columns, strict=True):
            column.extend(more)

    def sorted(self, is_good: Callable[[Array, Array], Array]) -> Pointers:
        """
        Return pointers, sorted by place and offset, and clear the list.

        :param is_good: Function of places and targets that says which pointers to return: ``bool``.
            It is called in several threads.
        """
        columns = [column.take() for column in self._columns]
        place, _, target, _ = columns
        good = np.empty(len(place), bool)

        def check(rows: slice) -> None:
            good[rows] = is_good(place[rows], target[rows])

        in_threads(check, slices(len(place)))
        place, offset, target, at = in_threads(lambda column: kept_rows(column, good), columns)
        # The sign bit is changed, so that -1 is less than other offsets. Most pointers are in order
        # already.
        order = np.argsort(packed_pairs(place, offset ^ _SIGN), kind="stable")
        return Pointers(*(looked_up(column, order) for column in (place, offset, target, at)))
