# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test groups of leaks and their reasons, on hand-made graphs."""

from __future__ import annotations

import pytest
from handmade import NOW, SECOND, Machine, Record, heap

from drgn_pageowner.analysis.leaks.leaks import LeakGroup, find_leaks
from drgn_pageowner.analysis.leaks.reach import reach

LOST = ["alloc_pages", "lost"]
ROOT = -1


def group(
    *records: Record, held: int = 0, tasks: dict[int, str] | None = None, missing: int = 0
) -> LeakGroup:
    """Return the only group of lost pages of a graph, in which the first *held* records are
    reachable."""
    inventory = Machine("k." * len(records)).inventory(*records, tasks=tasks)
    found = find_leaks(reach(heap(inventory, [(ROOT, i) for i in range(held)], missing=missing)))
    assert found.pages_missing == missing
    [one] = found.lost_groups
    return one


def pages(number: int, **more: object) -> list[Record]:
    return [
        Record(2 * i, LOST, ts_nsec=SECOND * (i + 1), **{"pid": 9, "comm": b"sh", **more})  # type: ignore[arg-type]
        for i in range(number)
    ]


def test_everything_that_a_stack_allocated_is_one_group() -> None:
    one = group(*pages(3), tasks={9: "sh"})
    assert (one.allocations, one.pages, one.of_stack) == (3, 3, 3)
    assert (one.allocator, one.verdict) == ("lost+0x10/0x100", "unreachable")
    assert one.confidence == "high"
    assert one.reasons == ["no address of it is in anything that a root leads to"]


@pytest.mark.parametrize(
    ("tasks", "alive", "now", "said"),
    [
        ({}, False, None, True),
        ({9: "sh"}, True, None, False),
        # exec() renames a task.
        ({9: "httpd"}, True, "httpd", False),
    ],
)
def test_a_task_is_gone_only_if_its_pid_is(
    tasks: dict[int, str], alive: bool, now: str | None, said: bool
) -> None:
    one = group(*pages(1), tasks=tasks)
    [task] = one.tasks
    assert (task.comm, task.alive, task.now) == ("sh", alive, now)
    assert ("the tasks that allocated it are gone" in one.reasons) == said


def test_freed_init_code_of_a_loaded_module_counts_for_nothing() -> None:
    stack = ["alloc_pages", "f [mod]", "0xffffffffc000d00d", "do_one_initcall"]
    one = group(Record(0, stack, pid=9), tasks={9: "init"})
    assert not one.module_gone
    assert "a module in its stack is gone" not in one.reasons
    assert "its stack has a module's init code, which was freed once it had run" in one.reasons


def test_a_module_that_is_gone_is_said_to_be() -> None:
    stack = ["alloc_pages", "0xffffffffc0008010", "0xffffffffc000d00d", "do_one_initcall"]
    one = group(Record(0, stack, pid=9), tasks={9: "init"})
    assert one.module_gone
    assert one.reasons[1:] == ["a module in its stack is gone"]


def test_a_doubt_costs_confidence() -> None:
    young = group(Record(0, LOST, ts_nsec=NOW - 1))
    assert young.confidence == "medium"
    assert "allocated in the last second" in young.reasons[-1]
    assert group(*pages(20), held=19).confidence == "medium"
    holes = group(*pages(1), tasks={9: "sh"}, missing=7)
    assert holes.confidence == "low"
    assert "7 pages of kernel memory are not in the dump" in holes.reasons
    # Missing memory lowers the confidence of all groups, because memory that only it refers to
    # looks lost.
    assert group(*pages(1), missing=7).confidence == "low"
