# SPDX-License-Identifier: LGPL-2.1-or-later
"""Per-CPU memory: variables, the first chunk, and counters."""

from __future__ import annotations

from collections.abc import Mapping

from drgn import Object
from drgn.helpers.linux.percpu import per_cpu

from drgn_pageowner.kernel.dump.bulk import find_object, read_array, symbol_address
from drgn_pageowner.kernel.dump.damage import DAMAGE
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.topology import online_cpus, possible_cpus

__all__ = ("add_differences", "cpu_pointer", "cpu_variable", "first_chunk")


def cpu_variable(kernel: Kernel, name: str, cpu: int) -> Object:
    """
    Get the per-CPU variable *name* of *cpu*.

    If per-CPU symbols start at 0 (x86-64 before Linux kernel commit 9d7de2aa8b41 ("x86/percpu/64:
    Use relative percpu offsets") (in v6.15)), drgn may add KASLR's offset to them, which
    ``__per_cpu_offset`` does not allow for. The first chunk has their true place.

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
    ``__per_cpu_offset``, by its symbol where DWARF does not describe it.

    Of arm64, it is defined in drivers/base/arch_numa.c or mm/percpu.c, by the configuration.
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
    Translate a per-CPU pointer, as ``per_cpu_ptr()`` does.

    :param pointer: ``type __percpu *``
    :return: ``type *``
    :raises FaultError: if the offsets of the CPUs are not in the dump
    """
    offsets = _cpu_offsets(kernel)
    # Without CONFIG_SMP they are plain pointers.
    offset = offsets[cpu] if offsets else 0
    mask = (1 << 8 * kernel.word.itemsize) - 1
    return Object(kernel.prog, pointer.type_, value=int(pointer) + offset & mask)


# A unit, with static variables and dynamic allocations, is far smaller than this.
_LONGEST_UNIT = 1 << 28


@once
def first_chunk(kernel: Kernel) -> tuple[list[tuple[int, int]], int]:
    """
    Find the first chunk of per-CPU memory, which has the static variables.

    :return: ``(cpu, virtual address)`` of every possible CPU's unit, and the size of a unit in
        bytes; no units if the dump does not have the chunk.
    """
    first = find_object(kernel.prog, "pcpu_first_chunk")
    base = find_object(kernel.prog, "pcpu_base_addr")
    offsets = find_object(kernel.prog, "pcpu_unit_offsets")
    if first is None or base is None or offsets is None:
        return [], 0
    try:
        end = int(first.base_addr) + int(first.nr_pages) * kernel.page_size
        units = [(cpu, int(base) + int(offsets[cpu])) for cpu in possible_cpus(kernel)]
        length = end - int(base)
    except DAMAGE:
        return [], 0
    return (units, length) if 0 < length <= _LONGEST_UNIT else ([], 0)


def add_differences(
    kernel: Kernel,
    counters: dict[str, int],
    indices: Mapping[str, int],
    pointer: Object,
    member: str,
) -> None:
    """
    Add the per-CPU parts of counters, with one read for each CPU.

    :param counters: Counters by name; changed in place.
    :param indices: Name of every counter -> index in the array.
    :param pointer: Per-CPU pointer to the structure that has the array *member*.
    """
    total = dict.fromkeys(indices, 0)
    for cpu in online_cpus(kernel):
        differences = cpu_pointer(kernel, pointer, cpu).member_(member).value_()
        for name, index in indices.items():
            total[name] += differences[index]
    # All of them or none: half of the CPUs' would be wrong in a way that nobody sees.
    for name, difference in total.items():
        counters[name] += difference
