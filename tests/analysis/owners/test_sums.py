# SPDX-License-Identifier: LGPL-2.1-or-later
"""Groups of records that are read in parts are those of all records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from handmade import SECOND, Record, snapshot

from drgn_pageowner.analysis.owners import sums
from drgn_pageowner.analysis.owners.group import columns_for, top
from drgn_pageowner.analysis.owners.select import Filter, select
from drgn_pageowner.analysis.owners.sums import summed, summed_by, summing
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.records import Memcg, Snapshot, memcgs_by_path

pytestmark = pytest.mark.quick


def records(number: int, *, times: bool = True) -> Snapshot:
    """Records of five stacks and three tasks, some of them freed."""
    random = np.random.default_rng(number)
    made = snapshot(
        *(
            Record(
                8 * pfn,
                ["alloc_pages", f"f{random.integers(5)}", "kthread"],
                order=int(random.integers(3)),
                ts_nsec=int(random.integers(1, 100)) * SECOND,
                pid=int(random.integers(3)),
                comm=b"task%d" % random.integers(3),
            )
            for pfn in range(number)
        ),
        times=times,
    )
    allocated = random.integers(8, size=number) > 0
    handles = made["handle"].copy()
    handles[::17] = 0
    # The stack depot lacks this one.
    handles[1::17] = 77
    return replace(made, columns={**made.columns, "allocated": allocated, "handle": handles})


def parts_of(whole: Snapshot, size: int) -> list[Snapshot]:
    return [whole.select(slice(start, start + size)) for start in range(0, len(whole), size)]


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
@pytest.mark.parametrize(
    "by", [["stack"], ["comm", "order"], ["allocator"], ["pid", "stack", "gfp"], ["migratetype"]]
)
@pytest.mark.parametrize("sort", ["pages", "allocations", "oldest", "newest"])
def test_top_of_parts_is_that_of_all(size: int, by: list[str], sort: str) -> None:
    whole = records(211)
    parts = parts_of(whole, size)
    found = summed(iter(parts), Filter(), columns_for(by))
    expected = top(whole.select(whole["allocated"]), by, sort=[sort])
    assert top(found, by, sort=[sort]) == expected
    if size > 211:
        assert found.columns.keys() == whole.columns.keys()


@pytest.mark.parametrize("size", [7, 50])
@pytest.mark.parametrize("freed", [False, True])
@pytest.mark.parametrize("run", [1, 9])
@pytest.mark.parametrize(
    "by", [["stack"], ["comm", "order"], ["pid", "stack", "gfp"], ["migratetype"]]
)
def test_parts_may_be_sums(size: int, freed: bool, run: int, by: list[str]) -> None:
    """
    Records summed up where they are read count as the records themselves, also where neighbours
    have all but their time in common.
    """
    whole = records(211)
    alike = np.arange(211) // run * run
    whole = replace(
        whole,
        columns={
            name: column if name in ("pfn", "ts_nsec") else column[alike]
            for name, column in whole.columns.items()
        },
    )
    wanted, columns = Filter(freed=freed), columns_for(by)
    sums_of = summing(wanted, columns)
    parts = [replace(part, columns=sums_of(dict(part.columns))) for part in parts_of(whole, size)]
    assert sum(len(part) for part in parts) < 2 * 211
    found = top(summed(iter(parts), wanted, columns), by, sort=["pages"])
    assert found == top(whole.select(whole["allocated"] != freed), by, sort=["pages"])


def test_without_times_and_of_freed_records() -> None:
    whole = records(211, times=False)
    found = summed(iter(parts_of(whole, 20)), Filter(freed=True), columns_for(["stack"]))
    assert "ts_nsec" not in found
    assert top(found) == top(whole.select(~whole["allocated"]))


@pytest.mark.parametrize("many", [4, 1 << 21])
def test_sums_do_not_grow_with_the_records(monkeypatch: pytest.MonkeyPatch, many: int) -> None:
    monkeypatch.setattr("drgn_pageowner.analysis.owners.sums._MANY", many)
    sizes = []
    for number in (200, 1600):
        whole = records(number)
        parts = parts_of(whole, number // 4)
        found = summed(iter(parts), Filter(), columns_for(["stack"]))
        assert top(found) == top(whole.select(whole["allocated"]))
        sizes.append(len(found))
    # Five stacks and none, an oldest and a newest record of each, of four parts.
    assert max(sizes) <= 6 * 2 * (1 if many == 4 else 4)


@pytest.mark.parametrize("size", [7, 50])
@pytest.mark.parametrize("by", [["memcg"], ["stack", "memcg"]])
def test_parts_may_number_memory_cgroups_in_their_own_ways(size: int, by: list[str]) -> None:
    random = np.random.default_rng(1)
    whole = records(211)
    cgroups = [Memcg(name, f"/{name}", True, inode) for inode, name in enumerate("cab")]
    memcgs, index = memcgs_by_path(cgroups, random.integers(-1, 3, size=211).astype(np.int32))
    whole = replace(whole, columns={**whole.columns, "memcg": index}, memcgs=memcgs)
    parts = []
    for number, part in enumerate(parts_of(whole, size)):
        order = np.roll(np.arange(3), number)
        place = np.append(np.argsort(order), -1).astype(np.int32)
        parts.append(
            replace(
                part,
                columns={**part.columns, "memcg": place[part["memcg"]]},
                memcgs=[memcgs[old] for old in order.tolist()],
            )
        )
    found = summed(iter(parts), Filter(), columns_for(by))
    assert top(found, by) == top(whole.select(whole["allocated"]), by)
    assert {group.key["memcg"] for group in top(found, by).groups} == {None, "/a", "/b", "/c"}


@pytest.mark.parametrize("by", [["age"], ["comm", "age"], ["stack"]])
@pytest.mark.parametrize("times", [True, False])
def test_records_that_are_in_memory_are_summed_up(
    monkeypatch: pytest.MonkeyPatch, by: list[str], times: bool
) -> None:
    monkeypatch.setattr(sums, "_ROWS", 20)
    whole = records(211, times=times)
    wanted = Filter(where={"pid": [1, 2]}, since_ns=20 * SECOND) if times else Filter()
    chosen = select(whole, wanted)
    found = summed_by(whole, by, wanted, columns_for(by))
    assert len(found) < len(chosen)
    if "age" in by and not times:
        with pytest.raises(UsageError, match="does not record"):
            top(found, by)
    else:
        assert top(found, by) == top(chosen, by)
