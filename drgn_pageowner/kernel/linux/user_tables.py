# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the page tables of all processes, and the pages that they map."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from drgn import Object

from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.pgtable import Format, PageTables
from drgn_pageowner.kernel.linux.arch import arch_of
from drgn_pageowner.kernel.linux.tasks import every_task
from drgn_pageowner.kernel.linux.translate import direct_phys
from drgn_pageowner.model.arrays import Array, ascending
from drgn_pageowner.units import counted

__all__ = ("Mapping", "find_mappings", "read_user_tables")


class Mapping(NamedTuple):
    """A mapping of a page in the address space of a process."""

    task: Object
    """``struct task_struct *`` of a task that has the address space."""
    address: int
    """Virtual address of the page in the process."""
    place: int
    """Physical address of the entry of the page table."""
    value: int
    """The entry."""
    size: int
    """Size of an entry, in bytes."""
    mask: int
    """Mask of the physical address in an entry."""
    phys: int
    """Physical address of the page."""


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
    :return: PFNs of the page tables, without top-level tables in slabs, and PFNs of the mapped
        pages: ``int64``, ascending. Both are empty if the format of the tables is not known.
    """
    none = np.zeros(0, np.int64)
    format_ = arch_of(kernel).page_table_format(kernel)
    if format_ is None:
        return none, none
    roots, end = _roots(kernel, problems)
    shift = kernel.page_shift
    pgds = _plausible_roots(roots, format_, plausible)
    if not len(pgds):
        return none, none
    tables = PageTables(kernel.prog, format_, int(pgds[0]))
    found, mapped = tables.trees(pgds, lambda addresses: plausible(addresses >> shift), end)
    pfns = ascending(found >> shift)
    return pfns[plausible(pfns)], mapped


def _plausible_roots(
    roots: Iterable[int], format_: Format, plausible: Callable[[Array], Array]
) -> Array:
    """
    Select those of the physical addresses *roots* that may be addresses of top-level page tables.

    If a top-level table is smaller than a page, ``pgd_alloc()`` allocates it from a slab cache (for
    example on arm64 with pages of 64 KiB and addresses of 48 bits). *plausible*, which expects
    tables that fill a page, is not called then.

    :return: ``int64``, ascending.
    """
    result = np.array(sorted(root for root in set(roots) if root >= 0), np.int64)
    if format_.bits[-1] < format_.bits[0]:
        return result
    return result[plausible(result >> format_.page_shift)]


def _roots(kernel: Kernel, problems: list[str]) -> tuple[dict[int, Object], int]:
    """
    Get the physical address of the top-level table of every address space and a task that has it,
    and the end of the largest address space.
    """
    roots: dict[int, Object] = {}
    known: set[int] = set()
    lost: set[int] = set()
    end = 0
    tasks = every_task(kernel, problems)
    # A kernel thread borrows the address space of a process (active_mm).
    for task, member in [*((one, "mm") for one in tasks), *((one, "active_mm") for one in tasks)]:
        try:
            mm = task.member_(member).read_()
            if mm and int(mm) not in known:
                known.add(int(mm))
                roots.setdefault(direct_phys(kernel, int(mm.pgd)), task)
                end = max(end, int(mm.task_size))
        except (ValueError, *DAMAGE) as error:
            unless_mistaken(error)
            lost.add(int(task))
    if lost:
        problems.append(
            f"page tables of {counted(len(lost), 'task')} are unknown: what they alone map looks "
            "lost"
        )
    return roots, end


def find_mappings(
    kernel: Kernel, plausible: Callable[[Array], Array], pfn: int, limit: int
) -> list[Mapping]:
    """
    Find the entries of page tables of processes that map a page.

    :param plausible: As in :func:`read_user_tables`.
    :param pfn: PFN of the page.
    :param limit: The largest number of entries to find.
    :return: Empty if the format of the tables is not known.
    """
    format_ = arch_of(kernel).page_table_format(kernel)
    if format_ is None:
        return []
    roots, end = _roots(kernel, [])
    shift = kernel.page_shift
    pgds = _plausible_roots(roots, format_, plausible)
    if not len(pgds):
        return []
    tables = PageTables(kernel.prog, format_, int(pgds[0]))
    found = tables.mappings(pgds, lambda at: plausible(at >> shift), end, pfn, limit)
    size, mask = format_.entry.itemsize, format_.address
    return [
        Mapping(
            roots[int(pgds[one.root])],
            one.address,
            one.place,
            one.value,
            size,
            mask,
            pfn << shift,
        )
        for one in found
    ]
