# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Test KASAN's shadow and KFENCE's pool.

The dumps are made by the recipe; see ``DRGN_PAGEOWNER_DUMPS`` in conftest.py.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import DUMPS, Dump, dump_id

from drgn_pageowner.kernel.linux.kasan import find_shadow
from drgn_pageowner.kernel.linux.kfence import find_kfence
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.kernel.read.heap import HeapReader
from drgn_pageowner.kernel.read.inventory import InventoryReader
from drgn_pageowner.model.heap import Metadata
from drgn_pageowner.model.pages import PageState

WITH_KASAN = [get for get in DUMPS if "debug" in dump_id(get) or "64k" in dump_id(get)]


@pytest.fixture(scope="module", params=WITH_KASAN, ids=dump_id)
def dump(request: pytest.FixtureRequest) -> Dump:
    got: Dump = request.param()
    return got


def test_kernels_without_them_have_neither(one_dump: Dump) -> None:
    assert find_shadow(one_dump.linux) is None
    assert find_kfence(one_dump.linux) is None


def test_the_shadow_is_an_eighth_of_memory(dump: Dump) -> None:
    inventory = InventoryReader(dump.linux).inventory
    pages = int(np.count_nonzero(inventory.metadata == Metadata.SHADOW))
    present = sum(zone.present for zone in inventory.memory.pages.facts.zones)
    # The shadow of vmalloc areas and modules is included.
    assert present / 8 <= pages <= present / 6


def test_objects_of_kfence_are_nodes_and_no_slabs(dump: Dump) -> None:
    pool = find_kfence(dump.linux)
    assert pool is not None
    assert len(pool.address) == 255
    size = dump.linux.page_size
    assert pool.size == 256 * 2 * size
    reader = HeapReader(dump.linux)
    assert not any("more objects" in line for line in reader.heap.inventory.problems)
    rows = reader.reader.rows_of(pool.start, pool.size)
    assert len(rows) == 512
    assert not (reader.heap.inventory.memory.pages.state[rows] == PageState.SLAB).any()
    allocated = pool.address[pool.allocated & (pool.cache != 0)]
    assert len(allocated)
    nodes = reader.resolver.targets(allocated)
    assert (nodes >= reader.first_object).all()
    slabs = reader.heap.slabs
    assert slabs.allocated[nodes - reader.first_object].all()
    # A word after the object is not in it.
    assert (slabs.size[slabs.slab_of(nodes - reader.first_object)] <= size).all()
    free = pool.address[~pool.allocated & (pool.cache != 0)]
    nodes = reader.resolver.targets(free)
    assert not slabs.allocated[nodes[nodes >= 0] - reader.first_object].any()


def test_freed_objects_are_free_in_the_quarantine_too(dump: Dump) -> None:
    """The kernel counts objects in the quarantine as in use, so its number is much larger than
    ours."""
    slabs = HeapReader(dump.linux).heap.slabs
    number = list(slabs.caches).index("kmalloc-4k")
    objects = np.flatnonzero(slabs.cache[slabs.slab_of(np.arange(len(slabs)))] == number)
    # Buffers that were freed.
    assert np.count_nonzero(slabs.allocated[objects]) < 0.5 * len(objects)


def test_lost_slab_objects_are_few(dump: Dump) -> None:
    """Freed objects without references are not reported as leaks."""
    found = json.loads(dump.run("leaks", "--slab", "--format", "json", check=True).stdout)["slab"]
    lost = {int(f["obj_pfn"]) for f in dump.facts() if f.get("what") == "lostobj"}
    base, size = direct_map(dump.linux), dump.linux.page_size
    others = [
        address
        for leak in found
        if leak["cache"] != "per-CPU memory"
        for address in leak["addresses"]
        if (address - base) // size not in lost
    ]
    assert len(others) <= 4


def test_the_metadata_of_kfence_vouches_for_nothing(dump: Dump) -> None:
    """kfence_metadata contains the address of every object."""
    pool = find_kfence(dump.linux)
    assert pool is not None
    reader = HeapReader(dump.linux)
    address, size = pool.metadata
    rows = reader.reader.rows_of(address, size)
    first = reader.reader.phys_of(address)
    assert first is not None
    start = (first % dump.linux.page_size) // reader.word
    words = np.arange(start, start + size // reader.word)
    assert (reader.nodes_of_words(rows, words) == -1).all()
