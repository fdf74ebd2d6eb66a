# SPDX-License-Identifier: LGPL-2.1-or-later
"""Classes of pages on a machine typed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import MOVABLE, Machine, Record, frames, snapshot

from drgn_pageowner.analysis.account.page_class import (
    PageClass,
    class_of_stack,
    page_classes,
    unaccounted_records,
)
from drgn_pageowner.model.heap import Area, AreaKind, Metadata


@pytest.mark.parametrize(
    ("stack", "kind"),
    [
        (["alloc_pages", "driver_open"], PageClass.OTHER),
        (["alloc_pages", "pte_alloc_one"], PageClass.TABLE),
        (["alloc_pages", "__kmalloc_large_node_noprof", "f"], PageClass.LARGE_KMALLOC),
        (["__vmalloc_node_range_noprof", "f"], PageClass.VMALLOC),
        (["__vmalloc_node_range_noprof", "dup_task_struct", "copy_process"], PageClass.STACK),
        # Without CONFIG_VMAP_STACK, and inlined.
        (["get_page_from_freelist", "__alloc_pages_noprof", "copy_process"], PageClass.STACK),
        # It allocates for copy_process(), but is not part of it.
        (["alloc_pages", "audit_alloc", "copy_process"], PageClass.OTHER),
        (["alloc_pages", "register_early_stack"], PageClass.BOOT),
        (["alloc_pages", "0xffffffffc0000000"], PageClass.OTHER),
        ([], PageClass.OTHER),
    ],
)
def test_a_stack_tells_the_class(stack: list[str], kind: PageClass) -> None:
    assert class_of_stack(frames(*stack)) == kind


def test_struct_page_tells_most_classes_and_the_stack_the_rest() -> None:
    inventory = Machine(".aksrt k").inventory(
        Record(2, ["alloc_pages", "driver"]), Record(7, ["alloc_pages", "pmd_alloc_one"])
    )
    inventory.buffers[3] = True
    assert page_classes(inventory).tolist() == [
        PageClass.FREE,
        PageClass.ANON,
        PageClass.OTHER,
        PageClass.BUFFERS,
        PageClass.BOOT,
        PageClass.TABLE,
        PageClass.ABSENT,
        PageClass.TABLE,
    ]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (AreaKind.VMALLOC, PageClass.VMALLOC),
        (AreaKind.MODULE, PageClass.MODULE),
        (AreaKind.VMAP, PageClass.OTHER),
    ],
)
def test_an_area_tells_the_class_of_its_pages(kind: AreaKind, expected: PageClass) -> None:
    area = Area(0, 8192, kind, np.array([1, -1]), "name")
    inventory = Machine("kk").inventory(areas=[area])
    assert page_classes(inventory).tolist() == [PageClass.OTHER, expected]


def test_metadata_wins_over_the_stack_but_not_over_other_states() -> None:
    inventory = Machine("kan").inventory(Record(0, ["alloc_pages", "driver"]))
    inventory.metadata[:] = Metadata.STACK
    assert page_classes(inventory).tolist() == [PageClass.STACK, PageClass.ANON, PageClass.STACK]


def test_records_alone_tell_which_memory_no_class_explains() -> None:
    found = unaccounted_records(
        snapshot(
            Record(0, ["alloc_pages", "driver"]),
            Record(1, ["alloc_pages", "driver"], page_flags=2),
            Record(2, ["alloc_pages", "driver"], migratetype=MOVABLE),
            Record(3, ["alloc_pages", "pte_alloc_one"]),
            Record(4, ["new_slab", "kmem_cache_alloc", "driver"]),
            Record(5, ["alloc_pages", "copy_process"]),
        )
    )
    assert found.tolist() == [True, False, False, False, False, False]
