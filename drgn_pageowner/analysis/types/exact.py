# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the words that can be references, among words in memory whose type is certain."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.analysis.types.slots import Slots
from drgn_pageowner.analysis.types.unused import UnusedParts
from drgn_pageowner.model.arrays import Array, slices
from drgn_pageowner.model.heap import Heap, Word
from drgn_pageowner.model.types import HeapTypes, TypedBy, WordUse

__all__ = ("ReferenceWords", "find_references")


class ReferenceWords:
    """The words of a heap that can be references according to the inferred types."""

    def __init__(self, heap: Heap, types: HeapTypes) -> None:
        """
        :param heap: A heap that was read with types.
        """
        assert heap.typing is not None
        self.types = types
        self._slots = Slots(types.table)
        pointers = heap.typing.pointers
        use, sure = self.uses(pointers.place, pointers.offset)
        callbacks = np.flatnonzero(sure & (use & np.uint8(WordUse.CALLBACK) != 0))
        self.unused = UnusedParts(heap, types, self._slots, callbacks)
        unused = self.unused.has(pointers.place, pointers.offset)
        address = use & np.uint8(WordUse.ADDRESS) != 0
        # A member that is a pointer to a struct page cannot point into the contents of a page.
        address &= (use & np.uint8(WordUse.MEMMAP) == 0) | (pointers.at < 0)
        self.counts: Array = (~sure | address) & ~unused
        """``bool``, a row per element of :attr:`Typing.pointers`: whether the word can be a
        pointer."""
        self.exact: Array = sure & address & ~unused
        """``bool``, a row per element of :attr:`Typing.pointers`: whether the word is a pointer
        according to a type that is certain."""
        use, sure = self.uses(heap.pfn_holder, heap.pfn_offset)
        number = use & np.uint8(WordUse.NUMBER) != 0
        # In objects of a cache with one type, a member that contains PFNs has a name that says so.
        number &= (use & np.uint8(WordUse.UNNAMED) == 0) | ~self._of_cache(heap.pfn_holder)
        self.numbers: Array = ~sure | number
        """``bool``, a row per word of :attr:`Heap.pfn_holder`: whether the word can be a
        PFN."""

    def _of_cache(self, place: Array) -> Array:
        """Return whether each place is an object of a slab cache with objects of one type:
        ``bool``."""
        result: Array = np.isin(self.types.by[place], (TypedBy.CACHE, TypedBy.CONSENSUS))
        return result

    def counts_word(self, word: Word) -> tuple[bool, bool]:
        """Return whether a word can be a reference, and whether a certain type decides that."""
        place = np.array([max(word.place, 0)], np.int64)
        offset = np.array([word.offset if word.place >= 0 else -1], np.int64)
        if self.unused.has(place, offset)[0]:
            return False, True
        use, sure = self.uses(place, offset)
        if not sure[0]:
            return True, False
        number = word.by in ("PFN", "physical address")
        wanted = WordUse.NUMBER if number else WordUse.ADDRESS
        memmap = bool(use[0] & WordUse.MEMMAP) and word.by not in ("struct page", "PFN")
        unnamed = number and bool(use[0] & WordUse.UNNAMED) and bool(self._of_cache(place)[0])
        return bool(use[0] & wanted) and not (memmap or unnamed), True

    def uses(self, place: Array, offset: Array) -> tuple[Array, Array]:
        """
        Return the possible meanings of words, as far as the types of their nodes are certain.

        :param place: ``int32``, shape ``(n,)``: node or variable that contains each word.
        :param offset: Integers, shape ``(n,)``: offset of the word in it, in bytes; -1 if unknown.
        :return: Flags of :class:`WordUse` (``uint8``); and whether the type of the node or variable
            is certain and contains the word (``bool``).
        """
        use, sure = np.zeros(len(place), np.uint8), np.zeros(len(place), bool)
        for rows in slices(len(place)):
            exact = np.flatnonzero(self.types.exact[place[rows]] & (offset[rows] >= 0))
            exact += rows.start
            mine = place[exact]
            number = self.types.type[mine].astype(np.int64)
            self._slots.need(number)
            slot = self._slots.of(number, offset[exact].astype(np.int64) - self.types.origin[mine])
            known = slot >= 0
            use[exact[known]] = self._slots.use[slot[known]]
            sure[exact[known]] = True
        return use, sure


def find_references(heap: Heap) -> ReferenceWords | None:
    """
    Infer the types of *heap*, and find the words that can be references according to these types.

    :return: ``None`` for a heap that was read without types.
    """
    return ReferenceWords(heap, infer_types(heap)) if heap.typing is not None else None
