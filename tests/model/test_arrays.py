# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare operations on arrays with plain NumPy."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from drgn_pageowner.model.arrays import (
    Array,
    Growing,
    Narrow,
    among,
    begins,
    by_runs,
    distinct,
    equals,
    frequencies,
    looked_up,
    packed_pairs,
    places_of,
    ranges,
    rows_among,
    sparse_zeros,
    sums,
    unpacked_pairs,
    values_of,
    widen,
)
from drgn_pageowner.model.pages import PageState


def test_ranges_follow_one_another() -> None:
    result = ranges(np.array([5, 100, 7, 0]), np.array([3, 0, 1, 2]))
    assert result.tolist() == [5, 6, 7, 7, 0, 1]
    assert ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize(
    "values, kind",
    [
        # last_migrate_reason of a damaged record, and -1: the difference does not fit into int16.
        ([0x7FFF, -1, 3, -1], "i2"),
        ([-0x8000, 0x7FFF, 0], "i2"),
        ([-128, 127, 0, 127], "i1"),
        ([0, 255, 7], "u1"),
        ([2**64 - 1, 2**64 - 5, 2**64 - 1], "u8"),
        ([2**63 - 1, 2**63 - 9], "i8"),
        ([-(2**63), 4 - 2**63], "i8"),
        ([-(2**63), 2**63 - 1], "i8"),
        ([5], "i4"),
        ([], "i4"),
    ],
)
def test_distinct_reaches_the_ends_of_a_type(values: list[int], kind: str) -> None:
    array = np.array(values, kind)
    found, inverse = distinct(array)
    expected, places = np.unique(array, return_inverse=True)
    assert found.dtype == array.dtype
    assert found.tolist() == expected.tolist()
    assert inverse.tolist() == places.tolist()


