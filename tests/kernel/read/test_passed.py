# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns of records are the same after they were passed to another process."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from drgn_pageowner.kernel.read.passed import PassedColumns
from drgn_pageowner.model.arrays import Array

pytestmark = pytest.mark.quick


def passed(columns: dict[str, Array]) -> tuple[PassedColumns, int]:
    """Return *columns* as another process gets them, and the number of bytes that it is sent."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(PassedColumns(columns), 5, buffer_callback=buffers.append)
    sent = [bytes(buffer.raw()) for buffer in buffers]
    return pickle.loads(data, buffers=sent), len(data) + sum(map(len, sent))


def columns_of(rows: int, run: int) -> dict[str, Array]:
    """Columns of all types whose values change after each *run* rows."""
    level = np.arange(rows) // run
    return {
        "pfn": 1 << 40 | np.arange(rows) + 7 * level,
        "order": (level % 11).astype(np.uint8),
        "allocated": level % 2 == 0,
        "handle": (level * 0x9E3779B1).astype(np.uint32),
        "ts_nsec": (1 << 63) + level.astype(np.uint64),
        "last_migrate_reason": (-level).astype(np.int16),
        "comm": np.array([b"task%d" % (number % 100) for number in level.tolist()], "S16"),
        "trace_entries": np.arange(2 * rows).reshape(rows, 2).astype(np.uint64),
    }


@pytest.mark.parametrize("rows", [0, 1, 255, 256, 1000])
@pytest.mark.parametrize("run", [1, 3, 5, 64, 5000])
def test_columns_arrive_as_they_were(rows: int, run: int) -> None:
    columns = columns_of(rows, run)
    found, _ = passed(columns)
    assert list(found) == list(columns)
    for name, column in columns.items():
        assert found[name].dtype == column.dtype, name
        assert np.array_equal(found[name], column), name


def test_runs_take_less_and_other_columns_no_more() -> None:
    def size(run: int) -> tuple[int, int]:
        columns = columns_of(10_000, run)
        return passed(columns)[1], sum(column.nbytes for column in columns.values())

    sent, held = size(1)
    assert held <= sent < held + 2_000
    sent, held = size(100)
    # Only the column that has several values a row is passed as it is.
    assert sent - 160_000 < (held - 160_000) / 10
