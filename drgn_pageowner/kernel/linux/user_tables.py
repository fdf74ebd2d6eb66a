# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the page tables of all processes, and the pages that they map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import PageTables
from drgn_pageowner.kernel.linux.arch import arch_of
from drgn_pageowner.kernel.linux.tasks import every_task
from drgn_pageowner.kernel.linux.translate import direct_phys
from drgn_pageowner.model.arrays import Array

__all__ = ("read_user_tables",)


def read_user_tables(
    kernel: Kernel, plausible: Callable[[Array], Array], problems: list[str]
) -> tuple[Array, Array]:
    """
    Find the page tables of the address spaces of all tasks, and the pages that these tables map.

    Only page tables may refer to such pages, by physical address. The ``struct page`` of a table of
    the lowest two levels marks the page as a page table; on older kernels, that of a table of a
    higher level does not.

    :param plausible: Function that takes PFNs (``int64``) and returns which of them may be page
        tables (``bool``).
    :param problems: List of messages, to which a line is added if address spaces cannot be read.
    :return: PFNs of the page tables, and PFNs of the mapped pages: ``int64``, ascending. Both are
        empty if the format of the tables is not known.
    """
    none = np.zeros(0, np.int64)
    format_ = arch_of(kernel).page_table_format(kernel)
    if format_ is None:
        return none, none
    roots: dict[int, int] = {}
    lost = end = 0
    for task in every_task(kernel, problems):
        try:
            for mm in (task.mm, task.active_mm):
                if mm and int(mm) not in roots:
                    roots[int(mm)] = direct_phys(kernel, int(mm.pgd))
                    end = max(end, int(mm.task_size))
        except (ValueError, *DAMAGE) as error:
            unless_mistaken(error)
            lost += 1
    if lost:
        problems.append(f"page tables of {lost} tasks are unknown: what only they map looks lost")
    shift = kernel.page_shift
    pgds = np.array(sorted(set(roots.values())), np.int64)
    pgds = pgds[plausible(pgds >> shift)]
    if not len(pgds):
        return none, none
    tables = PageTables(kernel.prog, format_, int(pgds[0]))
    found, mapped = tables.trees(pgds, lambda addresses: plausible(addresses >> shift), end)
    return found >> shift, mapped
