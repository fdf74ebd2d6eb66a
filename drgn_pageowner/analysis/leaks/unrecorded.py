# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tell by pages alone what else records tell: parts of one block, and numbers that are pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Heap, Reachability, Role

if TYPE_CHECKING:
    from drgn_pageowner.analysis.leaks.reach import Reach

__all__ = ("followers", "known_by_holder", "pages_behind")

# The significance level, as in a search with records.
_UNLIKELY = 0.05


def followers(heap: Heap) -> Array:
    """
    Find the records that are of one allocation with the record before, if that is next to them.

    Pages that were never on a list are the rest of a block. Of what ``cma_alloc()`` returned, its
    callers keep the first page and the number of pages.

    :return: ``int64``, ascending.
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
    Find single pages that are the rest of a block whose first page is held.

    ``alloc_pages_exact()`` splits a block, of which only the first page's address is kept. Records
    tell by time which pages these are; without them, pages that nothing points at, which follow one
    that is held, where a block of that size can begin. They have one tag, or there are two of
    them at least if they have none.

    :return: ``bool``, a row per record.
    """
    heap, records = found.heap, found.heap.records
    number = len(records)
    single = (found.role == Role.CANDIDATE) & (records["order"] == 0)
    for area in heap.inventory.areas:
        mine = heap.inventory.record_of_row[area.rows[area.rows >= 0]]
        single[mine[mine >= 0]] = False
    pointed = np.zeros(heap.nodes, bool)
    pointed[heap.target[heap.holder != heap.target]] = True
    # A page that was never on a list points at itself.
    lost = np.isin(found.verdict[:number], (Reachability.UNREACHABLE, Reachability.ITSELF))
    behind = single & lost & ~pointed[:number] & (found.allocation == np.arange(number))
    pfn, stack = records["pfn"], records.stack
    behind[:1] = False
    behind[1:] &= single[:-1] & (pfn[1:] == pfn[:-1] + 1) & (stack[1:] == stack[:-1])
    # Those that are known to be of one block are in the run, too.
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
    Return those of *candidates* that are hardly known by chance, each for itself.

    Few PFNs of their size are words by chance, or what holds the number holds that of another of
    them, too.

    :param candidates: Records: ``int64``.
    :param source: Nodes that have a PFN or physical address; *target* are the records.
    :param first_root: The node of root 0.
    :param chance: A row per record: the probability that some word is its PFN by chance.
    """
    wanted = np.zeros(len(chance), bool)
    wanted[candidates] = True
    # A root is too large for that to mean anything.
    among = wanted[target] & (source < first_root)
    pairs = np.unique(np.stack([source[among], target[among]]), axis=1)
    _, inverse, counts = np.unique(pairs[0], return_inverse=True, return_counts=True)
    several = np.zeros(len(chance), bool)
    several[pairs[1][counts[inverse] > 1]] = True
    result: Array = candidates[(chance[candidates] < _UNLIKELY) | several[candidates]]
    return result
