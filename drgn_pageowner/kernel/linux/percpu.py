# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read per-CPU memory: variables, chunks and their allocations, and counters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from drgn import Object
from drgn.helpers.linux.percpu import per_cpu

from drgn_pageowner.kernel.dump.bulk import (
    find_object,
    find_type,
    has_member,
    read_array,
    read_word,
    symbol_address,
)
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    every_entry,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.topology import online_cpus, possible_cpus
from drgn_pageowner.model.arrays import Array

__all__ = (
    "PerCpuChunks", "add_differences", "cpu_offset", "cpu_pointer", "cpu_variable",
    "first_chunk", "read_chunks",
)  # fmt: skip


def cpu_variable(kernel: Kernel, name: str, cpu: int) -> Object:
    """
    Get the per-CPU variable *name* of *cpu*.

    If per-CPU symbols start at 0 (x86-64 before Linux kernel commit 9d7de2aa8b41 ("x86/percpu/64:
    Use relative percpu offsets") (in v6.15)), drgn may add the offset of KASLR to their addresses,
    which makes the sum with ``__per_cpu_offset`` wrong. Therefore, the address is computed from
    that of the CPU's unit in the first chunk, if the chunk is in the dump.

    :raises LookupError: if this kernel has no such variable
    """
    variable = kernel.prog[name]
    start = symbol_address(kernel.prog, "__per_cpu_start")
    unit = dict(first_chunk(kernel)[0]).get(cpu)
    if start is None or unit is None or variable.address_ is None:
        return per_cpu(variable, cpu)
    return Object(kernel.prog, variable.type_, address=unit + variable.address_ - start)


@once
def _cpu_offsets(kernel: Kernel) -> tuple[int, ...]:
    """
    Get the elements of ``__per_cpu_offset``, which are indexed by CPU; empty without CONFIG_SMP.

    If DWARF does not describe the array, it is read at the address of its symbol. On arm64, it is
    defined in drivers/base/arch_numa.c or mm/percpu.c, depending on the configuration.
    """
    found = find_object(kernel.prog, "__per_cpu_offset")
    if found is not None:
        return tuple(found.value_())
    address = symbol_address(kernel.prog, "__per_cpu_offset")
    if address is None:
        return ()
    number = max(possible_cpus(kernel)) + 1
    return tuple(read_array(kernel.prog, address, kernel.word, number).tolist())


def cpu_pointer(kernel: Kernel, pointer: Object, cpu: int) -> Object:
    """
    Get the pointer to one CPU's copy from a per-CPU pointer, as ``per_cpu_ptr()`` does.

    :param pointer: ``type __percpu *``
    :return: ``type *``
    :raises FaultError: if the offsets of the CPUs are not in the dump
    """
    offsets = _cpu_offsets(kernel)
    # Without CONFIG_SMP, per-CPU pointers are plain pointers.
    offset = offsets[cpu] if offsets else 0
    mask = (1 << 8 * kernel.word.itemsize) - 1
    return Object(kernel.prog, pointer.type_, value=int(pointer) + offset & mask)


# Limit for the size of a unit (static variables and dynamic allocations), which is far smaller.
_LONGEST_UNIT = 1 << 28


@once
def first_chunk(kernel: Kernel) -> tuple[list[tuple[int, int]], int]:
    """
    Find the first chunk of per-CPU memory, which contains the static per-CPU variables.

    :return: ``(cpu, virtual address)`` of every possible CPU's unit, and the size of a unit in
        bytes; no units if the chunk is not in the dump.
    """
    first = find_object(kernel.prog, "pcpu_first_chunk")
    base = find_object(kernel.prog, "pcpu_base_addr")
    offsets = find_object(kernel.prog, "pcpu_unit_offsets")
    if first is None or base is None or offsets is None:
        return [], 0
    units: list[tuple[int, int]] = []
    length = 0
    with kernel.tolerate("the first chunk of per-CPU memory cannot be read", gap=True):
        end = int(first.base_addr) + int(first.nr_pages) * kernel.page_size
        units = [(cpu, int(base) + int(offsets[cpu])) for cpu in possible_cpus(kernel)]
        length = end - int(base)
    return (units, length) if 0 < length <= _LONGEST_UNIT else ([], 0)


# PCPU_MIN_ALLOC_SIZE of include/linux/percpu.h: number of bytes per bit of the maps; since Linux
# kernel commit ca460b3c9627 ("percpu: introduce bitmap metadata blocks") (in v4.14).
_UNIT = 4
# Limit for pcpu_nr_slots, which is about the logarithm of a unit's size, for each of two types of
# chunks.
_MOST_SLOTS = 256


class PerCpuChunks(NamedTuple):
    """Tables of the chunks of per-CPU memory and of the dynamic allocations in them."""

    cpus: tuple[int, ...]
    """Numbers of the possible CPUs."""
    units: Array
    """``uint64``, a row per CPU: offset of the CPU's unit in a chunk (``pcpu_unit_offsets``), in
    bytes."""
    base: Array
    """``uint64``, a row per chunk: ``base_addr``. A CPU's unit is at this address plus the offset
    of the unit."""
    pages: Array
    """``int64``, a row per chunk: number of pages of one CPU's unit."""
    hidden: Array
    """``int64``, a row per chunk: number of bytes at the start of a unit that do not belong to the
    chunk (``start_offset``)."""
    shift: int
    """``__per_cpu_offset`` of the first possible CPU. The address of this CPU's copy of an
    allocation, minus this offset, is the ``void __percpu *``."""
    chunk: Array
    """``int64``, a row per allocation: index of its chunk. Allocations are in the order of chunks
    and addresses."""
    start: Array
    """``int64``, a row per allocation: offset of its start in a unit, in bytes."""
    end: Array
    """``int64``, a row per allocation: offset of its end in a unit, in bytes."""


