# SPDX-License-Identifier: LGPL-2.1-or-later
"""A column that is compressed in blocks is that which was compressed."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from drgn_pageowner.model.packed import Packed, Packing

pytestmark = pytest.mark.quick

PACKING = Packing(lambda values: zlib.compress(values, 1), lambda data, size: zlib.decompress(data))


def packed(blocks: list[np.ndarray]) -> Packed:
    column = Packed(blocks[0].dtype, PACKING)
    for block in blocks:
        column.add(column.blocks(block))
    return column


def test_slices_are_those_of_the_column() -> None:
    random = np.random.default_rng(1)
    blocks = [random.integers(0, 9, size, np.uint64) for size in (5, 1, 0, 40, 7)]
    column, whole = packed(blocks), np.concatenate(blocks)
    assert len(column) == len(whole)
    assert column.itemsize == 8
    for start in range(len(whole) + 2):
        for stop in range(start, len(whole) + 2):
            found = column[start:stop]
            assert found.dtype == np.uint64
            assert found.tolist() == whole[start:stop].tolist()
    assert column[:].tolist() == whole.tolist()
    assert len(Packed(np.int32, PACKING)[:]) == 0


def test_rows_get_the_values_of_others() -> None:
    blocks = [np.arange(10, dtype=np.int32), np.arange(10, 30, dtype=np.int32)]
    column, whole = packed(blocks), np.concatenate(blocks)
    rows = np.array([12, 13, 14, 15, 20, 21, 29, 3])
    sources = np.array([4, 4, 4, 5, 5, 5, 0, 28])
    expected = whole.copy()
    expected[rows] = whole[sources]
    column.change(rows, sources)
    column.change(rows[:0], sources[:0])
    for start in range(30):
        for stop in range(start, 31):
            assert column[start:stop].tolist() == expected[start:stop].tolist()
