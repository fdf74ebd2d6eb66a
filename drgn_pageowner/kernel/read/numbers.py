# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words of memory that refer to pages by PFN or physical address."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.model.arrays import Array, among, ranges
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.pages import Pages, PageState

__all__ = ("Numbers",)

# The smallest part of a hash table that is recognized by its markers.
_SHORTEST_TABLE = 64
# States of pages whose PFNs the kernel's code stores to refer to them.
_KINDS = (PageState.KERNEL, PageState.LARGE_KMALLOC, PageState.NETPP)


class Numbers:
    """Finds words that equal the PFN or the physical address of the first page of a record."""

    def __init__(self, pages: Pages, inventory: Inventory, mark: int = 0) -> None:
        """
        :param mark: A bit that is set in physical addresses in tables that devices read; 0 if this
            architecture has no such bit.
        """
        self._mark = np.uint64(mark)
        self._shift = np.uint64(pages.facts.page_size.bit_length() - 1)
        self._end = np.uint64(pages.facts.max_pfn)
        assert inventory.records is not None
        self._pages, self._record_of_row = pages, inventory.record_of_row
        self._pfns = inventory.records["pfn"]

    def find(self, data: Array) -> tuple[Array, Array, Array]:
        """
        Find the words that refer to the first page of a record.

        :param data: ``uint64``, shape ``(n,)``: words of memory.
        :return: Indices in *data* of such words, and the page's record: ``int64``; and whether the
            word consists of two 32-bit PFNs: ``bool``. A word that consists of two such PFNs is
            returned twice, once for each.
        """
        # Zero is excluded, because subtracting 1 makes it the largest number.
        low = np.flatnonzero(data - np.uint64(1) < (self._end << np.uint64(32)) - np.uint64(1))
        low = low[~_markers(data[low])]
        words = data[low]
        pairs, records = self._pairs(words)
        one = np.flatnonzero(words < self._end << self._shift)
        single, record = self._singles(words[one])
        marked, of_marked = self._marked(data)
        places = np.concatenate([low[one[single]], marked, low[pairs], low[pairs]])
        pair = np.arange(len(places)) >= len(single) + len(marked)
        return places, np.concatenate([record, of_marked, records[0], records[1]]), pair

    def _marked(self, data: Array) -> tuple[Array, Array]:
        """Find physical addresses that have the bit *mark* set; return indices and records."""
        if not self._mark:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        place = np.flatnonzero(data - self._mark < self._end << self._shift)
        addresses = data[place] - self._mark
        # A PFN with the mark is not the PFN of any record.
        addresses[addresses < self._end] = self._end << self._shift
        good, record = self._singles(addresses)
        return place[good], record

    def _pairs(self, words: Array) -> tuple[Array, Array]:
        """Find words that consist of two 32-bit PFNs, and the records of both: shape ``(2, n)``."""
        low, high = words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)
        place = np.flatnonzero((high != 0) & (low != 0) & (low < self._end) & (high < self._end))
        both = self._records_at(np.concatenate([low[place], high[place]])).reshape(2, -1)
        good = (both >= 0).all(axis=0) & (both[0] != both[1])
        return place[good], both[:, good]

    def _records_at(self, pfns: Array) -> Array:
        """
        Return the record whose first page each PFN is: ``int64``; -1 if there is none.

        :param pfns: ``uint64``, shape ``(n,)``: numbers up to ``max_pfn``.
        """
        result = np.full(len(pfns), -1, np.int64)
        pfns = pfns.astype(np.int64)
        rows = self._pages.rows(pfns)
        place = np.flatnonzero((rows >= 0) & (pfns < int(self._end)))
        place = place[among(self._pages.state[rows[place]], _KINDS)]
        record = self._record_of_row[rows[place]]
        good = (record >= 0) & (self._pfns[record] == pfns[place])
        result[place[good]] = record[good]
        return result

    def _singles(self, words: Array) -> tuple[Array, Array]:
        physical = (words & ((np.uint64(1) << self._shift) - np.uint64(1))) == 0
        pfns = np.where(words < self._end, words, words >> self._shift)
        pfns[(words >= self._end) & ~physical] = self._end
        record = self._records_at(pfns)
        found = np.flatnonzero(record >= 0)
        return found, record[found]


def _markers(words: Array) -> Array:
    """
    Find the ends of empty lists in hash tables: ``bool``, the shape of *words*.

    The kernel's tables of TCP sockets, for example, mark the end of the list of each bucket with
    NULLS_MARKER() of include/linux/list_nulls.h: ``1 | number << 1``, where *number* is the index
    of the bucket. Empty buckets therefore contain odd numbers that increase by two. A long run of
    such words is taken for a hash table, not for PFNs.

    :param words: ``uint64``, in the order of their addresses.
    """
    step = np.diff(words) == 2
    step &= (words[1:] & np.uint64(1)) != 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], step, [False]]).astype(np.int8)))
    start, end = edges[::2], edges[1::2]
    long = end - start >= _SHORTEST_TABLE
    result = np.zeros(len(words), bool)
    # A run of n steps has n + 1 words.
    result[ranges(start[long], (end - start)[long] + 1)] = True
    return result
