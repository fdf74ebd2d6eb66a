# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test sums by class, counter and owner on a hand-made machine."""

from __future__ import annotations

import numpy as np
from handmade import NOW, SECOND, Machine, Record

from drgn_pageowner.analysis.account.account import ClassCount, account
from drgn_pageowner.analysis.account.page_class import page_classes
from drgn_pageowner.analysis.account.page_owners import (
    NO_RECORD,
    ages_by_class,
    owner_table,
    owners_by_class,
)
from drgn_pageowner.model.heap import Area, AreaKind

MACHINE = Machine("..aakkkktt")


def row(rows: list[ClassCount], name: str) -> ClassCount:
    [found] = [one for one in rows if one.name == name]
    return found


def test_every_page_is_counted_once() -> None:
    result = account(MACHINE.inventory())
    assert (result.present, result.accounted, result.unknown) == (10, 10, 0)
    assert {one.name: one.pages for one in result.classes} == {
        "driver or other kernel": 4,
        "free": 2,
        "anonymous": 2,
        "page tables": 2,
    }
    assert sum(result.zones[0].classes.values()) == 10


def test_a_counter_is_compared_with_its_class() -> None:
    found = account(MACHINE.inventory(counters={"NR_PAGETABLE": 3})).classes
    counter = row(found, "page tables").counter
    assert counter is not None
    assert (counter.name, counter.pages, counter.difference) == ("PageTables", 3, -1)
    assert row(found, "driver or other kernel").counter is None


def test_anonymous_pages_that_nobody_maps_are_not_in_the_counter() -> None:
    inventory = MACHINE.inventory(counters={"NR_ANON_MAPPED": 1})
    inventory.memory.pages["mapcount"][2] = 0
    counter = row(account(inventory).classes, "anonymous").counter
    assert counter is not None
    assert (counter.uncounted, counter.difference) == (1, 0)


def test_vmalloc_counts_stacks_and_modules_but_no_vmap() -> None:
    areas = [
        Area(0, 4096, AreaKind.VMALLOC, np.array([4])),
        Area(0, 4096, AreaKind.MODULE, np.array([5]), "module"),
        Area(0, 4096, AreaKind.VMAP, np.array([6])),
    ]
    found = account(MACHINE.inventory(areas=areas, counters={"nr_vmalloc_pages": 2})).classes
    counter = row(found, "vmalloc").counter
    assert counter is not None
    assert (counter.others, counter.uncounted, counter.difference) == (1, 0, 0)


def test_owners_of_a_class_add_up() -> None:
    inventory = MACHINE.inventory(
        Record(4, ["alloc_pages", "one"], order=1), Record(6, ["alloc_pages", "two"])
    )
    table = owner_table(inventory, page_classes(inventory))
    [other] = [o for o in owners_by_class(table, 1) if o.name == "driver or other kernel"]
    assert other.owners == [("one", 2)]
    assert (other.other_owners, other.other_pages) == (2, 2)
    [free] = [o for o in owners_by_class(table, 9) if o.name == "free"]
    assert free.owners == [(NO_RECORD, 2)]


def test_ages_are_counted_from_the_dump() -> None:
    inventory = MACHINE.inventory(
        Record(4, ["f"], ts_nsec=NOW - SECOND // 2), Record(5, ["f"], ts_nsec=1)
    )
    bands = ages_by_class(inventory, page_classes(inventory))
    assert [band.pages for band in bands if band.pages] == [1, 1]
    assert sum(band.allocations for band in bands) == 2
    assert ages_by_class(MACHINE.inventory(times=False), page_classes(inventory)) == []
