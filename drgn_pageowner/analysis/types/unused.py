# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the unused parts of arrays, whose words are old values and not references."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.analysis.types.slots import Slots
from drgn_pageowner.model.arrays import Array, places_of, sparse_zeros
from drgn_pageowner.model.heap import Heap
from drgn_pageowner.model.types import Counted, HeapTypes

__all__ = ("UnusedParts",)


class UnusedParts:
    """
    The unused parts of arrays, if other members of the structure show how much is in use.

    Only structures whose type is certain are used.
    """

    def __init__(self, heap: Heap, types: HeapTypes, slots: Slots, callbacks: Array) -> None:
        """
        :param heap: A heap that was read with types.
        :param callbacks: ``int64``: rows of those pointers that are the link (``next``) of a
            ``struct rcu_head``.
        """
        assert heap.typing is not None
        self._heap, self._types, self._slots = heap, types, slots
        self._pointers, self._read = heap.typing.pointers, heap.typing.read
        parts = [np.zeros((3, 0), np.int64)]
        if self._read is not None:
            in_order = np.argsort(types.type, kind="stable")
            in_order = in_order[types.exact[in_order]]
            for array in types.table.counted():
                parts.append(self._of(array, in_order))
            parts.append(self._of_callbacks(callbacks))
        place, start, end = np.concatenate(parts, axis=1)
        order = np.lexsort((start, place))
        self._key, self._end = (place[order] << 32) | start[order], end[order]
        self._partly = sparse_zeros(len(types.type), np.bool_)
        self._partly[place] = True

    def __len__(self) -> int:
        return len(self._key)

    def has(self, place: Array, offset: Array) -> Array:
        """
        Return whether each word is in an unused part: ``bool``.

        :param place: ``int32``, shape ``(n,)``: node or variable that contains each word.
        :param offset: Integers: offset of the word in it, in bytes; -1 if unknown.
        """
        result = np.zeros(len(place), bool)
        if not len(self._key) or not len(place):
            return result
        mine = np.flatnonzero(self._partly[place])
        place, offset = place[mine].astype(np.int64), offset[mine].astype(np.int64)
        key = (place << 32) | np.maximum(offset, 0)
        before = np.maximum(np.searchsorted(self._key, key, "right") - 1, 0)
        same = self._key[before] >> 32 == place
        result[mine] = (
            same & (key >= self._key[before]) & (offset < self._end[before]) & (offset >= 0)
        )
        return result

    def _of(self, array: Counted, in_order: Array) -> Array:
        """
        Find the unused parts of an array in all structures that have it.

        :return: Place, and offsets of the start and of the end in the place, in bytes: ``int64``,
            shape ``(3, n)``.
        """
        place, base = self._structures(array.type, in_order)
        if not len(place):
            return np.zeros((3, 0), np.int64)
        used, good = self._member(place, base, array.used)
        length, known = self._member(place, base, array.length)
        stride, also = self._member(place, base, array.stride)
        good &= known & also & (stride > 0)
        length = length + array.last_index
        start = used
        if array.tail is not None:
            tail, known = self._member(place, base, array.tail)
            # Both head and tail are counters that may wrap around.
            bits = 8 * array.used[1]
            used = (used - tail) & ((1 << bits) - 1)
            good &= known & (length & (length - 1) == 0)
            start = start & np.maximum(length - 1, 0)
        good &= (used >= 0) & (used <= length) & (length > 0) & (length * stride < 1 << 31)
        at = base + array.array
        if array.pointed:
            row = self._pointers_at(place, at)
            good, start, used, length, stride = (
                column[row >= 0] for column in (good, start, used, length, stride)
            )
            row = row[row >= 0]
            place = self._pointers.target[row].astype(np.int64)
            at = self._pointers.at[row].astype(np.int64)
            good &= at >= 0
        place, at, start, used, length, stride = (
            column[good] for column in (place, at, start, used, length, stride)
        )
        # The unused part of a ring may continue at its beginning.
        end = start + length - used
        rest = np.maximum(end - length, 0)
        parts = [
            np.stack([place, at + start * stride, at + np.minimum(end, length) * stride]),
            np.stack([place, at, at + rest * stride]),
        ]
        found = np.concatenate(parts, axis=1)
        return found[:, found[2] > found[1]]

    def _of_callbacks(self, rows: Array) -> Array:
        """
        Find the links of those ``struct rcu_head`` that were not passed to ``call_rcu()``. These
        links have old values.

        The word after the link of an ``rcu_head`` that was passed to ``call_rcu()`` is the address
        of a function. For ``kvfree_rcu()`` it is the offset of the ``rcu_head`` in the object or,
        since Linux kernel commit 04a522b7da3d ("rcu: Refactor kvfree_call_rcu() and high-level
        helpers") (in v6.3), the address of the object.

        :return: Columns as :meth:`_of` returns them.
        """
        code = self._heap.typing.code if self._heap.typing is not None else np.zeros((0, 2))
        if not len(code) or not len(rows):
            return np.zeros((3, 0), np.int64)
        word = self._types.table.word
        place = self._pointers.place[rows].astype(np.int64)
        offset = self._pointers.offset[rows].astype(np.int64)
        # Each allocation of per-CPU memory has several copies.
        own = (place < self._heap.first_percpu) | (place >= self._heap.nodes)
        place, offset = place[own], offset[own]
        assert self._read is not None
        function, known = self._read(place, offset + word, word)
        address = function.astype(np.uint64)
        order = np.argsort(code[:, 0])
        which = np.searchsorted(code[order, 0], address, "right") - 1
        called = (which >= 0) & (address < code[order, 1][np.maximum(which, 0)])
        row = self._pointers_at(place, offset + word)
        itself = (row >= 0) & (self._pointers.target[np.maximum(row, 0)] == place)
        stale = known & ~called & ~itself & (function != offset)
        return np.stack([place, offset, offset + word])[:, stale]

    def _member(
        self, place: Array, base: Array, member: int | tuple[int, int]
    ) -> tuple[Array, Array]:
        """
        Return the value of a member in each structure (``int64``), and whether it is known.

        :param member: A constant, which is returned for all structures; or offset and size of the
            member, in bytes.
        """
        if isinstance(member, int):
            return np.full(len(place), member, np.int64), np.ones(len(place), bool)
        assert self._read is not None
        return self._read(place, base + member[0], member[1])

    def _structures(self, number: int, in_order: Array) -> tuple[Array, Array]:
        """
        Find the structures of type *number*: places of this type, or members of places of other
        types.

        :param in_order: Places whose type is certain, ordered by type.
        :return: Place, and offset of the structure in it: ``int64``.
        """
        types = self._types.type[in_order]
        self._slots.need(np.unique(types))
        self._slots.need(np.array([number]))
        _, outer, offset = self._slots.containers(np.array([number], np.int64))
        places, bases = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for of, at in set(zip(outer.tolist(), offset.tolist(), strict=True)):
            first, end = places_of(types, [of, of + 1])
            if first == end or self._slots.repeat[of]:
                continue
            mine = in_order[first:end]
            places.append(mine)
            bases.append(self._types.origin[mine].astype(np.int64) + at)
        place, base = np.concatenate(places), np.concatenate(bases)
        # Leave out per-CPU memory: an allocation is one place, but has several copies.
        heap = self._heap
        good = (place < heap.first_percpu) | (place >= heap.nodes)
        return place[good], base[good]

    def _pointers_at(self, place: Array, offset: Array) -> Array:
        """Return the index of the pointer at each offset of a place; -1 if there is no pointer."""
        first = places_of(self._pointers.place, place)
        end = places_of(self._pointers.place, place, "right")
        result = np.full(len(place), -1, np.int64)
        # Binary search for all rows at once: the pointers of a place are in the order of offsets.
        low, high = first.copy(), end.copy()
        offsets = self._pointers.offset
        if not len(offsets):
            return result
        while (low < high).any():
            middle = (low + high) // 2
            less = (low < high) & (offsets[np.minimum(middle, len(offsets) - 1)] < offset)
            low = np.where(less, middle + 1, low)
            high = np.where(~less & (low < high), middle, high)
        found = (low < end) & (offsets[np.minimum(low, len(offsets) - 1)] == offset)
        result[found] = low[found]
        return result
