# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which CPUs and which nodes a machine has: bitmaps that may be damaged, held to what there is."""

from __future__ import annotations

import contextlib

from drgn import Object
from drgn.helpers.linux.cpumask import cpu_online_mask, cpu_possible_mask

from drgn_pageowner.kernel.dump.bulk import find_object
from drgn_pageowner.kernel.dump.damage import DAMAGE
from drgn_pageowner.kernel.dump.kernel import Kernel, once, once_per_reading

__all__ = ("online_cpus", "online_nodes", "possible_cpus")


@once
def possible_cpus(kernel: Kernel) -> tuple[int, ...]:
    """Numbers of the CPUs that have per-CPU memory."""
    offsets = find_object(kernel.prog, "__per_cpu_offset")
    try:
        cpus = _bits(cpu_possible_mask(kernel.prog).bits)
    except DAMAGE:
        cpus = []
    return tuple(cpu for cpu in cpus if offsets is None or cpu < offsets.type_.length) or (0,)


@once_per_reading
def online_cpus(kernel: Kernel) -> tuple[int, ...]:
    """
    Numbers of the CPUs that were online; of all that can be if the dump does not say.

    Those too that a crash took offline, as ``local_cpu_stop()`` does on arm64: their lists and
    counters are as full as they were. One that was taken offline before has handed its own in.
    """
    possible = possible_cpus(kernel)
    # "smp/hotplug: Track booted once CPUs in a cpumask" (in v5.4).
    booted = find_object(kernel.prog, "cpus_booted_once_mask")
    online: set[int] = set()
    for mask in (cpu_online_mask(kernel.prog), booted):
        with contextlib.suppress(*DAMAGE):
            online.update(_bits(mask.bits) if mask is not None else ())
    return tuple(cpu for cpu in possible if cpu in online) or possible


@once_per_reading
def online_nodes(kernel: Kernel) -> tuple[tuple[int, Object], ...]:
    """
    Number and ``struct pglist_data *`` of every node that is online.

    Of every node that has one where the bitmap of nodes names none of them. Not limited by
    ``nr_node_ids``, as drgn's ``for_each_online_pgdat()`` is: that may be any number.
    """
    data = find_object(kernel.prog, "node_data")
    if data is None:
        # Without CONFIG_NUMA.
        return ((0, kernel.prog["contig_page_data"].address_of_()),)
    nodes = [(number, data[number]) for number in range(data.type_.length)]
    try:
        online = set(_bits(kernel.prog["node_states"][kernel.prog["N_ONLINE"]].bits))
    except DAMAGE:
        online = set()
    known = []
    for number, node in nodes:
        try:
            if node:
                known.append((number, node.read_()))
        except DAMAGE:
            continue
    return tuple(one for one in known if one[0] in online) or tuple(known)


def _bits(words: Object) -> list[int]:
    """Numbers of the bits that are set in an array of ``unsigned long``."""
    values = words.value_()
    bits = 8 * words.type_.type.size
    return [bit for bit in range(len(values) * bits) if values[bit // bits] >> bit % bits & 1]
