# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test classes of pages on hand-made machines."""

from __future__ import annotations

from handmade import Machine, Record

from drgn_pageowner.analysis.account.account import Account, account
from drgn_pageowner.model.heap import Inventory, Metadata


def pages_of(found: Account) -> dict[str, int]:
    return {row.name: row.pages for row in found.classes}


def with_metadata(inventory: Inventory, **rows: int) -> Inventory:
    for kind, row in rows.items():
        inventory.metadata[row] = Metadata[kind]
    return inventory


def test_memory_of_graphics_drivers_is_what_the_kernel_counts() -> None:
    made = ["alloc_pages", "ttm_pool_alloc_page", "ttm_pool_alloc"]
    counters = {"NR_GPU_ACTIVE": 3, "NR_GPU_RECLAIM": 1}
    inventory = Machine("kkkkk").inventory(
        Record(0, made, order=2), Record(4, ["alloc_pages", "owner"]), counters=counters
    )
    found = account(inventory)
    assert pages_of(found) == {"GPU": 4, "driver or other kernel": 1}
    [gpu] = [row for row in found.classes if row.name == "GPU"]
    assert gpu.counter is not None
    assert (gpu.counter.pages, gpu.counter.difference) == (4, 0)


def test_tables_of_the_kernel_are_a_class_of_their_own() -> None:
    """Pages that are marked as page tables are in the kernel's counter."""
    inventory = Machine("ttkr").inventory(
        Record(2, ["alloc_pages", "owner"]), counters={"NR_PAGETABLE": 2}
    )
    # Page tables: one that is marked, one that is not, and one in boot memory.
    for row in (1, 2, 3):
        inventory.metadata[row] = Metadata.TABLE
    found = account(inventory)
    assert pages_of(found) == {"page tables": 1, "kernel page tables": 3}
    [tables] = [row for row in found.classes if row.name == "page tables"]
    assert tables.counter is not None
    assert (tables.counter.others, tables.counter.difference) == (1, 0)


def test_what_kasan_and_kfence_need_is_told() -> None:
    inventory = with_metadata(Machine("rrk").inventory(), SHADOW=0, KFENCE=1)
    found = account(inventory)
    assert pages_of(found) == {"KASAN shadow": 1, "KFENCE pool": 1, "driver or other kernel": 1}
