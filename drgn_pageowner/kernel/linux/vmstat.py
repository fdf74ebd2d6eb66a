# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the kernel's counters of memory, as in ``/proc/vmstat`` and ``/proc/meminfo``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drgn import Object

from drgn_pageowner.kernel.dump.bulk import enumerators, find_object, has_member
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.percpu import add_differences
from drgn_pageowner.kernel.linux.topology import online_nodes
from drgn_pageowner.model.pages import ZoneStats

__all__ = ("read_counters",)

_VARIABLES = ("nr_vmalloc_pages", "pcpu_nr_populated", "pcpu_nr_units", "_totalram_pages")


def read_counters(kernel: Kernel, zones: Sequence[ZoneStats]) -> dict[str, int]:
    """
    Get the sum of each counter over all zones and nodes, including the per-CPU parts.

    The names of the counters are those of ``enum zone_stat_item``, ``enum node_stat_item`` and of
    variables (``nr_vmalloc_pages``, ``pcpu_nr_populated``, ...). Most counters are numbers of base
    pages; those whose names end in ``_KB`` or ``_B`` are numbers of KiB or bytes.

    :param zones: Result of :func:`~drgn_pageowner.kernel.linux.zone_stats.read_zone_stats`.
    :return: Name -> value.
    """
    counters: dict[str, int] = {}
    for zone in zones:
        for name, value in zone.vmstat.items():
            counters[name] = counters.get(name, 0) + value
    for node in _nodes(kernel):
        for name, value in node.items():
            counters[name] = counters.get(name, 0) + value
    for name in _VARIABLES:
        variable = find_object(kernel.prog, name)
        if variable is None:
            continue
        with kernel.tolerate("{} cannot be read: the kernel's count of it is unknown", of=name):
            value = variable.counter if has_member(variable.type_, "counter") else variable
            counters[name] = int(value)
    with kernel.tolerate("the pools of huge pages cannot be read"):
        hugetlb = _hugetlb_pages(kernel)
        if hugetlb is not None:
            counters["hugetlb"] = hugetlb
    return counters


def _nodes(kernel: Kernel) -> Iterator[dict[str, int]]:
    """Yield the counters of every node: name -> value."""
    names = enumerators(kernel.prog, "enum node_stat_item")
    names.pop("NR_VM_NODE_STAT_ITEMS", None)
    for number, pgdat in online_nodes(kernel):
        counters: dict[str, int] = {}
        with kernel.tolerate(f"the counters of node {number} cannot be read: none has its share"):
            counters = {name: int(pgdat.vm_stat[index].counter) for name, index in names.items()}
        if not counters:
            continue
        with kernel.tolerate(f"the CPUs' own counters of node {number} cannot be read"):
            add_differences(kernel, counters, names, pgdat.per_cpu_nodestats, "vm_node_stat_diff")
        yield counters


def _hugetlb_pages(kernel: Kernel) -> int | None:
    """Return the number of base pages in all pools of huge pages, ``Hugetlb`` of /proc/meminfo."""
    states: Object | None = find_object(kernel.prog, "hstates")
    number = find_object(kernel.prog, "hugetlb_max_hstate")
    if states is None or number is None:
        return None
    sizes = [states[i] for i in range(min(int(number), states.type_.length))]
    # The order of a huge page is less than the number of bits of an address.
    return sum(int(size.nr_huge_pages) << int(size.order) for size in sizes if size.order < 48)
