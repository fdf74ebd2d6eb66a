# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the place (node or variable) that contains each word of memory, and the offset in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drgn_pageowner.model.arrays import Array, ascending, ranges
from drgn_pageowner.model.heap import Area
from drgn_pageowner.model.types import Pointers

__all__ = ("AllocationPages", "Intervals", "PointerList")

_FARTHEST = np.iinfo(np.int32).max


class AllocationPages:
    """
    Map from pages to allocations, and to the position of each page in its allocation.

    A vmalloc area is one allocation that consists of several records.
    """

    def __init__(self, record_of_row: Array, first_row: Array, areas: Sequence[Area]) -> None:
        """
        :param record_of_row: ``int32``, a row for each page: the record that covers it, or -1.
        :param first_row: ``int64``, a row for each record: row of its first page.
        """
        covered = record_of_row >= 0
        self.node_of_row = record_of_row.copy()
        """``int32``: the first record of the page's allocation, or -1."""
        self.page_of_row = np.zeros(len(record_of_row), np.int32)
        """``int32``: number of the page in its allocation."""
        rows = np.flatnonzero(covered)
        self.page_of_row[rows] = rows - first_row[record_of_row[rows]]
        for area in areas:
            good = np.flatnonzero(area.rows >= 0)
            rows = area.rows[good]
            good, rows = good[covered[rows]], rows[covered[rows]]
            if len(rows) and good[0] == 0:
                self.node_of_row[rows] = record_of_row[rows[0]]
                self.page_of_row[rows] = good


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

    def find(self, rows: Array, offset: Array) -> tuple[Array, Array]:
        """
        Find the range that contains each byte.

        :param rows: ``int64``, shape ``(n,)``: row of the page of each byte.
        :param offset: ``int64``, shape ``(n,)``: offset of the byte in the page, in bytes.
        :return: Index of the range (``int64``; -1 for none), and the offset of the byte in it.
        """
        if not len(self._start):
            return np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.int64)
        key = rows * self._page_size + offset
        place = np.maximum(np.searchsorted(self._start, key, "right") - 1, 0)
        inside = (key >= self._start[place]) & (key < self._end[place])
        return np.where(inside, self._number[place], -1), key - self._start[place]


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
        self._parts: list[Array] = [np.zeros((4, 0), np.int32)]

    def add(self, place: Array, offset: Array, target: Array, at: Array) -> None:
        """
        Add pointers, except those whose place or target is -1.

        The arguments are ``int64``, shape ``(n,)``, and have the meaning of the columns of
        :class:`Pointers`.
        """
        good = (place >= 0) & (target >= 0)
        part = np.stack([place[good], offset[good], target[good], at[good]])
        # An offset that does not fit in int32 is larger than any type, so it is stored as unknown.
        part[1][part[1] > _FARTHEST] = -1
        part[3][part[3] > _FARTHEST] = -1
        self._parts.append(part.astype(np.int32))

    def extend(self, later: PointerList) -> None:
        """Add the pointers of another list."""
        self._parts += later._parts

    def sorted(self) -> Pointers:
        """Return all pointers, sorted by place and offset, and clear the list."""
        place, offset, target, at = np.concatenate(self._parts, axis=1)
        self._parts.clear()
        order = np.lexsort((offset, place))
        return Pointers(place[order], offset[order], target[order], at[order])
