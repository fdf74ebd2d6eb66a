# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the page allocator's counters of zones: free blocks, watermarks, reserves, per-CPU lists."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Object

from drgn_pageowner.kernel.dump.bulk import enumerators, has_member
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.percpu import add_differences, cpu_pointer
from drgn_pageowner.kernel.linux.topology import online_cpus, online_nodes
from drgn_pageowner.kernel.linux.zones import find_zones, huge_page_order, max_page_order
from drgn_pageowner.model.pages import ZoneStats

__all__ = ("ListHead", "free_list_heads", "read_zone_stats", "read_zonelists", "zone_objects")


def zone_objects(kernel: Kernel) -> tuple[Object | None, ...]:
    """
    Get the ``struct zone`` of each zone in the result of :func:`find_zones`.

    :return: ``None`` for a zone whose node cannot be read.
    """
    nodes = dict(online_nodes(kernel))
    return tuple(
        nodes[zone.node].node_zones[zone.type] if zone.node in nodes else None
        for zone in find_zones(kernel, [])
    )


def _per_cpu_pages(kernel: Kernel, zone: Object) -> Iterator[Object]:
    """Yield the ``struct per_cpu_pages *`` of a zone for every CPU."""
    # A struct per_cpu_pageset with a member pcp before Linux kernel commit 28f836b6777b
    # ("mm/page_alloc: split per cpu page lists and zone stats") (in v5.14).
    name = "per_cpu_pageset" if has_member(zone.type_, "per_cpu_pageset") else "pageset"
    if not has_member(zone.type_, name):
        return
    sets = zone.member_(name)
    for cpu in online_cpus(kernel):
        pages = cpu_pointer(kernel, sets, cpu)
        yield pages.pcp.address_of_() if has_member(pages.type_.type, "pcp") else pages


def read_zone_stats(kernel: Kernel) -> list[ZoneStats]:
    """Read the counters of each zone in the result of :func:`find_zones`."""
    names = enumerators(kernel.prog, "enum zone_stat_item")
    return [
        _stats(kernel, zone, names) if zone is not None else _nothing()
        for zone in zone_objects(kernel)
    ]


def _nothing() -> ZoneStats:
    return ZoneStats(False, (), 0, 0, (0, 0, 0), 0, 0, (), 0)


def _stats(kernel: Kernel, zone: Object, names: dict[str, int]) -> ZoneStats:
    vmstat = {name: int(zone.vm_stat[value].counter) for name, value in names.items()
              if name != "NR_VM_ZONE_STAT_ITEMS"}  # fmt: skip
    boost = 0
    if has_member(zone.type_, "_watermark"):
        # Renamed in Linux kernel commit a921444382b4 ("mm: move zone watermark accesses behind an
        # accessor"), boosted since 1c30844d2dfe ("mm: reclaim small amounts of memory when an
        # external fragmentation event occurs") (both in v5.0).
        boost = int(zone.watermark_boost)
        watermarks = [int(mark) + boost for mark in zone._watermark]
    else:
        watermarks = [int(mark) for mark in zone.watermark]
    pcp = 0
    with kernel.tolerate("the CPUs' own lists of free pages cannot be read: sizes are unknown"):
        pcp = sum(int(pages.count) for pages in _per_cpu_pages(kernel, zone))
    return ZoneStats(
        populated=int(zone.present_pages) != 0,
        nr_free=[int(area.nr_free) for area in zone.free_area],
        free_pages=vmstat.get("NR_FREE_PAGES", 0),
        free_cma=vmstat.get("NR_FREE_CMA_PAGES", 0),
        watermarks=watermarks[:3],
        watermark_boost=boost,
        nr_reserved_highatomic=(
            int(zone.nr_reserved_highatomic)
            if has_member(zone.type_, "nr_reserved_highatomic")
            else 0
        ),
        lowmem_reserve=[int(pages) for pages in zone.lowmem_reserve],
        pcp=pcp,
        vmstat=_with_differences(kernel, zone, vmstat, names),
    )


