# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Columns that are read when they are used, because they take much memory and few rows are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from drgn_pageowner.model.arrays import Array

__all__ = ("Later", "LaterRows", "RowReader", "release", "selected")


class RowReader(Protocol):
    """A function that reads columns of some rows."""

    def __call__(self, names: Sequence[str], rows: Array | None) -> Mapping[str, Array]:
        """
        Read columns.

        :param names: Names of the columns.
        :param rows: Indices of the rows: ``int64``, shape ``(n,)``; ``None`` for all.
        :return: Each column: shape ``(n,)``.
        """
        ...


class LaterRows:
    """
    Some rows of columns that are read together, when one of them is used first, and kept then.
    """

    def __init__(
        self, read: RowReader, length: int, names: Sequence[str], chosen: Array | None = None
    ) -> None:
        """
        :param read: Reads the columns.
        :param length: Number of rows.
        :param names: Names of the columns.
        :param chosen: Indices of the rows: ``int64``, shape ``(length,)``; by default, all.
        """
        self.length, self.names = length, names
        self._read, self._chosen = read, chosen
        self._found: Mapping[str, Array] | None = None

    @property
    def all(self) -> bool:
        """Whether these are all rows, whose columns are not kept."""
        return self._chosen is None

    def select(self, mask: Array | slice) -> LaterRows:
        """
        Return some of these rows.

        :param mask: ``bool`` or indices, or a slice.
        """
        some = _indices(mask, self.length)
        # Rows of chosen rows are taken from these, which are read once for all.
        read = self._read if self.all else self._of_chosen
        return LaterRows(read, len(some), self.names, some)

    def _of_chosen(self, names: Sequence[str], rows: Array | None) -> Mapping[str, Array]:
        return {name: self.column(name)[rows] for name in names}

    def column(self, name: str) -> Array:
        """Return a column: shape ``(length,)``."""
        if self._chosen is None:
            return self._read([name], None)[name]
        if self._found is None:
            self._found = self._read(self.names, self._chosen)
        return self._found[name]


class Later:
    """A column of :class:`LaterRows`, which takes indices and slices like an array."""

    def __init__(self, rows: LaterRows, name: str, values: Array | None = None) -> None:
        """
        :param rows: All columns.
        :param name: Name of this one.
        :param values: The column, until :meth:`release` is called.
        """
        self.rows, self._name, self._values = rows, name, values

    @classmethod
    def columns(cls, rows: LaterRows, known: Mapping[str, Array]) -> dict[str, Array]:
        """
        Return all columns of *rows*, which can be used like arrays.

        :param known: Those that need not be read until they are released.
        """
        return {name: cast(Array, cls(rows, name, known.get(name))) for name in rows.names}

    def release(self) -> None:
        """Forget the values, which are read again if they are needed."""
        self._values = None

    def select(self, mask: Array | slice, rows: LaterRows) -> Later:
        """
        Return some of the column.

        :param rows: The result of :meth:`LaterRows.select` for *mask*.
        """
        values = self._values[mask] if self._values is not None else None
        return Later(rows, self._name, values)

    def __len__(self) -> int:
        return self.rows.length

    def __getitem__(self, mask: Any) -> Array:
        if self._values is not None:
            return cast(Array, self._values[mask])
        if self.rows.all:
            return self.rows.select(mask).column(self._name)
        return cast(Array, self.rows.column(self._name)[mask])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        values = self._values if self._values is not None else self.rows.column(self._name)
        return np.asarray(values, dtype)


def _indices(mask: Array | slice, length: int) -> Array:
    """Return the indices that *mask* stands for: ``int64``."""
    if isinstance(mask, slice):
        return np.arange(*mask.indices(length), dtype=np.int64)
    mask = np.asarray(mask)
    if mask.dtype == bool:
        return np.flatnonzero(mask)
    return mask.astype(np.int64)


def selected(columns: Mapping[str, Array], mask: Array | slice) -> dict[str, Array]:
    """
    Return some rows of *columns*.

    :param columns: Arrays, or columns that can be used like arrays. Those of :class:`LaterRows` are
        not read before one of them is used, and then together.
    """
    found: dict[str, Array] = {}
    some: dict[int, LaterRows] = {}
    for name, column in columns.items():
        if not isinstance(column, Later):
            found[name] = column[mask]
            continue
        number = id(column.rows)
        if number not in some:
            some[number] = column.rows.select(mask)
        found[name] = cast(Array, column.select(mask, some[number]))
    return found


def release(columns: Mapping[str, Array]) -> None:
    """Forget what can be read again of *columns*."""
    for column in columns.values():
        if isinstance(column, Later):
            column.release()
