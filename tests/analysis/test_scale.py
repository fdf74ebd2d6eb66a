# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Check how the work of an analysis grows with its input, measured in function calls and array
elements.

No Python code may run once per record or stack, and no array may be scanned once per stack or area.
Times are not measured, because they depend on the load of the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import pytest
from handmade import NOW, SECOND, Machine, Record, heap

from drgn_pageowner.analysis.account.account import Account, account
from drgn_pageowner.analysis.account.page_class import page_classes, unaccounted_records
from drgn_pageowner.analysis.account.page_owners import owner_table
from drgn_pageowner.analysis.leaks.leaks import Leaks, find_leaks
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.analysis.leaks.suspects import suspects
from drgn_pageowner.analysis.owners.group import top
from drgn_pageowner.analysis.owners.select import Filter, select
from drgn_pageowner.model.heap import Area, AreaKind, Inventory
from drgn_pageowner.model.records import Snapshot

FUNCTIONS = [f"f{number}" for number in range(16)]
COUNTED = (
    "append", "argsort", "bincount", "concatenate", "cumsum", "flatnonzero", "isin", "lexsort",
    "repeat", "searchsorted", "unique", "where",
)  # fmt: skip
"""Functions of NumPy whose array elements are counted."""


class Work:
    """Context manager that counts calls and elements."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        """Number of function calls, of Python and of C."""
        self.elements = 0
        """Number of array elements passed to the functions in :data:`COUNTED`."""
        for name in COUNTED:
            patch.setattr(np, name, self._counting(getattr(np, name)))

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            parts = [part for arg in args for part in (arg if isinstance(arg, tuple) else [arg])]
            self.elements += sum(part.size for part in parts if isinstance(part, np.ndarray))
            return function(*args, **more)

        return counted

    def _event(self, frame: FrameType, event: str, argument: object) -> None:
        self.calls += event in ("call", "c_call")

    def __enter__(self) -> Work:
        self.calls = self.elements = 0
        sys.setprofile(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)


def stack(number: int) -> list[str]:
    """Return a stack of the same few functions, which is different for each number below 4096."""
    digits = [FUNCTIONS[number >> shift & 15] for shift in (0, 4, 8)]
    return ["alloc_pages", *digits, "kthread"]


def machine(stacks: int, *, areas: int = 0) -> Inventory:
    """Return a machine with two records per stack, too young to be suspected, and areas of two
    pages each."""
    number = 2 * stacks
    records = [Record(pfn, stack(pfn // 2), ts_nsec=NOW - SECOND) for pfn in range(number)]
    mapped = [
        Area(0xFFFFC90000000000 + i * 0x10000, 0x2000, AreaKind.VMALLOC, np.array([i, i + areas]))
        for i in range(areas)
    ]
    result = Machine("k" * number).inventory(*records, areas=mapped, tasks={1: "init"})
    records_of(result).columns["allocated"] = np.ones(number, bool)
    return result


def records_of(inventory: Inventory) -> Snapshot:
    assert inventory.records is not None
    return inventory.records


def used(inventory: Inventory) -> Account:
    return account(inventory, page_classes(inventory))


def leaks(inventory: Inventory) -> Leaks:
    """Find leaks in a heap whose only root points to all records."""
    records = len(records_of(inventory))
    every, root = np.arange(records, dtype=np.int32), np.full(records, records, np.int32)
    return find_leaks(reach(replace(heap(inventory, []), holder=root, target=every)))


QUESTIONS: dict[str, Callable[[Inventory], object]] = {
    "account": used,
    "filters": lambda one: select(records_of(one), Filter(stack_contains=["f1"], module=["x*"])),
    "leaks": leaks,
    "owners of pages": lambda one: owner_table(one, page_classes(one)),
    "suspects": suspects,
    "top by allocator": lambda one: top(records_of(one), ["allocator"], limit=5),
    "top by module": lambda one: top(records_of(one), ["module"], limit=5),
    "unaccounted records": lambda one: unaccounted_records(records_of(one)),
}


def work(
    question: Callable[[Inventory], object], patch: pytest.MonkeyPatch, inventory: Inventory
) -> tuple[int, int]:
    """Return the number of calls and of elements that a question needs."""
    # The first call fills caches.
    question(inventory)
    with Work(patch) as counted:
        question(inventory)
    patch.undo()
    return counted.calls, counted.elements


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_python_runs_per_record_or_per_stack(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few, few_elements = work(QUESTIONS[name], monkeypatch, machine(400))
    many, many_elements = work(QUESTIONS[name], monkeypatch, machine(1600))
    assert many < 1.2 * few
    assert many_elements < 4.4 * few_elements


@pytest.mark.parametrize("name", ["account", "leaks", "owners of pages", "suspects"])
def test_nothing_goes_through_everything_for_each_area(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, none = work(QUESTIONS[name], monkeypatch, machine(400))
    _, few = work(QUESTIONS[name], monkeypatch, machine(400, areas=50))
    _, many = work(QUESTIONS[name], monkeypatch, machine(400, areas=200))
    # Each area needs some elements for its own pages.
    assert many - none < 5 * max(few - none, 1000)
    assert many < 3 * none


def test_a_suspect_is_only_made_to_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(stacks: int) -> int:
        inventory = machine(stacks)
        # All tasks have exited.
        inventory.tasks = {}
        assert len(suspects(inventory)) == stacks
        return work(lambda one: suspects(one)[:20], monkeypatch, inventory)[0]

    assert shown(1600) < 1.2 * shown(400)


def test_all_suspects_are_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(stacks: int) -> int:
        inventory = machine(stacks)
        inventory.tasks = {}
        return work(lambda one: list(suspects(one)), monkeypatch, inventory)[0]

    few, many = shown(400), shown(1600)
    # Each suspect is an object of its own; that takes a few calls.
    assert many - few < 1200 * 25


def test_areas_that_overlap_are_one_allocation() -> None:
    records = [Record(pfn, ["alloc_pages", f"f{pfn}"]) for pfn in range(8)]
    rows = [(6, 7), (4, 5), (5, 6), (1, 7), (-1, 2), (2, 3)]
    areas = [
        Area(0xFFFFC90000000000 + i * 0x10000, 0x2000, AreaKind.VMALLOC, np.array(pair))
        for i, pair in enumerate(rows)
    ]
    inventory = Machine("k" * 8).inventory(*records, areas=areas, tasks={1: "init"})
    found = reach(heap(inventory, []))
    assert found.allocation.tolist() == [0, 1, 2, 2, 1, 1, 1, 1]
