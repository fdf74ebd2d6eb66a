# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of arm64's interrupt translation service that hold others by their physical addresses."""

from __future__ import annotations

import contextlib

from drgn import Program

from drgn_pageowner.kernel.dump.bulk import find_object, find_type, page_size
from drgn_pageowner.kernel.dump.damage import DAMAGE, every_entry

__all__ = ("GITS_BASER_VALID", "its_tables")

GITS_BASER_VALID = 1 << 63
"""Bit of an entry of a first-level table that leads to a second one. The address is in the rest."""
# GITS_BASER_INDIRECT of include/linux/irqchip/arm-gic-v3.h.
_INDIRECT = 1 << 62
# A table has no more pages than the largest block.
_MOST_ORDER = 20


def its_tables(prog: Program) -> list[tuple[int, int]]:
    """
    First-level tables: ``its_alloc_table_entry()`` of drivers/irqchip/irq-gic-v3-its.c fills them.

    :return: Virtual address and size, in bytes, of each.
    """
    nodes = find_object(prog, "its_nodes", "drivers/irqchip/irq-gic-v3-its.c")
    if nodes is None or find_type(prog, "struct its_node") is None:
        return []
    found = []
    head = nodes.address_of_()
    for node in every_entry("struct its_node", head, "entry", "the list of ITS nodes", []):
        with contextlib.suppress(*DAMAGE):
            for table in node.tables:
                if table.base and int(table.val) & _INDIRECT and int(table.order) <= _MOST_ORDER:
                    found.append((int(table.base), page_size(prog) << int(table.order)))
    return found
