# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test reachability on hand-made graphs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from handmade import Machine, Record, heap

from drgn_pageowner.analysis.leaks.leaks import find_leaks, leak_search, lost_objects
from drgn_pageowner.analysis.leaks.reach import Graph, reach
from drgn_pageowner.analysis.leaks.reach import _mark as mark
from drgn_pageowner.model.arrays import slices
from drgn_pageowner.model.heap import PerCpu, Reachability, Role
from drgn_pageowner.model.object_facts import ObjectFacts
from drgn_pageowner.model.pages import PageState

OWNER = ["alloc_pages", "owner"]
LOADED = ["alloc_pages_bulk", "__vmalloc_node_range", "execmem_alloc", "load_module"]


def test_what_is_left_of_a_module_is_needed_and_holds_nothing() -> None:
    inventory = Machine("kk.k").inventory(Record(0, LOADED), Record(1, OWNER), Record(3, OWNER))
    found = reach(heap(inventory, [(-1, 0), (0, 1), (-1, 2)]))
    assert found.role.tolist() == [Role.ACCOUNTED, Role.CANDIDATE, Role.CANDIDATE]
    assert found.verdict[1] == Reachability.UNREACHABLE
    assert found.verdict[2] == Reachability.REACHABLE


def test_what_a_module_allocates_while_it_is_loaded_is_judged() -> None:
    stack = ["alloc_pages", "module_init", "do_one_initcall", "do_init_module", "load_module"]
    # Memory for code that does not belong to a module is judged, too.
    other = ["__vmalloc_node_range", "execmem_alloc", "bpf_jit_alloc_exec"]
    inventory = Machine("kkkk").inventory(Record(0, stack), Record(1, other), Record(2, OWNER))
    found = reach(heap(inventory, [(-1, 1), (1, 2)]))
    assert found.role.tolist() == [Role.CANDIDATE] * 3
    assert found.verdict[0] == Reachability.UNREACHABLE
    assert found.verdict[2] == Reachability.REACHABLE


def test_requests_of_block_devices_know_no_page_by_number() -> None:
    stack = ["alloc_pages", "blk_mq_alloc_map_and_rqs", "blk_mq_alloc_set_map_and_rqs"]
    for held_by, verdict in ((stack, Reachability.UNREACHABLE), (OWNER, Reachability.PFN_ONLY)):
        inventory = Machine("k.k").inventory(Record(0, held_by), Record(2, ["alloc_pages", "f"]))
        found = reach(heap(inventory, [(-1, 0)], numbers=[(0, 1)]))
        assert found.verdict[1] == verdict


def test_pages_that_a_driver_can_migrate_are_not_judged() -> None:
    inventory = Machine("k.k").inventory(Record(0, OWNER), Record(2, OWNER))
    inventory.memory.pages.state[2] = PageState.DRIVER_MOVABLE
    found = reach(heap(inventory, []))
    assert found.role.tolist() == [Role.CANDIDATE, Role.ACCOUNTED]


def test_a_page_that_only_lost_per_cpu_memory_holds_is_lost() -> None:
    inventory = Machine("k.k").inventory(Record(0, OWNER), Record(2, OWNER))
    # Nodes: two records, two per-CPU allocations, the root. The second per-CPU allocation is
    # reachable.
    graph = dataclasses.replace(
        heap(inventory, []),
        percpu=PerCpu(
            address=np.array([0x1000, 0x2000], np.uint64),
            pointer=np.array([0x10, 0x20], np.uint64),
            size=np.array([8, 64]),
        ),
        holder=np.array([2, 3, 4], np.int32),
        target=np.array([0, 1, 3], np.int32),
    )
    found = reach(graph)
    assert found.verdict[:2].tolist() == [Reachability.FROM_UNREACHABLE, Reachability.REACHABLE]
    lost = lost_objects(found, lambda objects: ObjectFacts.of(np.zeros(len(objects), np.uint64)))
    assert (lost.facts.address.tolist(), lost.size.tolist()) == ([0x1000], [8])
    [leak] = find_leaks(leak_search(found, lost)).slab or []
    assert (leak.cache, leak.objects, leak.bytes) == ("per-CPU memory", 1, 8)
    assert leak.addresses == [0x1000]


def test_parents_do_not_depend_on_how_many_nodes_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(5)
    nodes, edges = 4000, 20000
    source = np.sort(random.integers(0, nodes, edges)).astype(np.int32)
    graph = Graph(source, random.integers(0, nodes, edges).astype(np.int32), nodes)
    found = []
    for piece in (1 << 20, 997, 17):
        monkeypatch.setattr(slices, "__defaults__", (piece,))
        parent = np.full(nodes, -1, np.int32)
        roots = np.arange(0, nodes, 100, dtype=np.int32)
        parent[roots] = roots
        mark(graph, roots, parent)
        found.append(parent)
    assert np.count_nonzero(found[0] >= 0) > nodes // 2
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
