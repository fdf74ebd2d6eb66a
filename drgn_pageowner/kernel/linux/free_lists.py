# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the list that each free page is on, following all lists at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.sections import memmap_pfns
from drgn_pageowner.kernel.linux.zone_stats import ListHead
from drgn_pageowner.model.arrays import Array

__all__ = ("lists_of",)


def lists_of(
    kernel: Kernel,
    heads: Sequence[ListHead],
    pfns: Array,
    links: Array,
) -> Array:
    """
    Find the free list that each of many pages is on.

    Instead of walking one list after another, this follows the links of all pages at once, and
    doubles the distance in each step. The number of steps is the logarithm of the length of the
    longest list (pointer jumping).

    :param heads: Heads of the free lists.
    :param pfns: PFNs of pages that may be on a list: ``int64``, shape ``(n,)``, in any order.
    :param links: ``page.lru.next`` of these pages: ``uint64``, shape ``(n,)``.
    :return: ``int32``, shape ``(n,)``: index of the list in *heads*; -1 for a page that is on no
        list, or on a list that is broken between the page and the end of the list.
    """
    lru = int(kernel.prog.type("struct page").member("lru").offset)
    found = np.full(len(pfns), -1, np.int32)
    if heads:
        addresses = np.array([head.address for head in heads], np.uint64)
        by_address = np.argsort(addresses)
        position = np.searchsorted(addresses[by_address], links)
        position[position == len(addresses)] = 0
        ends = addresses[by_address][position] == links
        found[ends] = by_address[position[ends]]

    # Index of the page that each link points to, or -1.
    order = np.argsort(pfns)
    target = memmap_pfns(kernel, links - np.uint64(lru))
    place = np.searchsorted(pfns[order], target)
    place[place == len(pfns)] = 0
    leads = np.where(pfns[order][place] == target, order[place], -1) if len(pfns) else target
    leads[found >= 0] = -1
    for _ in range(max(len(pfns), 1).bit_length() + 1):
        open_ = np.flatnonzero(leads >= 0)
        if not len(open_):
            break
        via = leads[open_]
        reached = found[via]
        found[open_] = reached
        leads[open_] = np.where(reached >= 0, -1, leads[via])
    found[leads >= 0] = -1
    return found
