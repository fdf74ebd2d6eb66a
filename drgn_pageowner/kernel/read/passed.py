# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pass columns of records from one process to another as runs of equal values."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.model.arrays import Array, runs

__all__ = ("PassedColumns",)

# A column of as many rows, or with more than one run for as many rows, is passed as it is.
_FEW = 256
_LEAST_ROWS = 4


class PassedColumns(dict[str, Array]):
    """
    Columns by name, with a row per record in PFN order.

    Neighbouring pages are often allocated by the same task, with the same mask, in one zone. So
    most columns are pickled as runs of equal values, and ``pfn`` as runs of neighbours. To pass all
    columns of a large machine takes as long as to decode them, otherwise.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, ({name: _runs(values, name == "pfn") for name, values in self.items()},)


def _runs(values: Array, rising: bool) -> Array | tuple[Array, Array, bool]:
    """
    Return a column as runs if these are few.

    :param rising: Whether the values of a run rise by one from row to row.
    :return: *values*; or the first value of each run (of a dtype of its own), the length of each
        (``int64``), and *rising*.
    """
    rows = len(values)
    if rows < _FEW or values.ndim > 1:
        return values
    level = values - np.arange(rows) if rising else values
    first, lengths = runs(level)
    if len(first) * _LEAST_ROWS > rows:
        return values
    return level[first], lengths, rising


def _restored(columns: dict[str, Array | tuple[Array, Array, bool]]) -> PassedColumns:
    result = PassedColumns()
    for name, column in columns.items():
        if isinstance(column, tuple):
            first, lengths, rising = column
            values = np.repeat(first, lengths)
            result[name] = values + np.arange(len(values)) if rising else values
        else:
            result[name] = column
    return result
