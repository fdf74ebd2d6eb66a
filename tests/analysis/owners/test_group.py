# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test groups of ten records, whose sums can be checked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made import NOW_NS, SECOND, made_records

from drgn_pageowner.analysis.owners.flame import flame
from drgn_pageowner.analysis.owners.group import (
    AGES,
    GROUP_KEYS,
    Top,
    age_bands,
    columns_for,
    tally,
    top,
)
from drgn_pageowner.analysis.owners.summary import consistency, summarize
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Stacks


@pytest.fixture
def records() -> Snapshot:
    everything = made_records()
    return everything.select(everything["allocated"])


def pages_by(result: Top) -> dict[Any, int]:
    return {tuple(group.key.values()): group.pages for group in result.groups}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("stack", {22: 17, 33: 10, 11: 2, 44: 2, None: 1}),
        ("allocator", {"nft_set_init [nf_tables]": 27, "do_anonymous_page": 2, "vfs_write": 2,
                       None: 1}),
        ("module", {"nf_tables": 27, None: 5}),
        ("kind", {"slab": 19, "vmalloc": 9, "cma|vmalloc": 1, "others": 3}),
        ("order", {4: 16, 3: 8, 0: 6, 1: 2}),
        ("gfp", {0xCC0: 21, 0xDC0: 9, 0xCC8: 2}),
        ("migratetype", {"Unmovable": 27, "Movable": 2, "Reclaimable": 3}),
        ("zone", {"DMA32": 19, "Normal": 13}),
        ("node", {0: 29, 1: 3}),
        ("pid", {1: 17, 70: 1, 71: 1, 9: 10, 12: 3}),
        ("tgid", {1: 17, 7: 2, 9: 10, 12: 3}),
        ("comm", {"init": 17, "sh": 2, "kworker/0": 9, "kworker/1": 1, "\udcffoo": 3}),
        ("memcg", {None: 21, "/alpha": 2, "/x/beta": 9}),
        ("tag", {"init/main.c:10 func:kernel_init": 17, "fs/read_write.c:20 func:vfs_write": 2,
                 "net/netfilter/nft_set.c:30 [nf_tables] func:nft_set_init": 10, None: 3}),
        ("age", {"1-10 s": 4, "10-60 s": 9, "1-10 min": 19}),
    ],
)  # fmt: skip
def test_pages_of_every_key(records: Snapshot, key: str, expected: dict[Any, int]) -> None:
    result = top(records, [key])
    assert pages_by(result) == {(name,): pages for name, pages in expected.items()}
    assert (result.pages, result.allocations, result.bytes) == (32, 9, 32 * 4096)


def test_every_key_is_tested_here() -> None:
    [mark] = [m for m in test_pages_of_every_key.pytestmark if m.name == "parametrize"]  # type: ignore[attr-defined]
    assert {key for key, _ in mark.args[1]} == set(GROUP_KEYS)


def test_two_keys(records: Snapshot) -> None:
    assert pages_by(top(records, ["comm", "order"])) == {
        ("init", 4): 16,
        ("kworker/0", 3): 8,
        ("sh", 0): 2,
        ("\udcffoo", 1): 2,
        ("init", 0): 1,
        ("kworker/0", 0): 1,
        ("kworker/1", 0): 1,
        ("\udcffoo", 0): 1,
    }


def test_groups_have_times_and_the_largest_stack(records: Snapshot) -> None:
    group = top(records, ["module"]).groups[0]
    assert (group.oldest_ns, group.newest_ns) == (1 * SECOND, 95 * SECOND)
    assert group.handle == 22
    assert str(group.stack[0]) == "__alloc_pages+0x10/0x100"
    assert str(group.stack[3]) == "nft_set_init+0x10/0x100 [nf_tables]"


def test_a_limit_leaves_the_totals(records: Snapshot) -> None:
    result = top(records, limit=2)
    assert [group.pages for group in result.groups] == [17, 10]
    assert (result.number_of_groups, result.pages) == (5, 32)
    assert top(records, limit=0).groups == []


