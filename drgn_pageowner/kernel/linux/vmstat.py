# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel counts of all its memory: ``/proc/vmstat`` and ``/proc/meminfo``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from drgn import Object

from drgn_pageowner.kernel.dump.bulk import enumerators, find_object, has_member
from drgn_pageowner.kernel.dump.damage import DAMAGE
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.percpu import add_differences
from drgn_pageowner.kernel.linux.topology import online_nodes
from drgn_pageowner.model.pages import ZoneStats

__all__ = ("read_counters",)

_VARIABLES = ("nr_vmalloc_pages", "pcpu_nr_populated", "pcpu_nr_units", "_totalram_pages")


def read_counters(kernel: Kernel, zones: Sequence[ZoneStats]) -> dict[str, int]:
    """
    Every counter of zones and nodes, summed; what CPUs have not handed in yet is added.

    Names are those of ``enum zone_stat_item``, ``enum node_stat_item`` and of variables
    (``nr_vmalloc_pages``, ``pcpu_nr_populated``, ...). Most count base pages; those of
    ``/proc/meminfo`` that end in ``_KB`` or ``_B`` do not.

    :param zones: Of :func:`~drgn_pageowner.kernel.linux.zone_stats.read_zone_stats`.
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
        try:
            value = variable.counter if has_member(variable.type_, "counter") else variable
            counters[name] = int(value)
        except (TypeError, *DAMAGE):
            continue
    with contextlib.suppress(*DAMAGE):
        hugetlb = _hugetlb_pages(kernel)
        if hugetlb is not None:
            counters["hugetlb"] = hugetlb
    return counters


def _nodes(kernel: Kernel) -> Iterator[dict[str, int]]:
    """The counters of every node."""
    names = enumerators(kernel.prog, "enum node_stat_item")
    names.pop("NR_VM_NODE_STAT_ITEMS", None)
    for _, pgdat in online_nodes(kernel):
        try:
            counters = {name: int(pgdat.vm_stat[index].counter) for name, index in names.items()}
            add_differences(kernel, counters, names, pgdat.per_cpu_nodestats, "vm_node_stat_diff")
        except DAMAGE:
            continue
        yield counters


def _hugetlb_pages(kernel: Kernel) -> int | None:
    """Base pages of all huge page pools: ``Hugetlb`` of ``/proc/meminfo``."""
    states: Object | None = find_object(kernel.prog, "hstates")
    number = find_object(kernel.prog, "hugetlb_max_hstate")
    if states is None or number is None:
        return None
    sizes = [states[i] for i in range(min(int(number), states.type_.length))]
    # No order has more bits than an address.
    return sum(int(size.nr_huge_pages) << int(size.order) for size in sizes if size.order < 48)
