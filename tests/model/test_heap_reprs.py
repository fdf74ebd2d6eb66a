# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the repr of objects with arrays: counts and units, on one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from conftest import Dump

from drgn_pageowner import read_heap


def test_reprs_are_short_and_have_counts_and_units(dump_named: Callable[[str], Dump]) -> None:
    dump = dump_named("linux-6.12/traps")
    heap = read_heap(dump.prog)
    inventory = heap.inventory
    memory, records = inventory.memory, inventory.records
    assert records is not None
    objects: tuple[Any, ...] = (heap, inventory, memory, memory.pages, inventory.slabs, records)
    for one in objects:
        assert len(repr(one)) < 300
        assert "\n" not in repr(one)
        assert re.match(rf"<{type(one).__name__}\b", repr(one))
        assert re.search(r"[\d.]+ [KMG]iB", repr(one))
    assert f"{len(records):,} records, {int(records.pages.sum()):,} pages" in repr(records)
    assert f"{len(memory.pages):,} pages" in repr(memory)
    assert f"{len(heap.target):,} pointers" in repr(heap)
