# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faster versions of some NumPy operations, and the type of all arrays."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from drgn_pageowner.model.scratch import anonymous, fits_in_memory, hold, large_empty
from drgn_pageowner.model.threads import in_threads

__all__ = (
    "Array",
    "Groups",
    "Growing",
    "Narrow",
    "Numbering",
    "among",
    "ascending",
    "begins",
    "by_runs",
    "distinct",
    "equals",
    "frequencies",
    "give_back",
    "grouped",
    "kept_rows",
    "looked_up",
    "packed_pairs",
    "places_of",
    "ranges",
    "rows_among",
    "runs",
    "slices",
    "sparse_zeros",
    "sums",
    "unpacked_pairs",
    "values_of",
    "widen",
)


Array = NDArray[Any]

# Elements of an array that are processed at once, if the intermediate results are larger.
_PIECE = 1 << 18
# Mean number of rows from which on only the first of each run is looked at.
_LONG_RUN = 4
# Size of a task name, in bytes: TASK_COMM_LEN.
_NAME = 16


def sparse_zeros(length: int, dtype: type[np.generic]) -> Array:
    """
    Return an array of zeros that takes memory only where something else is written to it.

    ``np.zeros()`` asks for huge pages, so that each element written takes 2 MiB.

    :return: Shape ``(length,)``.
    """
    size = length * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(0, dtype)
    memory = anonymous(size, mmap.MAP_PRIVATE)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # Fails on kernels without CONFIG_TRANSPARENT_HUGEPAGE, which need no advice.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, count=length)


# For distinct(): number of values that are sorted in no time, and binary logarithm of the size of
# parts.
_FEW = 1 << 14
_PART_BITS = 9


class Narrow:
    """
    A column of ``int64`` that is held in four bytes a row.

    It takes indices and slices like an array, and returns arrays.
    """

    def __init__(self, values: Array) -> None:
        """
        :param values: ``uint32``, shape ``(n,)``.
        """
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Any) -> Any:
        return self._values[rows].astype(np.int64)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self._values.astype(np.int64 if dtype is None else dtype)


# Number of bytes from which on the C library, too, maps memory that is asked for.
_MAPPED = 32 << 20


class Growing:
    """A column to which rows are added, with no second copy of them when it grows."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._rows: Array = np.empty(0, dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, values: Array) -> None:
        """Add the elements of *values*, which are converted to the column's type."""
        end = self._length + len(values)
        if end > len(self._rows):
            self._grow(end)
        self._rows[self._length : end] = values
        self._length = end

    def _grow(self, end: int) -> None:
        """Make room for *end* rows."""
        rows = end + end // 8 + 1024
        if self._rows.flags.owndata and fits_in_memory(
            (rows - len(self._rows)) * self._rows.itemsize
        ):
            # realloc() moves large memory without copying it.
            self._rows.resize(rows, refcheck=False)
            hold(self._rows, self)
            return
        before = self._rows[: self._length]
        if fits_in_memory(rows * before.itemsize):
            self._rows = np.empty(rows, before.dtype)
        else:
            # Rows in a file are copied when there are twice as many.
            self._rows = large_empty(2 * end, before.dtype)
        self._rows[: len(before)] = before
        hold(self._rows, self)

    def __getstate__(self) -> Array:
        result: Array = self._rows[: self._length]
        return result

    def __setstate__(self, rows: Array) -> None:
        # Mostly memory of another process, from which the rows are copied to another column.
        self._rows, self._length = rows, len(rows)

    def extend(self, later: Growing) -> None:
        """Add the elements of another column."""
        self.add(later._rows[: later._length])

    def take(self) -> Array:
        """Return all elements: an array of shape ``(n,)``; the column is empty then."""
        result = self._rows
        if result.flags.owndata:
            result.resize(self._length, refcheck=False)
            hold(result)
        else:
            result = result[: self._length]
        self._rows, self._length = np.empty(0, result.dtype), 0
        # NumPy does not resize arrays with weak references, so only the result has one.
        hold(self._rows, self)
        return result


