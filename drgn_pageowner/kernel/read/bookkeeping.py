# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find bookkeeping: memory that refers to objects, pages or areas even if nothing uses them, such as
records of debugging code, logs, and caches of pages and objects for later use.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from drgn import TypeKind, sizeof

from drgn_pageowner.kernel.dump.bulk import find_object, has_member
from drgn_pageowner.kernel.dump.damage import suppress_damage
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kfence import find_kfence
from drgn_pageowner.kernel.linux.percpu import cpu_variable
from drgn_pageowner.kernel.linux.printk import log_buffers
from drgn_pageowner.kernel.linux.topology import possible_cpus
from drgn_pageowner.model.arrays import Array, sparse_zeros
from drgn_pageowner.model.pages import Pages

__all__ = ("Bookkeeping", "HiddenParts", "find_bookkeeping")

# Variables with slab caches whose objects are bookkeeping, and the file of each variable.
_CACHES = (
    # struct debug_obj: what is being tracked (CONFIG_DEBUG_OBJECTS).
    ("obj_cache", "lib/debugobjects.c"),
    # struct kmemleak_object: every block of memory that was allocated.
    ("object_cache", "mm/kmemleak.c"),
    ("scan_area_cache", "mm/kmemleak.c"),
    # struct vmap_area: every area, including lazily unmapped and free ones, and those in the pools
    # of vmap_nodes.
    ("vmap_area_cachep", "mm/vmalloc.c"),
)
# Arrays in the kernel image. mem_pool contains struct kmemleak_object of early allocations.
_ARRAYS = (("mem_pool", "mm/kmemleak.c"),)
# Maximum number of pages followed per CPU in the list of cached pages; rcu_min_cached_objs, a
# module parameter, is 5 by default.
_MOST_CACHED = 4096


@dataclass
class Bookkeeping:
    """Memory whose pointers do not make their targets reachable."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    """Address and size, in bytes, of parts of the kernel image or of boot memory."""
    caches: list[int] = field(default_factory=list)
    """Addresses of slab caches all of whose objects are bookkeeping."""
    nodes: list[int] = field(default_factory=list)
    """Addresses of pages and objects."""


def find_bookkeeping(kernel: Kernel) -> Bookkeeping:
    """Find all bookkeeping of this kernel, as far as it can be read."""
    found = Bookkeeping(ranges=log_buffers(kernel))
    for name, file in _CACHES:
        cache = find_object(kernel.prog, name, file)
        with suppress_damage():
            # Skip a cache that was merged with others of the same size, because not all of its
            # objects are bookkeeping.
            if cache is not None and cache and int(cache.refcount) == 1:
                found.caches.append(int(cache))
    for name, file in _ARRAYS:
        array = find_object(kernel.prog, name, file)
        if array is not None and array.type_.kind == TypeKind.ARRAY:
            found.ranges.append((int(array.address_ or 0), sizeof(array.type_)))
    pool = find_kfence(kernel)
    if pool is not None:
        found.ranges.append(pool.metadata)
    found.nodes += _pages_of_kvfree_rcu(kernel)
    return found


def _pages_of_kvfree_rcu(kernel: Kernel) -> list[int]:
    """Find the pages that kvfree_rcu() caches; they are full of addresses of freed memory."""
    # In kernel/rcu/tree.c; in mm/slab_common.c since Linux kernel commit bbe658d65802 ("mm/slab:
    # Move kvfree_rcu() into SLAB") (in v6.14).
    variable = find_object(kernel.prog, "krc")
    if variable is None or not has_member(variable.type_, "bkvcache"):
        return []
    found: list[int] = []
    for cpu in possible_cpus(kernel):
        with suppress_damage():
            node = cpu_variable(kernel, "krc", cpu).bkvcache.first
            for _ in range(_MOST_CACHED):
                if not node:
                    break
                found.append(int(node))
                node = node.next.read_()
    return found


class HiddenParts:
    """Byte ranges of pages that are excluded from the scan for pointers."""

    def __init__(self, rows: int) -> None:
        self._partly = sparse_zeros(rows, np.bool_)
        self._ranges: list[tuple[int, int]] = []

    def add(self, start: int, end: int, rows: Array) -> None:
        """
        Exclude the physical address range from *start* to *end*.

        :param start: First physical address.
        :param end: First physical address after the range.
        :param rows: Rows of the pages in which the range begins and ends.
        """
        self._ranges.append((start, end))
        self._partly[rows] = True

    def covers(self, rows: Array, pages: Pages, offset: Array) -> Array:
        """
        Find the words that are in an excluded range.

        :param rows: Rows of pages whose words were read.
        :param offset: Offset of each word in its page, in bytes.
        :return: Indices of the words in the data: ``int64``.
        """
        place = np.flatnonzero(self._partly[rows])
        if not len(place):
            return place
        phys = pages.pfns(rows[place]) * pages.facts.page_size + offset[place]
        inside = np.zeros(len(place), bool)
        for start, end in self._ranges:
            inside |= (phys >= start) & (phys < end)
        return place[inside]
