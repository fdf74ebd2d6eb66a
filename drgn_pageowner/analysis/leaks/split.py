# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the records of one call: allocations that were split into single pages afterwards."""

from __future__ import annotations

import re

import numpy as np

from drgn_pageowner.analysis.owners.stack_table import with_stack
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.records import Snapshot

__all__ = ("merge_split",)

# Functions that split their allocations. Where records have no time, only their stacks tell;
# records of early boot on arm64 have none either, as the clock does not run yet.
_SPLITTERS = re.compile(
    r"_*(make_alloc_exact|alloc_pages_exact|split_page|alloc_large_system_hash|"
    r"dma_(direct_)?alloc|cma_alloc|alloc_contig|vdso_setup_data_pages)\w*"
)
# These migrate other pages away first, page by page, so their timestamps are spread out.
_RANGES = re.compile(r"_*(cma_alloc|alloc_contig)\w*")
# If more than one record in 1,000 has the time of a record of another stack, the clock is coarse.
# On the bundled guests, which ran under TCG, it is 0.4 to 8 in 1,000.
_COARSE = 1000
# Nanoseconds within which __set_page_owner_handle() writes the records of one block, each with a
# time of its own until v6.8. On linux-6.1/traps neighbouring records are 0.48 ms apart at most.
_SOON_NS = 10**6


def merge_split(records: Snapshot) -> Array:
    """
    Number the allocations: ``alloc_pages_exact()`` leaves a record for every page of one.

    Records that follow one another belong together if they have the same stack, were made in
    the same nanosecond and begin where a block of that size can. Where the kernel keeps no time,
    or it reads it for every page anew (until v6.8), their stack must be one of a function that
    splits; where its clock only ticks, one that allocates nothing else.

    :param records: Allocated records in PFN order, with ``pfn``, ``order``, ``handle``.
    :return: ``int64``, a row per record: ascending numbers from 0 on.
    """
    if not len(records):
        return np.zeros(0, np.int64)
    pfn, handle = records["pfn"], records["handle"]
    follows = np.zeros(len(records), bool)
    follows[1:] = (pfn[1:] == pfn[:-1] + records.pages[:-1]) & (handle[1:] == handle[:-1])
    follows[1:] &= records["order"][1:] == records["order"][:-1]
    if "ts_nsec" not in records:
        follows = _of_splitters(records, follows)
    else:
        stamp = records["ts_nsec"].astype(np.int64)
        step = np.zeros(len(records), np.int64)
        step[1:] = stamp[1:] - stamp[:-1]
        soon = follows & (step >= 0) & (step < _SOON_NS)
        same = follows & (step == 0) & (stamp != 0)
        follows = _of_splitters(records, soon) | _of_splitters(records, follows, _RANGES)
        aligned = _aligned(records, same)
        if _is_coarse(stamp, handle):
            aligned = _only_blocks(records, aligned)
        follows |= aligned
    result: Array = np.cumsum(~follows) - 1
    return result


def _of_splitters(
    records: Snapshot, follows: Array, splitters: re.Pattern[str] = _SPLITTERS
) -> Array:
    """Return those of *follows* whose stack has a function that splits its allocation."""
    result: Array = follows & with_stack(
        records,
        follows,
        lambda table: table.any(
            table.marks(lambda frame: splitters.fullmatch(frame.name or "") is not None)
        ),
    )
    return result


def _is_coarse(stamp: Array, handle: Array) -> bool:
    """Whether the clock stands still for longer than an allocation takes."""
    order = np.argsort(stamp, kind="stable")
    stamp, handle = stamp[order], handle[order]
    shared = (stamp[1:] == stamp[:-1]) & (handle[1:] != handle[:-1])
    return int(shared.sum()) * _COARSE > len(stamp)


def _only_blocks(records: Snapshot, aligned: Array) -> Array:
    """
    Return those of *aligned* whose stack allocates blocks of one size and nothing else.

    With a coarse clock single pages allocated in a row look like a split block, but then not all
    pages of the stack do.
    """
    number = np.cumsum(~aligned) - 1
    length = np.bincount(number)[number]
    _, stack = np.unique(records["handle"], return_inverse=True)
    least = np.full(int(stack.max()) + 1, 1 << 30)
    most = np.zeros(len(least), np.int64)
    np.minimum.at(least, stack, length)
    np.maximum.at(most, stack, length)
    same = (least == most) & (most & (most - 1) == 0)
    result: Array = aligned & same[stack]
    return result


def _aligned(records: Snapshot, follows: Array) -> Array:
    """Return those of *follows* in runs that begin where a free block of their size would."""
    number = np.cumsum(~follows) - 1
    length = np.bincount(number, records.pages).astype(np.int64)
    start = records["pfn"][~follows]
    block = np.int64(1) << np.ceil(np.log2(np.maximum(length, 1))).astype(np.int64)
    result: Array = follows & (start % block == 0)[number]
    return result
