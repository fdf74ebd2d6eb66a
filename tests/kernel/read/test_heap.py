# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test references between allocations, and words that contain PFNs."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Dump, bundled

from drgn_pageowner.kernel.linux.percpu import cpu_variable
from drgn_pageowner.kernel.linux.printk import log_buffers
from drgn_pageowner.kernel.linux.stackdepot import depot_pools
from drgn_pageowner.kernel.linux.topology import possible_cpus
from drgn_pageowner.kernel.read.bookkeeping import HiddenParts
from drgn_pageowner.kernel.read.heap import HeapReader
from drgn_pageowner.kernel.read.inventory import InventoryReader
from drgn_pageowner.kernel.read.numbers import Numbers
from drgn_pageowner.model.heap import Metadata

pytestmark = pytest.mark.one_of_a_kernel

MARK = 1 << 63


@pytest.fixture(scope="module")
def reader() -> InventoryReader:
    return InventoryReader(bundled("linux-6.12-arm64/kdump").linux)


def test_a_physical_address_with_the_mark_names_its_page(reader: InventoryReader) -> None:
    size = reader.pages.facts.page_size
    plain, marked = (Numbers(reader.pages, reader.inventory, mark) for mark in (0, MARK))
    assert reader.inventory.records is not None
    every = reader.inventory.records["pfn"].astype(np.uint64)
    record = int(every[plain.find(every)[0][0]])
    words = np.array([record * size, record, record * size | MARK, record | MARK], np.uint64)
    assert plain.find(words)[0].tolist() == [0, 1]
    places, records, pair = marked.find(words)
    assert places.tolist() == [0, 1, 2]
    assert len(set(records.tolist())) == 1
    assert not pair.any()


def test_pools_of_the_stack_depot_are_no_leaks_the_next_one_included(dump: Dump) -> None:
    """All pages that the depot allocated are in its pools."""
    reader = InventoryReader(dump.linux)
    records = reader.inventory.records
    assert records is not None
    made = [
        number
        for number in np.unique(records.stack).tolist()
        if any((f.name or "").startswith(MAKERS) for f in records.stack_frames(number)[:6])
    ]
    # Not what makes stacks out of other things.
    rows = reader.pages.rows(records["pfn"][np.isin(records.stack, made)])
    assert len(depot_pools(dump.linux)[0]) >= 2
    assert (reader.inventory.metadata[rows] == Metadata.STACK_DEPOT).all()


MAKERS = ("stack_depot_save", "__stack_depot_save")


def test_the_kernel_log_is_not_looked_at(dump: Dump) -> None:
    heap = HeapReader(dump.linux)
    buffers = log_buffers(dump.linux)
    assert buffers
    words = heap._size // heap.word
    for address, size in buffers:
        rows = heap.reader.rows_of(address, size)
        phys = heap.reader.phys_of(address)
        assert phys is not None
        first = int(heap._pages.pfns(rows[:1])[0])
        place = (phys - first * heap._size + np.arange(0, size - 8, 8)) // heap.word
        assert (heap.nodes_of_words(rows, place[place < len(rows) * words]) == -1).all()


def test_what_lies_beside_a_hidden_part_is_looked_at(reader: InventoryReader) -> None:
    pages = reader.pages
    size = pages.facts.page_size
    hidden = HiddenParts(len(pages))
    row = 1000
    start = int(pages.pfns(np.array([row]))[0]) * size + 64
    hidden.add(start, start + 16, np.array([row]))
    rows, offsets = np.full(4, row), np.array([56, 64, 72, 80])
    assert hidden.covers(rows, pages, offsets).tolist() == [1, 2]
    assert hidden.covers(rows + 1, pages, offsets).tolist() == []


def test_pages_that_kvfree_rcu_keeps_vouch_for_nothing() -> None:
    """For every CPU, the number is that of its counter; the pages are bookkeeping in the heap."""
    found = 0
    for name in ("linux-6.1/traps", "linux-6.12/traps", "linux-7.2/traps"):
        dump = bundled(name)
        heap = HeapReader(dump.linux)
        nodes = heap._bookkeeping.nodes
        targets = heap.resolver.targets(np.array(nodes, np.uint64))
        assert (targets >= 0).all()
        assert np.isin(targets, heap.heap.bookkeeping).all()
        cpus = possible_cpus(dump.linux)
        kept = [int(cpu_variable(dump.linux, "krc", cpu).nr_bkv_objs) for cpu in cpus]
        assert len(nodes) == len(set(nodes)) == sum(kept)
        found += len(nodes)
    assert found
