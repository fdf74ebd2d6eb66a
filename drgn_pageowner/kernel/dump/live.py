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
    """Counts of rows that a running kernel changed while a table was read."""

    changed: int = 0
    """Rows that differed between two readings; they were read a third time."""
    unstable: int = 0
    """Rows that differed again in the third reading, which is used and may be torn."""
    vanished: int = 0
    """Rows that could be read only at first, because their memory went away."""

    def problems(self, what: str) -> list[str]:
        """
        Describe the changes in one line; an empty list if there were none.

        :param what: Plural noun for the rows.
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
    Read a table: once from a dump, twice from a running kernel.

    A row that the kernel is writing to differs between the readings in one of the fields of
    *dtype*. Such rows are read a third time, and no more.

    :param dtype: Dtype of a row; changes of bytes that no field covers go unnoticed.
    :param changes: Gets the counts of rows that changed.
    :return: Array of *dtype*, shape ``(count,)``, zero where it cannot be read; and the
        :class:`Bulk` that it came from, which lists the missing parts.
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
    """Find the rows that could not be read completely: ``bool``, shape ``(count,)``."""
    lost = np.zeros(count, bool)
    for offset, size in bulk.missing:
        lost[offset // itemsize : -(-(offset + size) // itemsize)] = True
    return lost


def _differing(one: Array, other: Array) -> Array:
    """Get the numbers of the rows that differ in a field: ``int64``, ascending."""
    unequal = np.zeros(len(one), bool)
    for name in one.dtype.names or ():
        different = one[name] != other[name]
        unequal |= different if different.ndim == 1 else different.any(axis=-1)
    return np.flatnonzero(unequal)


def _pieces(rows: Array, itemsize: int) -> Iterator[tuple[int, int]]:
    """Group *rows* into few ranges ``(first, end)`` without large gaps."""
    breaks = np.flatnonzero(np.diff(rows) * itemsize > _GAP_BYTES) + 1
    for part in np.split(rows, breaks):
        if len(part):
            yield int(part[0]), int(part[-1]) + 1