@pytest.mark.parametrize(
    "bases, sorts",
    [
        # Code of the kernel and of modules, which are a GiB apart.
        ((0xFFFFFFFF81000000, 0xFFFFFFFFC0000000), False),
        # A stack with an address of a program in it.
        ((0x401000, 0xFFFFFFFF81000000), True),
        ((0,), False),
    ],
)
def test_addresses_of_code_are_told_apart_without_sorting(
    bases: tuple[int, ...], sorts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spots = np.arange(20_000, dtype=np.uint64) * np.uint64(7919) % np.uint64(1 << 18)
    array = np.concatenate([np.uint64(base) + spots for base in bases])
    expected, places = np.unique(array, return_inverse=True)
    calls: list[None] = []
    unique = np.unique
    monkeypatch.setattr(np, "unique", lambda *a, **k: calls.append(None) or unique(*a, **k))
    found, inverse = distinct(array)
    assert found.dtype == array.dtype
    assert (found == expected).all()
    assert (inverse == places).all()
    assert bool(calls) == sorts


def test_small_numbers_are_found_among_some() -> None:
    values = np.array([0, 3, 255, 7, 3], np.uint8)
    assert among(values, (3, 255)).tolist() == [False, True, True, False, True]
    assert not among(values, ()).any()


def test_values_are_found_among_members_of_an_enumeration() -> None:
    values = np.random.default_rng(3).integers(0, 256, 600_000).astype(np.uint8)
    for members in ([], [PageState.SLAB], list(PageState), [0, 255]):
        expected = np.isin(values, [int(member) for member in members])
        assert np.array_equal(among(values, members), expected)
        found = rows_among(values, members)
        assert found.dtype == np.int64
        assert np.array_equal(found, np.flatnonzero(expected))
    assert np.array_equal(equals(values, PageState.SLAB), values == PageState.SLAB)
    assert len(rows_among(values[:0], [0])) == 0


@pytest.mark.parametrize("run, calls", [(1, 1000), (3, 1000), (8, 125)])
def test_only_the_first_of_a_long_run_is_looked_at(run: int, calls: int) -> None:
    values = np.repeat(np.arange(1000 // run + 1), run)[:1000]
    asked = []

    def square(some: Array) -> Array:
        asked.append(len(some))
        return some * some

    assert by_runs(square, values).tolist() == [value * value for value in values.tolist()]
    assert asked == [calls]
    assert by_runs(square, values[:0]).tolist() == []


@pytest.mark.parametrize("run", [1, 16])
@pytest.mark.parametrize("rows", [0, 1, 10_000])
def test_groups_are_summed_up_in_runs_or_not(run: int, rows: int) -> None:
    chance = np.random.default_rng(2)
    groups = np.repeat(chance.integers(0, 7, rows), run)[:rows]
    values = chance.integers(0, 1 << 40, rows).astype(np.uint64)
    assert frequencies(groups, 9).tolist() == np.bincount(groups, minlength=9).tolist()
    assert frequencies(groups).tolist() == np.bincount(groups).tolist()
    for weights in (values, values.astype(np.int64) - (1 << 39), values % 2 == 0):
        expected = np.zeros(9, np.int64)
        np.add.at(expected, groups, weights.astype(np.int64))
        assert sums(groups, weights, 9).tolist() == expected.tolist()
    lowest, highest = np.full(9, 1 << 41, np.uint64), np.zeros(9, np.uint64)
    widen(lowest, highest, groups, values)
    for number in range(9):
        mine = values[groups == number].tolist()
        assert lowest[number] == min([1 << 41, *mine])
        assert highest[number] == max([0, *mine])


def test_sparse_zeros_can_be_written_anywhere() -> None:
    found = sparse_zeros(10_000, np.int32)
    assert (found.dtype, len(found), int(found.sum())) == (np.int32, 10_000, 0)
    found[9_999] = -1
    assert int(found.sum()) == -1
    assert sparse_zeros(0, np.uint8).tolist() == []


def test_a_growing_column_keeps_what_was_added_until_it_is_taken() -> None:
    column, later = Growing(np.int32), Growing(np.int32)
    for number in range(3):
        column.add(np.arange(number * 1000, number * 1000 + 1000))
    later.add(np.array([-1]))
    column.extend(pickle.loads(pickle.dumps(later)))
    assert len(column) == 3001
    assert column.take().tolist() == [*range(3000), -1]
    assert column.take().tolist() == []


def test_packed_pairs_sort_by_both_numbers() -> None:
    first, second = np.array([2, 0, 2, 2**31 - 1]), np.array([5, 2**31 - 1, 1, 0])
    found = unpacked_pairs(np.sort(packed_pairs(first, second)))
    assert [column.tolist() for column in found] == [
        [0, 2, 2, 2**31 - 1],
        [2**31 - 1, 1, 5, 0],
    ]


@pytest.mark.parametrize("table", [np.arange(256, dtype=np.uint8) * 3, np.arange(40) % 3 == 0])
def test_values_are_looked_up(table: Array) -> None:
    values = np.random.default_rng(1).integers(0, 40, 3_000_000).astype(np.uint8)
    assert np.array_equal(looked_up(table, values), table[values])
    with pytest.raises(IndexError):
        looked_up(table[:39], values)


@pytest.mark.parametrize("run", [1, 16])
def test_values_of_columns_are_all_values(run: int) -> None:
    values = np.repeat(np.random.default_rng(1).integers(0, 500, 1 << 17), run).astype(np.uint32)
    others = np.array([7, 1 << 31, 7], np.uint32)
    before = values.copy(), others.copy()
    assert np.array_equal(values_of([values, others]), np.unique(np.concatenate(before)))
    assert np.array_equal(values, before[0])
    assert np.array_equal(others, before[1])
    assert not len(values_of([values[:0]]))


def test_a_narrow_column_is_like_the_column() -> None:
    column = np.array([0, 5, 1 << 31, (1 << 32) - 1], np.int64)
    narrow = Narrow(column.astype(np.uint32))
    assert len(narrow) == 4
    for rows in (slice(1, 3), [3, 0], np.array([True, False, True, False]), 3):
        assert narrow[rows].dtype == np.int64
        assert (narrow[rows] == column[rows]).all()
    assert np.array_equal(np.asarray(narrow), column)
    assert np.asarray(narrow).dtype == np.int64
    assert np.searchsorted(narrow, 6) == 2


@pytest.mark.parametrize("values", [["b", "", "a", "b", "b"], []])
def test_distinct_names_are_those_of_unique(values: list[str]) -> None:
    names = np.array(values, "S16")
    # Two pieces, the second of which has a name that is not in the first.
    names = np.concatenate([np.repeat(names, 1 << 18), np.array(["kworker/0:1", "a"], "S16")])
    found, inverse = distinct(names)
    wanted, places = np.unique(names, return_inverse=True)
    assert found.tolist() == wanted.tolist()
    assert inverse.dtype == np.int64
    assert np.array_equal(inverse, places)


def test_names_with_the_same_sum_are_told_apart() -> None:
    factor = 0x9E3779B97F4A7C15
    halves = np.array([[1, 0], [0, factor], [1, 0]], np.uint64)
    names = halves.view("S16").reshape(-1)
    assert distinct(names)[1].tolist() == np.unique(names, return_inverse=True)[1].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
def test_places_are_those_of_searchsorted(dtype: type[np.integer], side: Any) -> None:
    members = np.sort(np.random.default_rng(3).integers(0, 50, 200)).astype(dtype)
    for values in ([0, 49, 50], np.arange(60), np.zeros(0, np.int64), members):
        expected = np.searchsorted(members, values, side)
        assert places_of(members, values, side).tolist() == expected.tolist()


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(
    "values",
    [
        [],
        [b"a"],
        [b"a", b"a", b"b", b"", b"", b"a"],
        # They differ in the first half, in the second, and after a NUL.
        [b"kworker/0:1-even", b"kworker/1:1-even", b"kworker/1:1-odd", b"kworker/1:1-odd"],
        [b"a", b"a\0b", b"a\0b"],
    ],
)
def test_names_begin_where_they_change(values: list[bytes], step: int) -> None:
    names = np.array(values, "S16").repeat(step)[::step]
    found = begins(names)
    assert found.tolist() == [
        index == 0 or value != values[index - 1] for index, value in enumerate(values)
    ]
