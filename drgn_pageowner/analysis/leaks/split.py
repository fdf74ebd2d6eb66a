# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the records of one allocation that was split into single pages."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from drgn_pageowner.analysis.owners.stack_table import StackTable, with_stacks
from drgn_pageowner.model.arrays import Array, ascending, slices
from drgn_pageowner.model.records import Snapshot

__all__ = ("merge_split",)

# Functions that split their allocations. If records have no time, this is all there is to go by;
# records of early boot on arm64 have none either, because the clock is not running yet.
_SPLITTERS = re.compile(
    r"_*(make_alloc_exact|alloc_pages_exact|split_page|alloc_large_system_hash|"
    r"dma_(direct_)?alloc|cma_alloc|alloc_contig|vdso_setup_data_pages)\w*"
)
# Functions that first migrate other pages away, one by one, so that the timestamps of their records
# are spread out.
_RANGES = re.compile(r"_*(cma_alloc|alloc_contig)\w*")
# The clock is coarse if more than one in this many records shares its timestamp with a record of
# another stack. On the bundled guests, which ran under TCG, it is 0.4 to 8 in 1,000.
_COARSE = 1000
# Number of parts in which records are sorted by their time.
_PARTS = 16
# Nanoseconds within which __set_page_owner_handle() writes the records of the pages of one block.
# Each record had its own timestamp until Linux kernel commit ea4b5b33bf8a ("mm,page_owner: update
# metadata for tail pages") (in v6.9). In the dump linux-6.1/traps, adjacent records of a block are
# 0.48 ms apart at most.
_SOON_NS = 10**6


def merge_split(records: Snapshot, followers: Array | None = None) -> Array:
    """
    Assign each record the number of its allocation.

    Some allocations have several records: ``alloc_pages_exact()``, for example, leaves a record for
    every page.

    Records that follow one another belong together if they have the same stack, were made in the
    same nanosecond, and each begins at a multiple of its size. If the kernel records no time, or
    takes a new timestamp for every page (until Linux kernel commit ea4b5b33bf8a ("mm,page_owner:
    update metadata for tail pages") (in v6.9)), their stack must also contain a function that
    splits allocations. If the kernel's clock is coarse, no other allocation may have that stack.

    :param records: Allocated records in PFN order, with ``pfn``, ``order``, ``handle``.
    :param followers: Indices of rows that belong to the same allocation as the row before, if the
        rows are not page_owner records: result of
        :func:`~drgn_pageowner.analysis.leaks.unrecorded.followers`.
    :return: ``int32``, a row per record: ascending numbers from 0 on.
    """
    if not len(records):
        return np.zeros(0, np.int32)
    pfn, handle = records["pfn"], records["handle"]
    follows = np.zeros(len(records), bool)
    order = records["order"]
    for rows in slices(len(records) - 1):
        after = slice(rows.start + 1, rows.stop + 1)
        pages = np.int64(1) << order[rows].astype(np.int64)
        follows[after] = (pfn[after] == pfn[rows] + pages) & (handle[after] == handle[rows])
        follows[after] &= order[after] == order[rows]
    if "ts_nsec" not in records:
        behind = np.zeros(len(records), bool)
        behind[followers if followers is not None else []] = True
        behind &= follows & (records["order"] == 0)
        follows = _of_splitters(records, follows, _SPLITTERS)[0] | behind
    else:
        stamp = np.asarray(records["ts_nsec"]).view(np.int64)
        soon, same = follows.copy(), follows.copy()
        for rows in slices(len(records) - 1):
            after = slice(rows.start + 1, rows.stop + 1)
            step = stamp[after] - stamp[rows]
            soon[after] &= (step >= 0) & (step < _SOON_NS)
            same[after] &= (step == 0) & (stamp[after] != 0)
        split, ranges = _of_splitters(records, follows, _SPLITTERS, _RANGES)
        follows = split & soon | ranges
        aligned = _aligned(records, same)
        if _is_coarse(stamp, handle):
            aligned = _only_blocks(records, aligned)
        follows |= aligned
    return _runs(follows)


def _runs(follows: Array) -> Array:
    """Number the runs of rows of which each but the first *follows* the one before."""
    result: Array = np.cumsum(~follows, dtype=np.int32)
    result -= 1
    return result


def _of_splitters(records: Snapshot, follows: Array, *splitters: re.Pattern[str]) -> list[Array]:
    """
    Return which of *follows* have a stack with a function that splits its allocation.

    :param splitters: Names of such functions; there is a result for each.
    """

    def having(pattern: re.Pattern[str]) -> Callable[[StackTable], Array]:
        return lambda table: table.any(
            table.marks(lambda frame: pattern.fullmatch(frame.name or "") is not None)
        )

    found = with_stacks(records, follows, [having(pattern) for pattern in splitters])
    return [follows & one for one in found]


def _is_coarse(stamp: Array, handle: Array) -> bool:
    """Return whether the clock's resolution is coarser than the duration of an allocation."""
    # Records with the same stamp are in the same part.
    some = np.sort(stamp[:: max(len(stamp) // 1000, 1)])
    edges = ascending(some[:: max(len(some) // _PARTS, 1)].copy())[1:]
    shared, part = 0, np.empty(len(stamp), np.uint8)
    for rows in slices(len(stamp)):
        part[rows] = np.searchsorted(edges, stamp[rows], "right")
    for number in range(len(edges) + 1):
        mine = np.flatnonzero(part == number)
        mine = mine[np.argsort(stamp[mine], kind="stable")]
        same = stamp[mine[1:]] == stamp[mine[:-1]]
        shared += int(np.count_nonzero(same & (handle[mine[1:]] != handle[mine[:-1]])))
    return shared * _COARSE > len(stamp)


def _only_blocks(records: Snapshot, aligned: Array) -> Array:
    """
    Return which of *aligned* have a stack that allocates only blocks of one size. With a coarse
    clock, single pages allocated in a row look like a split block, but this is not so for all pages
    of the stack.
    """
    first = np.flatnonzero(~aligned).astype(np.int32)
    length = np.diff(first, append=np.int32(len(aligned)))
    # All rows of a run have the same stack.
    handle = records["handle"]
    handles = ascending(handle.copy())
    least = np.full(len(handles), 1 << 30, np.int32)
    most = np.zeros(len(least), np.int32)
    stack = np.empty(len(first), np.int32)
    for rows in slices(len(first)):
        stack[rows] = np.searchsorted(handles, handle[first[rows]])
        np.minimum.at(least, stack[rows], length[rows])
        np.maximum.at(most, stack[rows], length[rows])
    same = (least == most) & (most & (most - 1) == 0)
    result: Array = aligned & np.repeat(same[stack], length)
    return result


def _aligned(records: Snapshot, follows: Array) -> Array:
    """Return which of *follows* are in runs that are aligned to their size, as free blocks are."""
    first = np.flatnonzero(~follows).astype(np.int32)
    length = np.diff(first, append=np.int32(len(follows)))
    good = np.empty(len(first), bool)
    for rows in slices(len(first)):
        # All records of a run have the same order.
        pages = length[rows].astype(np.int64) << records["order"][first[rows]].astype(np.int64)
        block = np.int64(1) << np.ceil(np.log2(np.maximum(pages, 1))).astype(np.int64)
        good[rows] = records["pfn"][first[rows]] % block == 0
    result: Array = follows & np.repeat(good, length)
    return result
