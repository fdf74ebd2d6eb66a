"""The first per-CPU chunk, and what CPUs count for themselves."""

from __future__ import annotations

from collections.abc import Mapping

from drgn import FaultError, Object, Program
from drgn.helpers.linux.cpumask import for_each_online_cpu, for_each_possible_cpu
from drgn.helpers.linux.percpu import per_cpu_ptr

from drgn_pageowner.kernel.memory import find_object

__all__ = ("add_differences", "first_chunk")


def first_chunk(prog: Program) -> tuple[list[tuple[int, int]], int]:
    """
    Per-CPU memory that was there at boot: that of variables, and what can be allocated.

    :return: ``(cpu, virtual address)`` of every possible CPU's unit, and the size of one in
        bytes; nothing if the dump does not say.
    """
    first = find_object(prog, "pcpu_first_chunk")
    base = find_object(prog, "pcpu_base_addr")
    offsets = find_object(prog, "pcpu_unit_offsets")
    if first is None or base is None or offsets is None:
        return [], 0
    try:
        end = int(first.base_addr) + int(first.nr_pages) * int(prog["PAGE_SIZE"])
        units = [(cpu, int(base) + int(offsets[cpu])) for cpu in for_each_possible_cpu(prog)]
        return units, end - int(base)
    except (FaultError, LookupError):
        return [], 0


def add_differences(
    prog: Program,
    counters: dict[str, int],
    indices: Mapping[str, int],
    per_cpu: Object,
    member: str,
) -> None:
    """
    Add what CPUs have counted and not handed in yet: one read for each.

    :param counters: Changed in place.
    :param indices: Name of every counter -> index in the array.
    :param per_cpu: Per-CPU pointer to the structure that has the array *member*.
    """
    for cpu in for_each_online_cpu(prog):
        differences = per_cpu_ptr(per_cpu, cpu).member_(member).value_()
        for name, index in indices.items():
            counters[name] += differences[index]
