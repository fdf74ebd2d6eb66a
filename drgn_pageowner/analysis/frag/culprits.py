# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rank the owners of pages that compaction cannot move out of a pageblock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from drgn_pageowner.analysis.frag.blocks import block_table
from drgn_pageowner.analysis.frag.mobility import (
    Mobility,
    Overlay,
    UnmovableKind,
    kind_codes,
    migratetype_number,
    rows_with_mobility,
)
from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.analysis.owners.stack_table import (
    allocator_codes,
    replaced_allocators,
)
from drgn_pageowner.model.arrays import Array, ascending, begins, frequencies, widen
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.pages import PageState
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.model.threads import from_threads, in_threads

__all__ = (
    "Culprit",
    "Culprits",
    "by_function",
    "codes_of_unmovable",
    "culprits",
    "functions",
    "of_unmovable",
    "owner_codes",
    "owner_name",
)

R = TypeVar("R")


@dataclass(frozen=True)
class Culprit:
    """A stack with unmovable pages, or a state of pages without a record."""

    allocator: str
    kind: str
    """Label of a :class:`~drgn_pageowner.analysis.frag.mobility.UnmovableKind`."""
    handle: int | None
    """``None`` for pages without a record."""
    pages: int
    blocks: int
    """Pageblocks that contain at least one of its pages."""
    only_blocker: int
    """Pageblocks all of whose unmovable pages belong to it."""
    in_movable: int
    """Pages in pageblocks of type Movable or CMA."""
    oldest_ns: int | None
    newest_ns: int | None
    stack: list[Frame]


@dataclass(frozen=True)
class Culprits:
    """The owners of unmovable pages in pageblocks."""

    blocked: int
    """Pageblocks with an unmovable page."""
    blocks: int
    """Pageblocks with memory."""
    blocking: list[Culprit]
    reverse: list[Culprit]
    """The owners of movable pages in pageblocks of type Unmovable or Reclaimable."""


def owner_codes(joined: Overlay, rows: Array) -> Array:
    """
    Number the owner of each of *rows*: its stack, or its state if it has no record.

    :return: ``int32``: number of the stack; :attr:`Overlay.number_of_stacks` if it is not in the
        depot; greater numbers for states.
    """
    owner, records = joined.owner[rows], joined.records
    if records is None or not len(records):
        codes = np.empty(len(rows), np.int32)
    else:
        codes = records.stack_of(owner).astype(np.int32)
        codes[codes < 0] = joined.number_of_stacks
    if int(owner.min(initial=0)) < 0:
        unrecorded = np.flatnonzero(owner < 0)
        state = joined.memory.pages.state[rows[unrecorded]]
        codes[unrecorded] = joined.number_of_stacks + 1 + state.astype(np.int32)
    return codes


def of_unmovable(joined: Overlay, work: Callable[[Array, Array], R]) -> Iterator[R]:
    """
    Find the unmovable pages and their owners, some at a time; owners are numbered once.

    :param work: Function of rows of pages, ascending, and the result of :func:`owner_codes`. All
        pages of a pageblock are in one call. It is called in several threads.
    :return: The results of *work*.
    """
    pieces = [*joined.block.pieces()]
    codes = codes_of_unmovable(joined)

    def look_at(number: int) -> R:
        rows = rows_with_mobility(joined, Mobility.UNMOVABLE, pieces[number])
        return work(rows, codes[number])

    return from_threads(look_at, [n for n, owners in enumerate(codes) if len(owners)])


def codes_of_unmovable(joined: Overlay) -> list[Array]:
    """Return the result of :func:`owner_codes` for the unmovable pages of each piece of pages."""
    if joined.codes_of_unmovable is None:

        def look_at(piece: slice) -> Array:
            return owner_codes(joined, rows_with_mobility(joined, Mobility.UNMOVABLE, piece))

        joined.codes_of_unmovable = in_threads(look_at, joined.block.pieces())
    return joined.codes_of_unmovable


def owner_name(joined: Overlay, code: int) -> tuple[str, int | None, list[Frame]]:
    """Return allocator, handle and stack of an owner that :func:`owner_codes` numbered."""
    stacks = joined.number_of_stacks
    if code > stacks:
        return f"({PageState(code - stacks - 1).label}, no record)", None, []
    if code == stacks:
        return "(stack lost)", None, []
    assert joined.records is not None
    frames = joined.records.stack_frames(code)
    return str(allocator_of(frames)), int(joined.records.stacks.handles[code]), frames


