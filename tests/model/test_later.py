# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test columns that are read when they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.later import Later, LaterRows, release, selected

ROWS = 20
TRUE = {"pid": np.arange(ROWS, dtype=np.int32) * 3, "ts_nsec": np.arange(ROWS, dtype=np.uint64) + 7}


class Reader:
    """Reads :data:`TRUE`, and counts how often."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, names: Sequence[str], rows: Array | None) -> Mapping[str, Array]:
        self.asked.append(tuple(names))
        chosen: Any = slice(None) if rows is None else rows
        return {name: TRUE[name][chosen] for name in names}


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def columns(reader: Reader) -> dict[str, Array]:
    rows = LaterRows(reader, ROWS, list(TRUE))
    return {"pfn": np.arange(ROWS), **Later.columns(rows, {})}


MASKS = [
    slice(3, 9), slice(0), np.array([5, 1, 1, 7]), np.arange(ROWS) % 3 == 0, np.zeros(0, np.int32),
]  # fmt: skip


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_some_rows_are_those_of_an_array(columns: dict[str, Array], mask: Any) -> None:
    for name, true in TRUE.items():
        assert len(columns[name]) == ROWS
        assert columns[name][mask].tolist() == true[mask].tolist()
        assert np.asarray(columns[name]).tolist() == true.tolist()


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_selected_rows_are_read_once_for_all_columns_and_only_if_used(
    columns: dict[str, Array], reader: Reader, mask: Any
) -> None:
    some = selected(columns, mask)
    assert some["pfn"].tolist() == np.arange(ROWS)[mask].tolist()
    assert not reader.asked
    for name, true in TRUE.items():
        assert np.asarray(some[name]).tolist() == true[mask].tolist()
    few = selected(some, slice(1, 3))
    for name, true in TRUE.items():
        assert np.asarray(few[name]).tolist() == true[mask][1:3].tolist()
        assert few[name][:1].tolist() == true[mask][1:2].tolist()
    assert reader.asked == [tuple(TRUE)]


def test_values_are_used_until_they_are_released(reader: Reader) -> None:
    rows = LaterRows(reader, ROWS, list(TRUE))
    known = Later.columns(rows, TRUE)
    some = selected(known, slice(4))
    assert np.asarray(known["pid"]).tolist() == TRUE["pid"].tolist()
    assert some["pid"][1:].tolist() == TRUE["pid"][1:4].tolist()
    assert not reader.asked
    release(known)
    assert known["pid"][2:4].tolist() == [6, 9]
    assert np.asarray(known["ts_nsec"]).tolist() == TRUE["ts_nsec"].tolist()
    assert len(reader.asked) == 2
    # What was selected before keeps its values.
    assert some["pid"][:1].tolist() == [0]
    assert len(reader.asked) == 2
