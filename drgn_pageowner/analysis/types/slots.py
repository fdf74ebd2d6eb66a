# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look up the words of many types at once."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.model.arrays import Array, ranges
from drgn_pageowner.model.types import TypeTable, WordUse

__all__ = ("Slots",)

# Bits that mark a word as a pointer, rather than an integer that can hold one.
_POINTERS = WordUse.LEARN | WordUse.MEMMAP
# Maximum number of structures tried that have a given one as a member.
_MOST_CONTAINERS = 256


class Slots:
    """
    The words of all types that were read so far, concatenated.

    The layout of a type is read when the type is first needed.
    """

    def __init__(self, table: TypeTable) -> None:
        self._table = table
        self._number: dict[int, int] = {}
        self._parts: list[tuple[int, int, int]] = []
        # Word 0 belongs to no type.
        self._use: list[Array] = [np.zeros(1, np.uint8)]
        self._aim: list[Array] = [np.full(1, -1, np.int32)]
        self._next = 1
        # There is always a row, of a type that was not read, even if the dump has no types.
        self.base = np.full(1, -1, np.int64)
        """``int64``, a row per type: index of its first word; -1 if it was not read yet."""
        self.words = np.zeros(1, np.int64)
        self.size = np.zeros(1, np.int64)
        self.repeat = np.zeros(1, bool)
        self.use = self._use[0]
        """``uint8``, a row per word: :class:`WordUse`."""
        self.scalar = np.zeros(1, bool)
        """``bool``, a row per type: whether it is an array of bytes or numbers."""
        self.aim = self._aim[0]
        """``int32``, a row per word: number of the type that it points to, or -1."""
        self._containers: tuple[Array, Array, Array] | None = None
        self._choices: list[tuple[int, int]] = []

    def need(self, types: Array) -> None:
        """Read the layouts of *types*, unless known; -1 stands for none."""
        known = len(self.base)
        if len(types) and int(types.max()) < known:
            missing = np.flatnonzero((types >= 0) & (self.base[types] < 0))
            if not len(missing):
                return
        fresh = [
            number
            for number in np.unique(types).tolist()
            if number >= 0 and (number >= known or self.base[number] < 0)
        ]
        if not fresh:
            return
        end = max(known, max(fresh) + 1)
        for name, fill in (
            ("base", -1), ("words", 0), ("size", 0), ("repeat", False), ("scalar", False),
        ):  # fmt: skip
            old = getattr(self, name)
            new = np.full(end, fill, old.dtype)
            new[:known] = old
            setattr(self, name, new)
        for number in fresh:
            layout = self._table.layout(number)
            self.base[number], self.words[number] = self._next, len(layout.use)
            self.size[number], self.repeat[number] = layout.size, layout.repeat
            pointers = (layout.aim >= 0) | (layout.use & np.uint8(_POINTERS) != 0)
            self.scalar[number] = layout.repeat and not layout.parts and not pointers.any()
            self._use.append(layout.use)
            self._aim.append(layout.aim)
            self._choices += [
                (self._next + offset // self._table.word, type_) for offset, type_ in layout.choices
            ]
            self._next += len(layout.use)
            self._parts += [(part, number, offset) for offset, part in set(layout.parts)]
        self.use, self.aim = np.concatenate(self._use), np.concatenate(self._aim)
        self._use, self._aim = [self.use], [self.aim]
        self._containers = None

    def of(self, types: Array, offset: Array) -> Array:
        """
        Return the indices of the words at offsets in types.

        :param types: ``int64``, shape ``(n,)``; -1 for none.
        :param offset: ``int64``: in bytes.
        :return: Index of each word: ``int64``; -1 if it is past the end of the type.
        """
        known = (types >= 0) & (offset >= 0)
        which = np.where(known, types, 0)
        word, number = offset // self._table.word, self.words[which]
        word = np.where(self.repeat[which], word % np.maximum(number, 1), word)
        good = known & (word < number) & (offset % self._table.word == 0)
        return np.where(good, self.base[which] + word, -1)

    def choices(self) -> tuple[Array, Array]:
        """
        Return the words of unions that are pointers to a different type in each alternative.

        :return: Index of the word, ascending, and number of a target type: ``int64``; one row for
            each target type of a word.
        """
        found = np.array(sorted(self._choices), np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def containers(self, types: Array) -> tuple[Array, Array, Array]:
        """
        Find the types that contain each of *types* as a member, at any depth, and the type itself.

        :return: Index in *types*, the container, and the offset of the member in it: ``int64``.
        """
        if self._containers is None:
            parts = np.array(sorted(self._parts), np.int64).reshape(-1, 3)
            ends = int(max(parts[:, 0].max(initial=-1), len(self.base))) + 1
            first = np.searchsorted(parts[:, 0], np.arange(ends + 1))
            self._containers = parts[:, 1], parts[:, 2], first
        outer, offset, first = self._containers
        inside = types < len(first) - 1
        which = np.where(inside, types, 0)
        count = np.where(inside, first[which + 1] - first[which], 0)
        count = np.minimum(count, _MOST_CONTAINERS)
        rows = ranges(first[which], count)
        index = np.repeat(np.arange(len(types)), count)
        own = np.arange(len(types))
        return (
            np.concatenate([own, index]),
            np.concatenate([types.astype(np.int64), outer[rows]]),
            np.concatenate([np.zeros(len(types), np.int64), offset[rows]]),
        )
