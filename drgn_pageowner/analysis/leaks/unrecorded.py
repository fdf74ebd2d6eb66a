# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find, without page_owner records, the pages of one block, and the PFNs that are references."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drgn_pageowner.model.arrays import Array, equals
from drgn_pageowner.model.heap import Heap, Reachability, Role

if TYPE_CHECKING:
    from drgn_pageowner.analysis.leaks.reach import Reach

__all__ = ("followers", "known_by_holder", "pages_behind")

# The significance level, as in a search with records.
_UNLIKELY = 0.05


def followers(heap: Heap) -> Array:
    """
    Find the records that belong to the same allocation as the record before them.

    These are pages that were never on a list, because such a page is part of a block whose first
    page is another one, and the pages of ``cma_alloc()``, whose callers store the address of the
    first page only. A record only belongs to the record before if their pages are adjacent.

    :return: Indices of records: ``int64``, ascending.
    """
    if heap.recorded:
        return np.zeros(0, np.int64)
    pfn = heap.records["pfn"]
    found = [heap.unlisted.astype(np.int64)]
    for area in heap.inventory.memory.cma:
        inside = np.flatnonzero((pfn >= area.start_pfn) & (pfn < area.start_pfn + area.pages))
        found.append(inside[area.allocated[pfn[inside] - area.start_pfn]])
    return np.unique(np.concatenate(found))


def pages_behind(found: Reach) -> Array:
    """
    Find single pages that belong to a split block whose first page is reachable.

    ``alloc_pages_exact()`` splits a block, and its callers store the address of the first page
    only. page_owner's timestamps show which pages were allocated together. Without them, pages
    count as the rest of a block if nothing refers to them, if they follow a reachable page at
    which a block of that size can begin, and if all have the same allocation tag; without tags,
    there must be at least two of them.

    :return: ``bool``, an element for each record: whether its page is such a page.
    """
    heap, records = found.heap, found.heap.records
    number = len(records)
    single = equals(found.role, Role.CANDIDATE) & (records["order"] == 0)
    for area in heap.inventory.areas:
        mine = heap.inventory.record_of_row[area.rows[area.rows >= 0]]
        single[mine[mine >= 0]] = False
    pointed = np.zeros(heap.nodes, bool)
    for holder, target in ((heap.holder, heap.target), heap.typed_edges()):
        pointed[target[holder != target]] = True
    # A page that was never on a list points at itself.
    lost = np.isin(found.verdict[:number], (Reachability.UNREACHABLE, Reachability.ITSELF))
    behind = single & lost & ~pointed[:number] & (found.allocation == np.arange(number))
    pfn, stack = records["pfn"], records.stack
    behind[:1] = False
    behind[1:] &= single[:-1] & (pfn[1:] == pfn[:-1] + 1) & (stack[1:] == stack[:-1])
    # Pages that are known to belong to the block are part of the run, too.
    behind[1:] |= (found.allocation[1:] == found.allocation[:-1]) & (records["order"][1:] == 0)
    run = np.cumsum(~behind) - 1
    first = np.flatnonzero(~behind)
    length = np.bincount(run, minlength=len(first))
    block = np.int64(1) << np.ceil(np.log2(np.maximum(length, 1))).astype(np.int64)
    good = (pfn[first] % block == 0) & (length >= np.where(stack[first] < 0, 3, 2))
    good &= found.parent[first] >= 0
    result: Array = behind & good[run]
    return result


def known_by_holder(
    candidates: Array, source: Array, target: Array, chance: Array, first_root: int
) -> Array:
    """
    Return the *candidates* whose PFN is unlikely to be stored somewhere by chance.

    Either few PFNs of about that size occur as words by chance, or the node that contains the PFN
    contains the PFN of another candidate, too.

    :param candidates: Indices of records whose PFN or physical address is stored: ``int64``.
    :param source: Node that contains each such number.
    :param target: Record that each number refers to, in the order of *source*.
    :param first_root: Number of the first node that is a root.
    :param chance: For each record, the probability that a word equals its PFN by chance.
    """
    wanted = np.zeros(len(chance), bool)
    wanted[candidates] = True
    # Do not count roots, which are so large that they contain many numbers.
    among = wanted[target] & (source < first_root)
    pairs = np.unique(np.stack([source[among], target[among]]), axis=1)
    _, inverse, counts = np.unique(pairs[0], return_inverse=True, return_counts=True)
    several = np.zeros(len(chance), bool)
    several[pairs[1][counts[inverse] > 1]] = True
    result: Array = candidates[(chance[candidates] < _UNLIKELY) | several[candidates]]
    return result
