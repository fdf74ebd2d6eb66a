# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the CPUs and NUMA nodes of a machine, without impossible numbers from damaged bitmaps."""

from __future__ import annotations

from drgn import Object
from drgn.helpers.linux.cpumask import cpu_online_mask, cpu_possible_mask

from drgn_pageowner.kernel.dump.bulk import find_object
from drgn_pageowner.kernel.dump.damage import unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel, once, once_per_reading

__all__ = ("online_cpus", "online_nodes", "possible_cpus")


@once
def possible_cpus(kernel: Kernel) -> tuple[int, ...]:
    """Get the numbers of the possible CPUs, which have per-CPU memory; CPU 0 if unknown."""
    offsets = find_object(kernel.prog, "__per_cpu_offset")
    cpus: list[int] = []
    with kernel.tolerate("the mask of possible CPUs cannot be read: CPU 0 is taken", gap=True):
        try:
            cpus = _bits(cpu_possible_mask(kernel.prog).bits)
        except LookupError as error:
            # The debugging symbols do not describe the mask, which is not damage: report nothing.
            unless_mistaken(error)
    return tuple(cpu for cpu in cpus if offsets is None or cpu < offsets.type_.length) or (0,)


@once_per_reading
def online_cpus(kernel: Kernel) -> tuple[int, ...]:
    """
    Get the numbers of the CPUs that were online at any time since boot; of all possible CPUs if
    that is unknown.

    CPUs that were taken offline by the crash, as by ``local_cpu_stop()`` on arm64, must be
    included, because their lists and counters are still in use. CPUs that were taken offline before
    have empty lists and counters, because these are drained then, so they do no harm.
    """
    possible = possible_cpus(kernel)
    # Added in Linux kernel commit e797bda3fd29 ("smp/hotplug: Track booted once CPUs in a cpumask")
    # (in v5.4).
    booted = find_object(kernel.prog, "cpus_booted_once_mask")
    online: set[int] = set()
    for mask in (cpu_online_mask(kernel.prog), booted):
        with kernel.tolerate("a mask of online CPUs cannot be read: all possible CPUs may count"):
            online.update(_bits(mask.bits) if mask is not None else ())
    return tuple(cpu for cpu in possible if cpu in online) or possible


def online_nodes(kernel: Kernel) -> tuple[tuple[int, Object], ...]:
    """
    Get the number and the ``struct pglist_data *`` of every online node.

    If the bitmap of online nodes is empty, every node that has a ``struct pglist_data`` is
    returned. Unlike drgn's ``for_each_online_pgdat()``, this does not use ``nr_node_ids``, which
    may be damaged.
    """
    return tuple(
        (number, Object(kernel.prog, "struct pglist_data *", value=address))
        for number, address in _online_nodes(kernel)
    )


@once_per_reading
def _online_nodes(kernel: Kernel) -> tuple[tuple[int, int], ...]:
    """Get the number, and the address of the ``struct pglist_data``, of every online node."""
    data = find_object(kernel.prog, "node_data")
    if data is None:
        # Without CONFIG_NUMA.
        return ((0, int(kernel.prog["contig_page_data"].address_of_())),)
    online: set[int] = set()
    with kernel.tolerate("the mask of online nodes cannot be read: all nodes are taken"):
        online = set(_bits(kernel.prog["node_states"][kernel.prog["N_ONLINE"]].bits))
    known = []
    for number in range(data.type_.length):
        with kernel.tolerate(
            "node {} cannot be read: its memory is unknown", of=str(number), gap=True
        ):
            if address := int(data[number]):
                known.append((number, address))
    return tuple(one for one in known if one[0] in online) or tuple(known)


def _bits(words: Object) -> list[int]:
    """Get the numbers of the bits set in an array of ``unsigned long``."""
    values = words.value_()
    bits = 8 * words.type_.type.size
    return [bit for bit in range(len(values) * bits) if values[bit // bits] >> bit % bits & 1]