def give_back() -> None:
    """
    Return freed memory to the operating system.

    The C library keeps what lies between blocks that are in use: some 5 % of the memory of a large
    heap.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


# In which half of a packed pair the first of its numbers is, in memory.
_HIGH = 1 if sys.byteorder == "little" else 0


def packed_pairs(first: Array, second: Array) -> Array:
    """
    Pack pairs of numbers, so that sorting sorts them by *first*, then by *second*.

    :param first: Integers from 0 to 2^31 - 1, shape ``(n,)``.
    :param second: The same.
    :return: ``uint64``, shape ``(n,)``.
    """
    result = np.empty(len(first), np.uint64)
    halves = result.view(np.int32).reshape(-1, 2)
    halves[:, _HIGH], halves[:, 1 - _HIGH] = first, second
    return result


def unpacked_pairs(pairs: Array) -> tuple[Array, Array]:
    """Return the numbers in the result of :func:`packed_pairs`: two ``int32`` views of it."""
    halves = pairs.view(np.int32).reshape(-1, 2)
    return halves[:, _HIGH], halves[:, 1 - _HIGH]


def equals(values: Array, member: int) -> Array:
    """
    Return ``values == member``, for which NumPy would convert all *values* to ``int64`` if *member*
    is one of an enumeration.
    """
    result: Array = values == int(member)
    return result


def among(values: Array, members: Iterable[int]) -> Array:
    """
    Return which values are among *members*, as ``np.isin()`` does, which takes eight bytes a value.

    :param values: ``uint8``, shape ``(n,)``.
    :return: ``bool``, shape ``(n,)``.
    """
    wanted = [*members]
    result = large_empty(len(values), bool)

    def compare(piece: slice) -> None:
        found = result[piece]
        found[:] = False
        # Comparing with each of a few members is faster than a table.
        for member in wanted:
            found |= equals(values[piece], member)

    in_threads(compare, slices(len(values)))
    return result


def rows_among(values: Array, members: Iterable[int]) -> Array:
    """
    Return where :func:`among` is true, in little memory: ``int64``, ascending.

    :param values: ``uint8``, shape ``(n,)``.
    """
    wanted = [*members]

    def find(piece: slice) -> Array:
        rows: Array = np.flatnonzero(among(values[piece], wanted))
        rows += piece.start
        return rows

    return np.concatenate([np.zeros(0, np.int64), *in_threads(find, slices(len(values)))])


def looked_up(table: Array, values: Array) -> Array:
    """
    Return ``table[values]``, for which NumPy would convert all *values* to ``int64`` together.

    :param values: Integers, shape ``(n,)``.
    """
    result = large_empty(len(values), table.dtype)

    def look_up(piece: slice) -> None:
        if values.dtype == np.uint8 and values[piece].max(initial=0) < len(table):
            # No value has to be clipped, and this mode takes half the time.
            np.take(table, values[piece], out=result[piece], mode="clip")
        else:
            result[piece] = by_runs(table.__getitem__, values[piece])

    in_threads(look_up, slices(len(values)))
    return result


def places_of(members: Array, values: Any, side: Literal["left", "right"] = "left") -> Array:
    """
    Return ``np.searchsorted(members, values, side)``, for which NumPy would convert all *members*
    if *values* are of another type.

    :param members: Integers, shape ``(n,)``, ascending.
    :param values: Integers that fit in the type of *members*: shape ``(k,)``.
    :return: ``int64``, shape ``(k,)``.
    """
    return np.searchsorted(members, np.asarray(values, members.dtype), side)


def kept_rows(values: Array, kept: Array) -> Array:
    """
    Return ``values[kept]`` in the memory of *values*, which are overwritten.

    :param kept: ``bool``, shape ``(n,)``.
    """
    number = 0
    for rows in slices(len(values)):
        piece = values[rows][kept[rows]]
        values[number : number + len(piece)] = piece
        number += len(piece)
    return values[:number]


def begins(values: Array, *more: Array) -> Array:
    """
    Return which rows differ from the one before: ``bool``, shape ``(n,)``; the first does.

    :param values: Integers, or ``S16``: shape ``(n,)``.
    :param more: More columns, any of which may differ.
    """
    result = np.ones(len(values), bool)
    result[1:] = _changes(values)
    for column in more:
        result[1:] |= _changes(column)
    return result


def _changes(values: Array) -> Array:
    """Return which values but the first differ from the one before: ``bool``."""
    result: Array
    if values.dtype.kind == "S" and values.dtype.itemsize == _NAME:
        # NumPy compares text a character at a time.
        low, high = np.ascontiguousarray(values).view(np.uint64).reshape(-1, 2).T
        result = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    else:
        result = values[1:] != values[:-1]
    return result


def runs(values: Array, *more: Array) -> tuple[Array, Array]:
    """
    Find runs of neighbouring rows that are the same.

    :param values: See :func:`begins`; *more* also.
    :return: The first row of each run, and its number of rows: ``int64``.
    """
    first = np.flatnonzero(begins(values, *more))
    return first, np.diff(first, append=len(values))


def _long_runs(values: Array) -> Array | None:
    """Return the first row of each run of equal values: ``int64``; ``None`` if most are short."""
    first = begins(values)
    if np.count_nonzero(first) * _LONG_RUN > len(values):
        return None
    return np.flatnonzero(first)


def by_runs(work: Callable[[Array], Array], values: Array) -> Array:
    """
    Return ``work(values)``, but call *work* only for the first of each run of equal values if that
    leaves few.

    :param work: Function that returns a row per value, which depends only on that value.
    :param values: See :func:`begins`.
    """
    first = _long_runs(values)
    if first is None:
        return work(values)
    result: Array = np.repeat(work(values[first]), np.diff(first, append=len(values)))
    return result


def ascending(values: Array) -> Array:
    """
    Sort and deduplicate *values*, as ``np.unique()`` does.

    Since NumPy 2.3 that function uses a hash table, which is slower here.

    :param values: Integers, shape ``(n,)``; they are sorted in place.
    """
    values.sort()
    kept = begins(values)
    result: Array = values[kept] if not kept.all() else values
    return result


def values_of(columns: Sequence[Array]) -> Array:
    """
    Return the distinct values of some columns, ascending.

    Values that are the same as the one before are left out first: the pages of a block that was
    split have the same stack.

    :param columns: Integers of one type, at least one column; they are not changed.
    """

    def distinct_of(piece: Array) -> Array:
        return ascending(piece[begins(piece)])

    pieces = [column[rows] for column in columns for rows in slices(len(column))]
    return ascending(np.concatenate([columns[0][:0], *in_threads(distinct_of, pieces)]))


def _coded_names(names: Array) -> tuple[Array, Array] | None:
    """
    Find distinct names by sums of their bytes, because sorting them as text takes long.

    :param names: ``S16``, shape ``(n,)``.
    :return: The ``m`` distinct names, ascending; and ``int32``, shape ``(n,)``: the index of each
        name among them. ``None`` if two names have the same sum.
    """
    values, code = np.zeros(0, names.dtype), np.zeros(len(names), np.int32)
    # The sums of all names so far, ascending, and the number of each name.
    known, numbers = np.zeros(0, np.uint64), np.zeros(0, np.int32)
    for rows in slices(len(names)):
        piece = np.ascontiguousarray(names[rows])
        # Most names are the same as the one before.
        starts, lengths = runs(piece)
        heads = piece[starts]
        halves = heads.view(np.uint64).reshape(-1, 2)
        with np.errstate(over="ignore"):
            key = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) + halves[:, 1]
        place = np.searchsorted(known, key)
        fresh = key != np.append(known, 0)[place] if len(known) else np.ones(len(key), bool)
        fresh |= place == len(known)
        if fresh.any():
            new, first = np.unique(key[fresh], return_index=True)
            more = np.arange(len(values), len(values) + len(new), dtype=np.int32)
            values = np.append(values, heads[fresh][first])
            known, numbers = np.append(known, new), np.append(numbers, more)
            order = np.argsort(known)
            known, numbers = known[order], numbers[order]
            place = np.searchsorted(known, key)
        found = numbers[place]
        if (values[found] != heads).any():
            return None
        code[rows] = np.repeat(found, lengths)
    order = np.argsort(values)
    rank = np.empty(len(values), np.int32)
    rank[order] = np.arange(len(values))
    return values[order], looked_up(rank, code)


def distinct(values: Array) -> tuple[Array, Array]:
    """
    Return the same as ``np.unique(values, return_inverse=True)``, without sorting if *values* are
    integers in a small range (stack indices, orders, pids), or in small parts of a range of some
    GiB (addresses in code of the kernel and of modules), or names of tasks.

    :param values: Shape ``(n,)``.
    :return: The ``m`` distinct values, ascending; and the index of each row's value among them:
        ``int64``, shape ``(n,)``.
    """
    if values.dtype.kind == "S" and values.dtype.itemsize == _NAME:
        names = _coded_names(values)
        if names is not None:
            return names[0], names[1].astype(np.int64)
    if values.dtype.kind not in "iu" or not len(values):
        found, inverse = np.unique(values, return_inverse=True)
        return found, inverse
    low, high = int(values.min()), int(values.max())
    span = high - low + 1
    most = max(4 * len(values), 1 << 16)
    if span > most and (len(values) < _FEW or span >> _PART_BITS > 1 << 23):
        found, inverse = np.unique(values, return_inverse=True)
        return found, inverse
    # The difference of two signed values may overflow their type.
    if values.dtype.kind == "i":
        offsets = values.astype(np.int64) - low
    else:
        offsets = (values - values.dtype.type(low)).astype(np.int64)
    parts = None
    if span > most:
        # Leave out the parts of the range that have no value.
        parts, part = _ranked(offsets >> _PART_BITS, (span >> _PART_BITS) + 1)
        span = len(parts) << _PART_BITS
        if span > 4 * most:
            found, inverse = np.unique(values, return_inverse=True)
            return found, inverse
        offsets = part << _PART_BITS | offsets & (1 << _PART_BITS) - 1
    present, places = _ranked(offsets, span)
    if parts is not None:
        present = parts[present >> _PART_BITS] << _PART_BITS | present & (1 << _PART_BITS) - 1
    return present.astype(values.dtype) + values.dtype.type(low), places


def _ranked(values: Array, span: int) -> tuple[Array, Array]:
    """
    Return the distinct *values*, ascending, and the index of each value among them: ``int64``.

    :param values: ``int64``, from 0 to *span* - 1.
    """
    present = np.zeros(span, bool)
    present[values] = True
    found = np.flatnonzero(present)
    rank = np.zeros(span, np.int64)
    rank[found] = np.arange(len(found))
    return found, rank[values]


class Numbering:
    """Distinct values of columns that come in parts, numbered in the order of their appearance."""

    def __init__(self) -> None:
        self._parts: list[Array] = []

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def values(self) -> Array:
        """The value with each number."""
        self._parts = [np.concatenate(self._parts)] if self._parts else []
        return self._parts[0] if self._parts else np.zeros(0, np.int64)

    def of(self, column: Array) -> Array:
        """
        Return the numbers of some values.

        :return: ``int32``, the shape of *column*.
        """
        return by_runs(self._of, column)

    def _of(self, column: Array) -> Array:
        found, place = distinct(column)
        known = self.values
        order = np.argsort(known)
        rank = np.searchsorted(known, found, sorter=order)
        number = np.append(order, -1)[rank]
        fresh = number < 0
        fresh[~fresh] = known[number[~fresh]] != found[~fresh]
        number[fresh] = np.arange(len(known), len(known) + np.count_nonzero(fresh))
        self._parts.append(found[fresh])
        result: Array = number.astype(np.int32)[place]
        return result


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
    :param weights: Integers or ``bool``, shape ``(n,)``.
    :param number: Number of groups.
    :return: ``int64``, shape ``(number,)``: sum of each group.
    """
    first = _long_runs(groups)
    if first is not None and len(first):
        groups, weights = groups[first], np.add.reduceat(weights, first, dtype=np.int64)
    return np.bincount(groups, weights, minlength=number).astype(np.int64)


