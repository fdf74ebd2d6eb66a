# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words of memory that are no addresses, but name pages by their numbers."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.pages import Pages, PageState

__all__ = ("Numbers",)


class Numbers:
    """Finds words that name the first page of a record: by PFN, or by its physical address."""

    def __init__(self, pages: Pages, inventory: Inventory, mark: int = 0) -> None:
        """
        :param mark: A bit that devices' tables have set in physical addresses; 0 for none.
        """
        self._mark = np.uint64(mark)
        self._shift = np.uint64(pages.facts.page_size.bit_length() - 1)
        self._end = np.uint64(pages.facts.max_pfn)
        assert inventory.records is not None
        pfns = inventory.records["pfn"]
        rows = pages.rows(pfns)
        kinds = (PageState.KERNEL, PageState.LARGE_KMALLOC, PageState.NETPP)
        good = (rows >= 0) & (pfns < pages.facts.max_pfn)
        good[good] = np.isin(pages.state[rows[good]], kinds)
        self._record = np.full(pages.facts.max_pfn + 1, -1, np.int64)
        self._record[pfns[good]] = np.flatnonzero(good)

    def find(self, data: Array) -> tuple[Array, Array, Array]:
        """
        :param data: ``uint64``, shape ``(n,)``.
        :return: Places in *data* of words that name a page, and its record: ``int64``; and
            whether the word is two PFNs of 32 bits (there once for each): ``bool``.
        """
        # Without zeroes: one less is the largest number.
        low = np.flatnonzero(data - np.uint64(1) < (self._end << np.uint64(32)) - np.uint64(1))
        words = data[low]
        pairs, records = self._pairs(words)
        one = np.flatnonzero(words < self._end << self._shift)
        single, record = self._singles(words[one])
        marked, of_marked = self._marked(data)
        places = np.concatenate([low[one[single]], marked, low[pairs], low[pairs]])
        pair = np.arange(len(places)) >= len(single) + len(marked)
        return places, np.concatenate([record, of_marked, records[0], records[1]]), pair

    def _marked(self, data: Array) -> tuple[Array, Array]:
        """Words that are physical addresses with the mark, and their records."""
        if not self._mark:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        place = np.flatnonzero(data - self._mark < self._end << self._shift)
        addresses = data[place] - self._mark
        # A PFN with the mark is none that is known.
        addresses[addresses < self._end] = self._end << self._shift
        good, record = self._singles(addresses)
        return place[good], record

    def _pairs(self, words: Array) -> tuple[Array, Array]:
        """Words that are two PFNs of 32 bits, and the records of both: shape ``(2, n)``."""
        low, high = words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)
        place = np.flatnonzero((high != 0) & (low != 0) & (low < self._end) & (high < self._end))
        both = self._record[np.stack([low[place], high[place]]).astype(np.int64)]
        good = (both >= 0).all(axis=0) & (both[0] != both[1])
        return place[good], both[:, good]

    def _singles(self, words: Array) -> tuple[Array, Array]:
        physical = (words & ((np.uint64(1) << self._shift) - np.uint64(1))) == 0
        pfns = np.where(words < self._end, words, words >> self._shift)
        pfns[(words >= self._end) & ~physical] = self._end
        record: Array = self._record[pfns.astype(np.int64)]
        found = np.flatnonzero(record >= 0)
        return found, record[found]
