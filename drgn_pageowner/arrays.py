"""What NumPy does, faster."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.snapshot import Array

__all__ = ("ascending", "cover")


def ascending(values: Array) -> Array:
    """
    The distinct ones of *values*, ascending, as ``np.unique()``; which hashes since NumPy 2.3.

    :param values: Integers, shape ``(n,)``; they are sorted in place.
    """
    values.sort()
    kept = np.ones(len(values), bool)
    kept[1:] = values[1:] != values[:-1]
    result: Array = values[kept]
    return result


def cover(length: int, rows: Array, sizes: Array) -> Array:
    """
    Which of many runs covers each of *length* rows.

    :param rows: ``int64``, shape ``(n,)``: where each run begins; -1 for nowhere.
    :param sizes: ``int64``, the same shape.
    :return: ``int32``, shape ``(length,)``: number of the run, or -1.
    """
    owner = np.full(length, -1, np.int32)
    number = np.arange(len(rows), dtype=np.int32)
    single = (sizes == 1) & (rows >= 0)
    owner[rows[single]] = number[single]
    large = np.flatnonzero((sizes > 1) & (rows >= 0))
    counts = np.minimum(sizes[large], length - rows[large])
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    owner[np.repeat(rows[large], counts) + within] = np.repeat(number[large], counts)
    return owner
