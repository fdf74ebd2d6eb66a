# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faster versions of some NumPy operations, and the type of all arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = (
    "Array",
    "Groups",
    "among",
    "ascending",
    "distinct",
    "grouped",
    "looked_up",
    "ranges",
    "slices",
    "sums",
)


Array = NDArray[Any]

# Elements of an array that are processed at once, if the intermediate results are larger.
_PIECE = 1 << 20


def among(values: Array, members: Iterable[int]) -> Array:
    """
    Return which values are among *members*, as ``np.isin()`` does, which takes eight bytes a value.

    :param values: ``uint8``, shape ``(n,)``.
    :return: ``bool``, shape ``(n,)``.
    """
    table = np.zeros(256, bool)
    table[list(members)] = True
    return looked_up(table, values)


def looked_up(table: Array, values: Array) -> Array:
    """
    Return ``table[values]``, for which NumPy would convert all *values* to ``int64`` together.

    :param values: Integers, shape ``(n,)``.
    """
    result = np.empty(len(values), table.dtype)
    for piece in slices(len(values)):
        result[piece] = table[values[piece]]
    return result


def ascending(values: Array) -> Array:
    """
    Sort and deduplicate *values*, as ``np.unique()`` does.

    Since NumPy 2.3 that function uses a hash table, which is slower here.

    :param values: Integers, shape ``(n,)``; they are sorted in place.
    """
    values.sort()
    kept = np.ones(len(values), bool)
    kept[1:] = values[1:] != values[:-1]
    result: Array = values[kept]
    return result


def distinct(values: Array) -> tuple[Array, Array]:
    """
    Return the same as ``np.unique(values, return_inverse=True)``, without sorting if *values* are
    integers in a small range (stack indices, orders, pids).

    :param values: Shape ``(n,)``.
    :return: The ``m`` distinct values, ascending; and the index of each row's value among them:
        ``int64``, shape ``(n,)``.
    """
    if values.dtype.kind not in "iu" or not len(values):
        found, inverse = np.unique(values, return_inverse=True)
        return found, inverse
    low, high = int(values.min()), int(values.max())
    span = high - low + 1
    if span > max(4 * len(values), 1 << 16):
        found, inverse = np.unique(values, return_inverse=True)
        return found, inverse
    # The difference of two signed values may overflow their type.
    if values.dtype.kind == "i":
        offsets = values.astype(np.int64) - low
    else:
        offsets = (values - values.dtype.type(low)).astype(np.int64)
    present = np.bincount(offsets, minlength=span) != 0
    places = np.cumsum(present) - 1
    found = np.flatnonzero(present).astype(values.dtype) + values.dtype.type(low)
    return found, places[offsets]


def ranges(starts: Array, lengths: Array) -> Array:
    """
    Concatenate the integers ``starts[i]`` to ``starts[i] + lengths[i] - 1`` for every ``i``.

    :param starts: Integers, shape ``(n,)``.
    :param lengths: Non-negative integers, shape ``(n,)``.
    :return: ``int64``, shape ``(lengths.sum(),)``.
    """
    ends = np.cumsum(lengths)
    result: Array = np.arange(int(lengths.sum())) + np.repeat(starts - (ends - lengths), lengths)
    return result


def slices(length: int, piece: int = _PIECE) -> Iterator[slice]:
    """
    Yield slices of at most *piece* elements that together cover an array of *length* elements.

    If an operation is done on one slice at a time, its intermediate results are small.
    """
    for start in range(0, length, piece):
        yield slice(start, min(start + piece, length))


def sums(groups: Array, weights: Array, number: int) -> Array:
    """
    Sum *weights* by group; sums are exact below 2^53.

    :param groups: Integers, shape ``(n,)``: index of the group that each weight belongs to.
    :param weights: Shape ``(n,)``.
    :param number: Number of groups.
    :return: ``int64``, shape ``(number,)``: sum of each group.
    """
    return np.bincount(groups, weights, minlength=number).astype(np.int64)


@dataclass(frozen=True)
class Groups:
    """The rows of an array, grouped by their value."""

    values: Array
    """The ``m`` distinct values, ascending."""
    inverse: Array
    """``int64``, shape ``(n,)``: the group of each row."""
    order: Array
    """``int64``, shape ``(n,)``: row indices sorted by group, ascending in each group."""
    ends: Array
    """``int64``, shape ``(m,)``: the end of each group in :attr:`order`."""

    @classmethod
    def of(cls, values: Array) -> Groups:
        """Group the rows of *values*, shape ``(n,)``."""
        found, inverse = distinct(values)
        order = np.argsort(inverse, kind="stable")
        ends = np.cumsum(np.bincount(inverse, minlength=len(found)))
        return cls(found, inverse.reshape(-1), order, ends)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def starts(self) -> Array:
        """The start of each group in :attr:`order`: ``int64``, shape ``(m,)``."""
        result: Array = self.ends - self.counts
        return result

    @property
    def counts(self) -> Array:
        """The number of rows of each group: ``int64``, shape ``(m,)``."""
        result: Array = np.diff(self.ends, prepend=0)
        return result

    def rows(self, group: int) -> Array:
        """The rows of one group, ascending: ``int64``."""
        result: Array = self.order[self.ends[group - 1] if group else 0 : self.ends[group]]
        return result

    def sums(self, weights: Array) -> Array:
        """The sum of *weights* in each group, exact below 2^53: ``int64``, shape ``(m,)``."""
        return sums(self.inverse, weights, len(self))


def grouped(values: Array) -> tuple[Array, list[Array]]:
    """
    Return the distinct *values*, ascending, and for each of them the indices of the rows that have
    it (``int64``).
    """
    groups = Groups.of(values)
    return groups.values, np.split(groups.order, groups.ends[:-1]) if len(groups) else []
