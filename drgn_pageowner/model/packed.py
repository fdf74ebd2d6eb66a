# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns that are compressed, because they take much memory and are used from end to end once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from drgn_pageowner.model.arrays import Array, slices

__all__ = ("Packed", "Packing")


class Packing(NamedTuple):
    """A way to compress arrays."""

    pack: Callable[[Array], bytes]
    """Compresses a contiguous array."""
    unpack: Callable[[bytes, int], bytes]
    """Returns the bytes of an array, given the result of :attr:`pack` and their number."""


class Packed:
    """
    A column that is compressed in blocks. It has a length and takes slices as an array does.
    """

    def __init__(self, dtype: DTypeLike, packing: Packing) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._packing = packing
        self._blocks: list[bytes] = []
        self._ends: list[int] = []
        self._changes: list[tuple[int, int, Any]] = []

    @property
    def itemsize(self) -> int:
        """Number of bytes of a row that is not compressed."""
        return self.dtype.itemsize

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def blocks(self, values: Array) -> list[tuple[bytes, int]]:
        """
        Compress rows, which are not added by this.

        :param values: In the column's type.
        :return: For :meth:`add`: blocks, and the number of rows of each.
        """
        return [
            (self._packing.pack(values[rows]), rows.stop - rows.start)
            for rows in slices(len(values))
        ]

    def add(self, blocks: Iterable[tuple[bytes, int]]) -> None:
        """Add rows that :meth:`blocks` compressed, maybe in another process."""
        for block, rows in blocks:
            self._blocks.append(block)
            self._ends.append(len(self) + rows)

    def change(self, rows: Array, sources: Array) -> None:
        """
        Set the values of some rows to those of others.

        :param rows: ``int64``, shape ``(n,)``.
        :param sources: The same: rows that have the values.
        """
        if not len(rows):
            return
        # Rows that follow one another mostly get the same value.
        begins = np.ones(len(rows), bool)
        begins[1:] = (rows[1:] != rows[:-1] + 1) | (sources[1:] != sources[:-1])
        first = np.flatnonzero(begins)
        last = np.append(first[1:], len(rows)) - 1
        known: dict[int, Any] = {}
        for low, high, source in zip(
            rows[first].tolist(), rows[last].tolist(), sources[first].tolist(), strict=True
        ):
            if source not in known:
                known[source] = self[source : source + 1][0]
            self._changes.append((low, high + 1, known[source]))

    def __getitem__(self, rows: slice) -> Array:
        """Return some rows: a new array."""
        start, stop, step = rows.indices(len(self))
        assert step == 1
        result = np.empty(max(stop - start, 0), self.dtype)
        number = bisect_right(self._ends, start)
        done = start
        while done < stop:
            end = self._ends[number]
            begin = self._ends[number - 1] if number else 0
            data = self._packing.unpack(self._blocks[number], (end - begin) * self.itemsize)
            upto = min(end, stop)
            values = np.frombuffer(data, self.dtype)[done - begin : upto - begin]
            result[done - start : upto - start] = values
            done, number = upto, number + 1
        for low, high, value in self._changes:
            result[max(low - start, 0) : max(high - start, 0)] = value
        return result