def by_function(joined: Overlay, codes: Array) -> Array:
    """Merge the numbers in *codes* of stacks with the same allocator function."""
    stacks = joined.number_of_stacks
    if not stacks or joined.records is None or not len(codes):
        return codes
    used = np.zeros(max(int(codes.max()) + 1, stacks), bool)
    used[codes] = True
    numbers = np.flatnonzero(used[:stacks])
    table = joined.stacks()
    # Name and module of each function; -1 for a frame without a name.
    known: dict[tuple[str, str | None], int] = {}
    of_frame = [
        -1 if frame.name is None else known.setdefault((frame.name, frame.module), len(known))
        for frame in table.frames
    ]
    allocators = allocator_codes(table)
    function = np.array([*of_frame, -1])[allocators]
    function[replaced_allocators(table, allocators)] = -1
    function = function[numbers]
    named = np.flatnonzero(function >= 0)
    # Each function has the number of its first stack.
    first = np.full(len(known), len(used), np.int64)
    np.minimum.at(first, function[named], numbers[named])
    merged = np.arange(len(used))
    merged[numbers[named]] = first[function[named]]
    result: Array = merged[codes]
    return result


def functions(joined: Overlay, codes: Iterable[Array]) -> Array:
    """
    Return the number that each owner's number becomes in :func:`by_function`.

    :param codes: The numbers of owners that are used.
    """
    used = np.zeros(joined.number_of_stacks + 1 + len(PageState), bool)
    for code in codes:
        used[code[begins(code)]] = True
    numbers = np.flatnonzero(used)
    result = np.zeros(len(used), np.int64)
    result[numbers] = by_function(joined, numbers)
    return result


@kept
def culprits(
    joined: Overlay, *, by: str = "stack", sort: str = "blocks", limit: int | None = None
) -> Culprits:
    """
    Rank the owners of unmovable pages.

    :param by: ``"stack"``, or ``"allocator"`` for all stacks of one function together.

    :param sort: ``"blocks"``, ``"only"`` or ``"pages"``.
    :param limit: Maximum number of owners in each list.
    """
    names = list(joined.memory.pages.names.migratetypes)
    types = joined.memory.pageblocks
    for_movable = np.isin(types, [migratetype_number(names, n) for n in ("Movable", "CMA")])
    for_others = np.isin(
        types, [migratetype_number(names, n) for n in ("Unmovable", "Reclaimable")]
    )

    def of_movable(work: Callable[[Array, Array], R]) -> Iterator[R]:
        def look_at(piece: slice) -> R | None:
            rows = rows_with_mobility(joined, Mobility.MOVABLE, piece)
            inside = rows[for_others[joined.block[rows]]]
            return work(inside, owner_codes(joined, inside)) if len(inside) else None

        found = from_threads(look_at, joined.block.pieces())
        return (result for result in found if result is not None)

    counts = block_table(joined).counts
    present = counts[:, : Mobility.UNKNOWN].sum(axis=1)
    return Culprits(
        blocked=int(np.count_nonzero(counts[:, Mobility.UNMOVABLE])),
        blocks=int(np.count_nonzero(present)),
        blocking=_rank(joined, partial(of_unmovable, joined), for_movable, by, sort, limit),
        reverse=_rank(joined, of_movable, for_movable, by, sort, limit),
    )


@dataclass(frozen=True)
class _Part:
    """The owners of some pages."""

    codes: Array
    """Number of each owner, ascending."""
    touched: Array
    """Pageblocks that contain at least one of its pages."""
    only: Array
    """Pageblocks that contain no pages of others."""
    counts: Array
    """Pages."""
    in_movable: Array
    """Pages in pageblocks of type Movable or CMA."""
    sample: Array
    """Row of its last page."""
    oldest: Array | None
    """``uint64``: time of its oldest record; ``None`` if no times are known."""
    newest: Array | None
    """The same of its newest record."""