def _with_differences(
    kernel: Kernel, zone: Object, vmstat: dict[str, int], names: dict[str, int]
) -> dict[str, int]:
    """
    Add the per-CPU parts to the counters of a zone.

    :param vmstat: Name -> value of each counter, without the per-CPU parts.
    :param names: ``enum zone_stat_item``: name -> index.
    :return: Name -> value of each counter.
    """
    # In struct per_cpu_pageset before 28f836b6777b (see above).
    member = "per_cpu_zonestats" if has_member(zone.type_, "per_cpu_zonestats") else "pageset"
    result = dict(vmstat)
    indices = {name: names[name] for name in vmstat}
    with kernel.tolerate("the CPUs' own counters of zones cannot be read"):
        add_differences(kernel, result, indices, zone.member_(member), "vm_stat_diff")
    return result


def read_zonelists(kernel: Kernel) -> dict[int, list[int]]:
    """
    Read ``node_zonelists[ZONELIST_FALLBACK]`` of every node.

    :return: Number of the node -> indices of zones in the result of :func:`find_zones`, in the
        order in which the page allocator tries these zones for an allocation on the node.
    """
    zones = find_zones(kernel, [])
    index = {
        int(zone.address_ or 0): number
        for number, zone in enumerate(zone_objects(kernel))
        if zone is not None
    }
    result: dict[int, list[int]] = {}
    nodes = dict(online_nodes(kernel))
    for node in dict.fromkeys(zone.node for zone in zones):
        order: list[int] | None = None
        cost = "the zonelists of nodes {} cannot be read: the order of their zones is unknown"
        with kernel.tolerate(cost, of=str(node)):
            order = _order_of_zones(nodes[node].node_zonelists[0], index)
        if order is None:
            order = [number for number, zone in enumerate(zones) if zone.node == node]
        result[node] = order
    return result


def _order_of_zones(zonelist: Object, index: dict[int, int]) -> list[int]:
    """
    Get the indices of the zones in a ``struct zonelist``, in its order.

    :param index: Address of each ``struct zone`` -> index of the zone.
    """
    order = []
    for reference in zonelist._zonerefs:
        if not reference.zone:
            break
        if int(reference.zone) in index:
            order.append(index[int(reference.zone)])
    return order


class ListHead:
    """Head of a free list: a ``struct list_head``."""

    __slots__ = ("address", "migratetype", "order", "pcp", "zone")

    def __init__(self, address: int, zone: int, migratetype: int, order: int, pcp: bool) -> None:
        self.address = address
        self.zone = zone
        """Index of the zone in ``facts.zones``."""
        self.migratetype = migratetype
        self.order = order
        self.pcp = pcp
        """Whether the list is a per-CPU list."""


def free_list_heads(kernel: Kernel) -> Iterator[ListHead]:
    """Yield the head of every free list of every zone, including the per-CPU lists."""
    huge_order = min(huge_page_order(kernel), max_page_order(kernel))
    for number, zone in enumerate(zone_objects(kernel)):
        if zone is None or not int(zone.present_pages):
            continue
        for order, area in enumerate(zone.free_area):
            for migratetype, head in enumerate(area.free_list):
                yield ListHead(int(head.address_ or 0), number, migratetype, order, False)
        with kernel.tolerate("the CPUs' own lists of free pages cannot be read: some look used"):
            for pages in _per_cpu_pages(kernel, zone):
                yield from _per_cpu_heads(kernel, pages, number, huge_order)


# PAGE_ALLOC_COSTLY_ORDER of include/linux/mmzone.h.
_COSTLY_ORDER = 3


def _per_cpu_heads(kernel: Kernel, pages: Object, zone: int, huge_order: int) -> Iterator[ListHead]:
    """
    Yield the heads of the free lists of one CPU.

    The CPU has a list for each migratetype. Since Linux kernel commit 44042b449872
    ("mm/page_alloc: allow high-order pages to be stored on the per-cpu lists") (in v5.14) it has a
    list for each migratetype and order up to 3, which are followed by lists of huge pages, as in
    ``pindex_to_order()`` of mm/page_alloc.c.

    :param pages: ``struct per_cpu_pages *``
    :param zone: Index of the zone.
    :param huge_order: Order of a huge page.
    """
    types = int(kernel.prog.constant("MIGRATE_PCPTYPES"))
    low = types * (_COSTLY_ORDER + 1)
    for index, head in enumerate(pages.lists):
        order, migratetype = (
            (index // types, index % types) if index < low else (huge_order, index - low)
        )
        yield ListHead(int(head.address_ or 0), zone, migratetype, order, True)