def test_a_depth_joins_stacks_that_begin_alike(records: Snapshot) -> None:
    pages = sorted(group.pages for group in top(records, depth=3).groups)
    assert pages == [1, 2, 10, 19]
    assert all(group.key["stack"] is None for group in top(records, depth=3).groups)


@pytest.mark.parametrize(
    ("sort", "handles"),
    [
        (["pages"], [22, 33, 11, 44, 0]),
        (["allocations"], [33, 22, 11, 44, 0]),
        (["oldest"], [22, 11, 33, 44, 0]),
        (["newest"], [44, 0, 33, 11, 22]),
        (["-pages"], [0, 11, 44, 33, 22]),
    ],
)
def test_sorting(records: Snapshot, sort: list[str], handles: list[int]) -> None:
    assert [group.handle for group in top(records, sort=sort).groups] == handles


def test_keys_that_are_refused(records: Snapshot) -> None:
    with pytest.raises(UsageError, match="cannot group by 'colour': known are stack"):
        columns_for(["colour"])
    with pytest.raises(UsageError, match="cannot sort by 'colour'"):
        top(records, sort=["colour"])
    old = made_records("comm", "ts_nsec")
    with pytest.raises(UsageError, match="does not record comm"):
        top(old, ["comm"])
    with pytest.raises(UsageError, match="does not record when"):
        top(old, ["age"])
    with pytest.raises(UsageError, match="cannot sort by it"):
        top(old, sort=["oldest"])
    assert top(old).groups[0].oldest_ns is None


def test_a_tally_counts_as_top_does(records: Snapshot) -> None:
    for key in GROUP_KEYS:
        counted = tally(records, [key])
        groups = {tuple(g.key.values()): (g.pages, g.handle) for g in top(records, [key]).groups}
        assert groups == {
            name: (pages, handle)
            for name, pages, handle in zip(
                counted.keys, counted.pages.tolist(), counted.handles.tolist(), strict=True
            )
        }


def test_ages_are_bands(records: Snapshot) -> None:
    ages = (NOW_NS - records["ts_nsec"].astype(np.int64)) / SECOND
    for seconds, band in zip(ages.tolist(), age_bands(records).tolist(), strict=True):
        low = AGES[band - 1][0] if band else 0
        high = AGES[band][0]
        assert low is not None
        assert low <= seconds < (high if high is not None else float("inf"))


def test_a_flame_graph_has_every_page(records: Snapshot) -> None:
    graph = flame(top(records, limit=2))
    assert (graph.pages, graph.other_pages, graph.other_stacks) == (32, 5, 3)
    first = graph.stacks[0]
    assert [graph.functions[number] for number in first.frames] == [
        "__alloc_pages", "new_slab", "kmalloc", "nft_set_init [nf_tables]", "vfs_write",
    ]  # fmt: skip
    assert first.allocator == 3


def test_a_summary_counts_allocated_and_freed_records() -> None:
    info = summarize(made_records(), ["nf_tables"], None)
    assert (info.records, info.freed_records, info.pages, info.stacks) == (9, 1, 32, 4)
    assert info.first_ns == 1 * SECOND
    assert info.consistency is None


def test_a_summary_of_parts_is_that_of_all_records() -> None:
    records = made_records()
    records.stacks.counts = np.array([2, 17, 11, 0], np.int64)
    whole = summarize(records, [], None)
    assert summarize(records.pieces(3), [], None) == whole
    # The stacks of a part are those up to it.
    first = records.select(np.flatnonzero(records.stack == 0))
    known = records.stacks
    first.stacks = Stacks(known.handles[:1], known.offsets[:2], known[0])
    rest = records.select(np.flatnonzero(records.stack != 0))
    assert summarize([first, rest], [], None) == whole


def test_the_kernels_counts_are_compared() -> None:
    records = made_records()
    # Counts of the stacks 11, 22, 33 and 44; 0 means that the kernel did not count.
    records.stacks.counts = np.array([2, 17, 11, 0], np.int64)
    found = consistency(records)
    assert found is not None
    assert (found.stacks, found.equal) == (3, 2)
    assert found.different == [(33, 11, 10)]
    assert (found.kernel_pages, found.our_pages) == (30, 29)