def _part(joined: Overlay, rows: Array, codes: Array, for_movable: Array, top: int) -> _Part:
    """
    Sum up pages by owner.

    :param rows: Rows of pages, ascending; all pages of a pageblock that are looked at.
    :param codes: Number of the owner of each, less than *top*.
    :param for_movable: Whether pageblocks are of type Movable or CMA: ``bool``.
    """
    bits = top.bit_length()
    block = joined.block[rows]
    pairs = block.astype(np.int64)
    pairs <<= bits
    pairs |= codes
    pairs = ascending(pairs[begins(pairs)])
    of_block, of_code = pairs >> bits, pairs & (1 << bits) - 1
    # There is one row for each owner of each block: a block with one owner has one row, so the
    # rows before and after it are of other blocks.
    alone = np.diff(of_block, prepend=-1) != 0
    alone &= np.diff(of_block, append=-1) != 0
    touched = np.bincount(of_code, minlength=top)
    present = np.flatnonzero(touched)
    sample = np.zeros(top, np.int64)
    sample[codes] = rows
    oldest, newest = _ages(joined, rows, codes, top)
    return _Part(
        codes=present,
        touched=touched[present],
        only=np.bincount(of_code[alone], minlength=top)[present],
        counts=frequencies(codes, top)[present],
        in_movable=frequencies(codes[for_movable[block]], top)[present],
        sample=sample[present],
        oldest=None if oldest is None else oldest[present],
        newest=None if newest is None else newest[present],
    )


def _ages(
    joined: Overlay, rows: Array, codes: Array, top: int
) -> tuple[Array, Array] | tuple[None, None]:
    """
    Find the times of the oldest and the newest record of each owner.

    :return: ``uint64``, shape ``(top,)``; an owner without times has the largest, and 0; ``None``
        if no times are known.
    """
    records = joined.records
    if records is None or "ts_nsec" not in records or not len(records):
        return None, None
    oldest = np.full(top, np.iinfo(np.uint64).max, np.uint64)
    newest = np.zeros(top, np.uint64)
    owner = joined.owner[rows]
    if int(owner.min(initial=0)) < 0:
        recorded = owner >= 0
        owner, codes = owner[recorded], codes[recorded]
    stamps = records["ts_nsec"][owner]
    widen(oldest, newest, codes, stamps)
    return oldest, newest


class _Parts(Protocol):
    """:func:`of_unmovable`, or the same of other pages."""

    def __call__(self, work: Callable[[Array, Array], R], /) -> Iterator[R]: ...


def _rank(
    joined: Overlay,
    parts: _Parts,
    for_movable: Array,
    by: str,
    sort: str,
    limit: int | None,
) -> list[Culprit]:
    """
    Rank the owners of pages.

    :param parts: Calls a function with rows of pages and their owners.
    """
    function = None
    top = joined.number_of_stacks + 1 + len(PageState)
    if by == "allocator":
        function = functions(joined, parts(lambda _, owners: owners))
    counts, touched, only, in_movable, sample = (np.zeros(top, np.int64) for _ in range(5))
    oldest, newest = np.full(top, np.iinfo(np.uint64).max, np.uint64), np.zeros(top, np.uint64)

    def sum_up(rows: Array, owners: Array) -> _Part:
        codes = owners if function is None else function[owners]
        return _part(joined, rows, codes, for_movable, top)

    for part in parts(sum_up):
        mine = part.codes
        touched[mine] += part.touched
        only[mine] += part.only
        counts[mine] += part.counts
        in_movable[mine] += part.in_movable
        sample[mine] = part.sample
        if part.oldest is not None and part.newest is not None:
            oldest[mine] = np.minimum(oldest[mine], part.oldest)
            newest[mine] = np.maximum(newest[mine], part.newest)
    if not counts.any():
        return []
    key = {"blocks": touched, "only": only, "pages": counts}[sort]
    present = np.flatnonzero(counts)
    order = present[np.lexsort((present, -counts[present], -key[present]))][:limit]
    kinds = kind_codes(joined, sample[order], owner_codes(joined, sample[order]))
    result = []
    for position, code in enumerate(order.tolist()):
        name, handle, frames = owner_name(joined, code)
        ages: dict[str, Any] = {"oldest_ns": None, "newest_ns": None}
        if newest[code] >= oldest[code]:
            ages = {"oldest_ns": int(oldest[code]), "newest_ns": int(newest[code])}
        result.append(
            Culprit(
                allocator=name,
                kind=UnmovableKind(int(kinds[position])).label,
                handle=handle,
                pages=int(counts[code]),
                blocks=int(touched[code]),
                only_blocker=int(only[code]),
                in_movable=int(in_movable[code]),
                stack=frames,
                **ages,
            )
        )
    return result
