# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare allocations of per-CPU memory with the kernel's counters."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Dump
from drgn import Object
from drgn.helpers.linux.percpu import per_cpu_ptr

from drgn_pageowner.kernel.linux.percpu import PerCpuChunks, _chunks, read_chunks
from drgn_pageowner.kernel.read.heap import HeapReader

pytestmark = pytest.mark.one_of_a_kernel


def chunks_of(dump: Dump) -> PerCpuChunks:
    problems: list[str] = []
    chunks = read_chunks(dump.linux, problems)
    assert chunks is not None
    assert problems == []
    return chunks


def test_what_is_not_allocated_is_what_each_chunk_says_is_free(dump: Dump) -> None:
    chunks = chunks_of(dump)
    size = dump.snapshot.facts.page_size
    for number, chunk in enumerate(_chunks(dump.linux, [])):
        mine = chunks.chunk == number
        used = int((chunks.end - chunks.start)[mine].sum())
        room = int(chunks.pages[number]) * size - int(chunk.start_offset) - int(chunk.end_offset)
        assert room - used == int(chunk.free_bytes)
    assert len(chunks.base) >= 1
    assert len(chunks.start) > 300


def test_a_slab_caches_per_cpu_part_is_one_allocation(dump: Dump) -> None:
    """The per-CPU pointer and the addresses of all copies belong to the same allocation."""
    prog = dump.prog
    reader = HeapReader(dump.linux)
    percpu = reader.percpu
    name = "cpu_slab" if hasattr(prog["kmem_cache"], "cpu_slab") else "cpu_sheaves"
    pointer = int(prog["kmem_cache"].member_(name))
    size = prog.type("struct kmem_cache").member(name).type.type.size
    places, [node] = percpu.find(np.array([0, pointer], np.uint64))
    assert places.tolist() == [1]
    number = node - reader.first_percpu
    assert int(percpu.allocations.pointer[number]) == pointer
    assert int(percpu.allocations.size[number]) >= size
    for cpu in percpu._cpus:
        copy = int(per_cpu_ptr(Object(prog, "void *", value=pointer), cpu))
        found = reader.resolver.targets(np.array([copy, copy + size - 1], np.uint64))
        assert found.tolist() == [node, node]
    first = int(per_cpu_ptr(Object(prog, "void *", value=pointer), percpu._cpus[0]))
    assert int(percpu.allocations.address[number]) == first


def test_what_is_freed_belongs_to_nobody(dump: Dump) -> None:
    chunks = chunks_of(dump)
    reader = HeapReader(dump.linux)
    gaps = 0
    for number, base in enumerate(chunks.base.tolist()):
        mine = chunks.chunk == number
        # The ends of allocations that are not directly followed by another one.
        free = np.setdiff1d(chunks.end[mine], chunks.start[mine])
        free = free[free < chunks.pages[number] * dump.snapshot.facts.page_size]
        addresses = np.uint64(base) + chunks.units[0] + free.astype(np.uint64)
        assert (reader.resolver.targets(addresses) == -1).all()
        gaps += len(free)
    assert gaps
