# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test suspects among hand-made records."""

from __future__ import annotations

import numpy as np
from handmade import NOW, SECOND, Machine, Record

from drgn_pageowner.analysis.leaks.suspects import Suspect, Suspects, largest_of, suspects
from drgn_pageowner.model.arrays import Array

LEAK = ["alloc_pages", "leak"]


def only(*records: Record, tasks: dict[int, str] | None = None) -> Suspect | None:
    found = suspects(Machine("k" * len(records)).inventory(*records, tasks=tasks or {1: "init"}))
    assert len(found) <= 1
    return found[0] if found else None


def spread(number: int, first: int, last: int) -> list[Record]:
    step = (last - first) // (number - 1)
    return [Record(i, LEAK, ts_nsec=first + i * step) for i in range(number)]


def test_a_stack_that_allocates_all_the_time_grows_at_a_rate() -> None:
    found = only(*spread(10, SECOND, NOW - SECOND))
    assert found is not None
    assert found.reasons == ["it grows: some of it was allocated in 8 of 8 periods"]
    assert found.pages_per_hour is not None
    # 10 pages in 998 s.
    assert round(found.pages_per_hour, 1) == 36.1


def test_a_burst_has_no_rate() -> None:
    # 100 pages in 99 us would be 3,636,363,636 pages an hour, so no rate is given for a burst.
    burst = spread(100, NOW // 3, NOW // 3 + 99_000)
    found = only(*burst)
    assert found is not None
    assert found.reasons == ["most of it is older than half of the uptime"]
    assert found.pages_per_hour is None


def test_a_task_with_another_name_is_not_gone() -> None:
    young = [Record(0, LEAK, ts_nsec=NOW - SECOND, pid=1, comm=b"swapper/0")]
    assert only(*young) is None
    gone = only(*young, tasks={7: "init"})
    assert gone is not None
    assert gone.reasons == ["the tasks that allocated most of it are gone"]


def test_freed_init_code_is_no_reason() -> None:
    stack = ["alloc_pages", "f [mod]", "0xffffffffc000d00d", "do_one_initcall"]
    assert only(Record(0, stack, ts_nsec=NOW - SECOND)) is None
    found = only(Record(0, ["alloc_pages", "0xffffffffc0008010", "kthread"], ts_nsec=NOW - SECOND))
    assert found is not None
    assert found.reasons == ["a frame has no symbol: its module was unloaded"]


def test_memory_of_other_classes_is_not_suspected() -> None:
    inventory = Machine("a").inventory(Record(0, LEAK), tasks={})
    assert suspects(inventory) == []


def test_suspects_are_the_same_however_their_records_are_found() -> None:
    records = [
        Record(16 * stack + i, ["alloc_pages", f"leak{stack}"], ts_nsec=SECOND + i * NOW // 14)
        for stack in range(9)
        for i in range(10 + stack % 4)
    ]
    inventory = Machine("k" * 144).inventory(*records, tasks={1: "init"})
    together = list(suspects(inventory))
    assert len(together) == 9
    assert {suspect.pages for suspect in together} == {10, 11, 12, 13}
    # The first few are looked for among all records; for the others, these are sorted.
    found = suspects(inventory)
    assert [found[index] for index in range(9)] == together


def test_a_suspect_that_is_asked_for_alone_is_found_once() -> None:
    suspect = only(*spread(10, SECOND, NOW))
    assert suspect is not None
    asked: list[list[int]] = []

    def make(places: Array) -> list[Suspect]:
        asked.append(places.tolist())
        return [suspect] * len(places)

    found = Suspects(3, np.array([1, 5, 5]), make)
    assert found.largest() is suspect
    assert largest_of(found) is found[-2] is found[1] is suspect
    assert asked == [[1]]
    assert list(found[:2]) == list(found[:2])
    assert asked == [[1], [0, 1], [0, 1]]
