# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find the tables of arm64's Interrupt Translation Service (ITS) that refer to other tables by
physical address.
"""

from __future__ import annotations

from drgn_pageowner.kernel.dump.bulk import find_object, find_type
from drgn_pageowner.kernel.dump.damage import every_entry
from drgn_pageowner.kernel.dump.kernel import Kernel

__all__ = ("its_tables",)

# GITS_BASER_INDIRECT of include/linux/irqchip/arm-gic-v3.h.
_INDIRECT = 1 << 62
# A table is no larger than the largest block of the buddy allocator.
_MOST_ORDER = 20


def its_tables(kernel: Kernel) -> list[tuple[int, int]]:
    """
    Find the first-level tables of every ITS, which ``its_alloc_table_entry()`` fills.

    An entry is the physical address of a second-level table, with GITS_BASER_VALID (bit 63) set.

    :return: ``(virtual address, size in bytes)`` of each table.
    """
    nodes = find_object(kernel.prog, "its_nodes", "drivers/irqchip/irq-gic-v3-its.c")
    if nodes is None or find_type(kernel.prog, "struct its_node") is None:
        return []
    found = []
    head = nodes.address_of_()
    for node in every_entry("struct its_node", head, "entry", "the list of ITS nodes", kernel.gaps):
        with kernel.tolerate("the tables of an ITS cannot be read: they look lost", gap=True):
            for table in node.tables:
                if table.base and int(table.val) & _INDIRECT and int(table.order) <= _MOST_ORDER:
                    found.append((int(table.base), kernel.page_size << int(table.order)))
    return found
