# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read tables of a running kernel in bulk while the kernel changes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from drgn import Program, ProgramFlags

from drgn_pageowner.kernel.dump.bulk import Bulk, read_bulk
from drgn_pageowner.model.arrays import Array

__all__ = ("Changes", "is_live", "read_rows")

# Rows to read again are read in one piece if they are closer together than this.
_GAP_BYTES = 1 << 16


def is_live(prog: Program) -> bool:
    """Return whether *prog* is a running kernel or guest, not a dump."""
    return bool(prog.flags & ProgramFlags.IS_LIVE)


@dataclass
class Changes:
    """Numbers of table rows that a running kernel changed while the table was read."""

    changed: int = 0
    """Number of rows that differed between two reads, and were read a third time."""
    unstable: int = 0
    """Number of rows that differed again in the third read. Its result is used, but may mix old and
    new values."""
    vanished: int = 0
    """Number of rows that could be read at first but not later, because their memory was
    removed."""

    def add(self, other: Changes) -> None:
        """Add the numbers of another table."""
        self.changed += other.changed
        self.unstable += other.unstable
        self.vanished += other.vanished

    def problems(self, what: str) -> list[str]:
        """
        Describe the changes in one line; return an empty list if nothing changed.

        :param what: Plural noun for the rows, such as "records".
        """
        if not self.changed and not self.vanished:
            return []
        line = (
            f"{self.changed} {what} changed while they were read, {self.unstable} of them once "
            "more when read again"
        )
        return [line + (f"; {self.vanished} vanished" if self.vanished else "")]


def read_rows(
    prog: Program, address: int, dtype: np.dtype[Any], count: int, changes: Changes
) -> tuple[Array, Bulk]:
    """
    Read a table of *count* rows: once from a dump, at least twice from a running kernel.

    A row that the kernel is writing to differs between two reads in one of the fields of *dtype*.
    Such rows are read a third time, and the result of the third read is used.

    :param dtype: Dtype of a row; changes of bytes that no field covers are not noticed.
    :param changes: The numbers of rows that changed are added to this.
    :return: Array of *dtype*, shape ``(count,)``, zero where memory cannot be read; and the
        :class:`Bulk` with the same bytes, which lists the missing parts.
    """
    size = count * dtype.itemsize
    first = read_bulk(prog, address, size)
    if not is_live(prog):
        return np.frombuffer(first.data, dtype, count), first
    second = read_bulk(prog, address, size)
    rows = np.frombuffer(first.data, dtype, count)
    if first == second:
        return rows, first
    settled = bytearray(second.data)
    result = np.frombuffer(settled, dtype, count)
    gone = _lost(second, dtype.itemsize, count)
    changes.vanished += int(np.count_nonzero(gone & ~_lost(first, dtype.itemsize, count)))
    differing = _differing(rows, result)
    differing = differing[~gone[differing]]
    changes.changed += len(differing)
    for start, end in _pieces(differing, dtype.itemsize):
        mine = differing[(differing >= start) & (differing < end)]
        again = read_bulk(prog, address + start * dtype.itemsize, (end - start) * dtype.itemsize)
        kept = mine[~_lost(again, dtype.itemsize, end - start)[mine - start]]
        changes.vanished += len(mine) - len(kept)
        third = np.frombuffer(again.data, dtype, end - start)[kept - start]
        changes.unstable += len(_differing(result[kept], third))
        result[kept] = third
    return result, Bulk(settled, second.missing)


def _lost(bulk: Bulk, itemsize: int, count: int) -> Array:
    """Return which rows could not be read completely: ``bool``, shape ``(count,)``."""
    lost = np.zeros(count, bool)
    for offset, size in bulk.missing:
        lost[offset // itemsize : -(-(offset + size) // itemsize)] = True
    return lost


def _differing(one: Array, other: Array) -> Array:
    """Get the indices of the rows that differ in any field: ``int64``, ascending."""
    unequal = np.zeros(len(one), bool)
    for name in one.dtype.names or ():
        different = one[name] != other[name]
        unequal |= different if different.ndim == 1 else different.any(axis=-1)
    return np.flatnonzero(unequal)


def _pieces(rows: Array, itemsize: int) -> Iterator[tuple[int, int]]:
    """
    Group the row indices *rows* into ranges ``(first, end)`` to be read in one piece each.

    :param itemsize: Size of a row, in bytes.
    """
    breaks = np.flatnonzero(np.diff(rows) * itemsize > _GAP_BYTES) + 1
    for part in np.split(rows, breaks):
        if len(part):
            yield int(part[0]), int(part[-1]) + 1