def read_chunks(kernel: Kernel, problems: list[str]) -> PerCpuChunks | None:
    """
    Read the dynamic allocations of per-CPU memory, made by ``alloc_percpu()``.

    Per-CPU variables of the kernel, and the area reserved for those of modules, are not included.

    :param problems: List of messages, to which a line is added if the chunks cannot be read.
    :return: ``None`` if the chunks cannot be read.
    """
    type_ = find_type(kernel.prog, "struct pcpu_chunk")
    offsets = find_object(kernel.prog, "pcpu_unit_offsets")
    if type_ is None or offsets is None or not has_member(type_, "bound_map"):
        return None
    size = kernel.page_size
    chunks: list[tuple[int, int, int]] = []
    parts = []
    try:
        cpus = possible_cpus(kernel)
        units = [int(offsets[cpu]) for cpu in cpus]
        shift = cpu_offset(kernel, cpus[0])
        for chunk in _chunks(kernel, problems):
            pages, hidden = int(chunk.nr_pages), int(chunk.start_offset)
            if not (0 < pages * size <= _LONGEST_UNIT and 0 <= hidden < size):
                raise ValueError(f"a per-CPU chunk has {pages} pages")
            start, end = _allocations(kernel, chunk, pages * size)
            inside = (start >= hidden) & (end <= pages * size - int(chunk.end_offset))
            parts.append(np.stack([np.full(len(start), len(chunks)), start, end])[:, inside])
            chunks.append((int(chunk.base_addr), pages, hidden))
    except (IndexError, *DAMAGE) as error:
        unless_mistaken(error)
        problems.append(f"per-CPU memory cannot be read ({error}): all of it counts as held")
        return None
    found = np.concatenate([np.zeros((3, 0), np.int64), *parts], axis=1)
    base, pages_of, hidden_of = (list(column) for column in zip(*chunks, strict=True))
    return PerCpuChunks(
        cpus,
        np.array(units, np.uint64),
        np.array(base, np.uint64),
        np.array(pages_of, np.int64),
        np.array(hidden_of, np.int64),
        shift,
        *found,
    )


def cpu_offset(kernel: Kernel, cpu: int) -> int:
    """Get ``__per_cpu_offset[cpu]``; 0 without CONFIG_SMP."""
    # On arm64, the array is defined in a separate source file, whose DWARF may be missing.
    address = symbol_address(kernel.prog, "__per_cpu_offset")
    if address is None:
        return 0
    return read_word(kernel.prog, address + cpu * kernel.word.itemsize)


def _chunks(kernel: Kernel, problems: list[str]) -> Iterator[Object]:
    """Yield every ``struct pcpu_chunk *``, except the chunk that is reserved for modules."""
    first, slots = kernel.prog["pcpu_first_chunk"].read_(), int(kernel.prog["pcpu_nr_slots"])
    seen = {int(first)}
    yield first
    # Linux kernel commit 3c7be18ac9a0 ("mm: memcg/percpu: account percpu memory to memory cgroups")
    # (in v5.9) has lists for two types of chunks, until commit faf65dde844a ("percpu: rework memcg
    # accounting") (in v5.14).
    lists = find_object(kernel.prog, "pcpu_chunk_lists")
    if lists is None:
        lists = kernel.prog["pcpu_slot"]
    with contextlib.suppress(LookupError):
        slots *= int(kernel.prog.constant("PCPU_NR_CHUNK_TYPES"))
    for slot in range(min(slots, _MOST_SLOTS)):
        head = lists[slot].address_of_()
        subject = "a list of per-CPU chunks"
        for chunk in every_entry("struct pcpu_chunk", head, "list", subject, problems):
            if int(chunk) not in seen:
                seen.add(int(chunk))
                yield chunk


def _allocations(kernel: Kernel, chunk: Object, size: int) -> tuple[Array, Array]:
    """
    Get the offsets of the start and the end of each allocation in a chunk, in bytes: ``int64``.

    :param chunk: ``struct pcpu_chunk *``
    :param size: Size of one CPU's unit, in bytes.
    """
    number = size // _UNIT
    allocated = _bits(kernel, int(chunk.alloc_map), number)
    edges = np.flatnonzero(_bits(kernel, int(chunk.bound_map), number + 1))
    start, end = edges[:-1], edges[1:]
    # Freed areas keep their bits in the bound map.
    kept = allocated[start] != 0
    return start[kept] * _UNIT, end[kept] * _UNIT


def _bits(kernel: Kernel, address: int, number: int) -> Array:
    """Read a bitmap of *number* bits at *address*: ``uint8``, a row per bit, 0 or 1."""
    word = kernel.word
    data = read_array(kernel.prog, address, word, -(-number // (8 * word.itemsize)))
    little = data.astype(word.newbyteorder("<"), copy=False)
    return np.unpackbits(little.view(np.uint8), count=number, bitorder="little")


def add_differences(
    kernel: Kernel,
    counters: dict[str, int],
    indices: Mapping[str, int],
    pointer: Object,
    member: str,
) -> None:
    """
    Add the per-CPU parts of counters, with one read for each CPU.

    :param counters: Name -> value of each counter; the values are changed in place.
    :param indices: Name of each counter -> its index in the per-CPU array.
    :param pointer: Per-CPU pointer to the structure that contains the array.
    :param member: Name of the array in this structure.
    """
    total = dict.fromkeys(indices, 0)
    for cpu in online_cpus(kernel):
        differences = cpu_pointer(kernel, pointer, cpu).member_(member).value_()
        for name, index in indices.items():
            total[name] += differences[index]
    # Add the values of all CPUs or of no CPU, because nobody would notice that a partial sum is
    # wrong.
    for name, difference in total.items():
        counters[name] += difference
