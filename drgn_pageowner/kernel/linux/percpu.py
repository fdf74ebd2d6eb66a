# SPDX-License-Identifier: LGPL-2.1-or-later
"""The first per-CPU chunk, and what CPUs count for themselves."""

from __future__ import annotations

from collections.abc import Mapping

from drgn import Object
from drgn.helpers.linux.percpu import per_cpu, per_cpu_ptr

from drgn_pageowner.kernel.dump.bulk import find_object, symbol_address
from drgn_pageowner.kernel.dump.damage import DAMAGE
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.topology import online_cpus, possible_cpus

__all__ = ("add_differences", "cpu_variable", "first_chunk")


def cpu_variable(kernel: Kernel, name: str, cpu: int) -> Object:
    """
    The per-CPU variable *name* of *cpu*.

    Where per-CPU symbols start at 0 (x86-64 before Linux kernel commit 9d7de2aa8b41
    ("x86/percpu/64: Use relative percpu offsets") (in v6.15)) a debugger may add KASLR's offset to
    them and ``__per_cpu_offset`` not allow for that. The first chunk says where they are.

    :raises LookupError: if this kernel has no such variable
    """
    variable = kernel.prog[name]
    start = symbol_address(kernel.prog, "__per_cpu_start")
    unit = dict(first_chunk(kernel)[0]).get(cpu)
    if start is None or unit is None or variable.address_ is None:
        return per_cpu(variable, cpu)
    return Object(kernel.prog, variable.type_, address=unit + variable.address_ - start)


# A unit has the static per-CPU variables and what modules and others get: far less than this.
_LONGEST_UNIT = 1 << 28


@once
def first_chunk(kernel: Kernel) -> tuple[list[tuple[int, int]], int]:
    """
    Per-CPU memory that was there at boot: that of variables, and what can be allocated.

    :return: ``(cpu, virtual address)`` of every possible CPU's unit, and the size of one in
        bytes; nothing if the dump does not say.
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
    Add what CPUs have counted and not handed in yet: one read for each.

    :param counters: Changed in place.
    :param indices: Name of every counter -> index in the array.
    :param pointer: Per-CPU pointer to the structure that has the array *member*.
    """
    for cpu in online_cpus(kernel):
        differences = per_cpu_ptr(pointer, cpu).member_(member).value_()
        for name, index in indices.items():
            counters[name] += differences[index]
