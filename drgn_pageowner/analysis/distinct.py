"""Distinct values of a column and the place of every row among them."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.snapshot import Array

__all__ = ("distinct", "grouped", "sums")


def distinct(values: Array) -> tuple[Array, Array]:
    """
    ``np.unique(values, return_inverse=True)``, without sorting where the values are integers
    that lie close together (stack numbers, orders, pids).

    :param values: Shape ``(n,)``.
    :return: The ``m`` distinct values, ascending; and ``int64`` of shape ``(n,)``: which of them
        each row has.
    """
    if values.dtype.kind not in "iu" or not len(values):
        found, inverse = np.unique(values, return_inverse=True)
        return found, inverse
    low, high = int(values.min()), int(values.max())
    span = high - low + 1
    if span > max(4 * len(values), 1 << 16):
        found, inverse = np.unique(values, return_inverse=True)
        return found, inverse
    offsets = (values - values.dtype.type(low)).astype(np.int64)
    present = np.bincount(offsets, minlength=span) != 0
    places = np.cumsum(present) - 1
    found = (np.flatnonzero(present) + low).astype(values.dtype)
    return found, places[offsets]


def sums(groups: Array, weights: Array, number: int) -> Array:
    """
    The sum of *weights* in each of *number* groups, exact below 2^53.

    :return: ``int64``, shape ``(number,)``.
    """
    return np.bincount(groups, weights, minlength=number).astype(np.int64)


def grouped(values: Array) -> tuple[Array, list[Array]]:
    """
    The distinct ones of *values*, ascending, and of each the rows that have it (``int64``).
    """
    found, inverse = distinct(values)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(found)))
    return found, np.split(order, ends[:-1]) if len(found) else []