def frequencies(groups: Array, number: int = 0) -> Array:
    """
    Return ``np.bincount(groups, minlength=number)``, of runs of equal numbers in less time.

    :param groups: Integers that are not negative, shape ``(n,)``.
    :return: ``int64``: the number of rows of each group, of which there are at least *number*.
    """
    first = _long_runs(groups)
    if first is None:
        return np.bincount(groups, minlength=number)
    lengths = np.diff(first, append=len(groups))
    return np.bincount(groups[first], lengths, minlength=number).astype(np.int64)


def widen(lowest: Array, highest: Array, groups: Array, values: Array) -> None:
    """
    Lower *lowest* and raise *highest*, in place, to the values of each group.

    :param lowest: A row per group, and so has *highest*.
    :param groups: Integers, shape ``(n,)``: index of the group that each value belongs to.
    :param values: Of the type of *lowest* and *highest*, shape ``(n,)``.
    """
    first = _long_runs(groups)
    if first is None:
        np.minimum.at(lowest, groups, values)
        np.maximum.at(highest, groups, values)
    elif len(first):
        np.minimum.at(lowest, groups[first], np.minimum.reduceat(values, first))
        np.maximum.at(highest, groups[first], np.maximum.reduceat(values, first))


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
        if len(values) < 1 << 31:
            # Sorting pairs takes half the time of a stable sort.
            pairs = packed_pairs(inverse.reshape(-1), np.arange(len(values), dtype=np.int32))
            pairs.sort()
            order = unpacked_pairs(pairs)[1].astype(np.int64)
        else:
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
