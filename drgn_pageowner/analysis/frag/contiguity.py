# SPDX-License-Identifier: LGPL-2.1-or-later
"""Count the aligned blocks of every size that are free, could be freed, or are blocked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.frag.blocks import BlockTable
from drgn_pageowner.analysis.frag.culprits import (
    codes_of_unmovable,
    functions,
    of_unmovable,
    owner_name,
)
from drgn_pageowner.analysis.frag.mobility import (
    Mobility,
    Overlay,
    UnmovableKind,
    kind_codes,
)
from drgn_pageowner.model.arrays import Array, ascending, frequencies
from drgn_pageowner.model.kept import kept

__all__ = ("BlockSize", "Blocker", "Contiguity", "block_sizes", "contiguity", "merge_blocks")

_LARGEST = 1 << 30
_BOUNDS = (1, 8, 64)


@dataclass(frozen=True)
class BlockSize:
    """The aligned blocks of one size in one zone, or in all zones together."""

    order: int
    node: int | None
    """``None`` for all zones together."""
    zone: str | None
    blocks: int
    """Blocks all of whose pages are memory of the zone."""
    free: int
    movable: int
    """Blocks of free, movable and reclaimable pages only, not all free: compaction could free
    them."""
    blocked: int
    """Blocks with an unmovable page."""
    unknown: int
    """Blocks that may be blocked, because the dump lacks some of their pages' struct pages."""
    blocked_by: tuple[int, ...]
    """Blocked blocks with 1, with 2 to 8, with 9 to 64, and with more unmovable pages."""
    in_the_way: int
    """Unmovable pages in blocked blocks."""
    for_half: int
    """Minimum number of unmovable pages to remove so that half of the blocked blocks could be
    freed."""


@dataclass(frozen=True)
class Blocker:
    """An owner of unmovable pages in blocks of one size."""

    order: int
    name: str
    """A kind, or an allocator."""
    handle: int | None
    blocks: int
    only_blocker: int
    pages: int


@dataclass(frozen=True)
class Contiguity:
    """The aligned blocks of every size, and the owners of unmovable pages in them."""

    sizes: list[BlockSize]
    kinds: list[Blocker]
    allocators: list[Blocker]


@kept
def contiguity(joined: Overlay, table: BlockTable, *, limit: int = 10) -> Contiguity:
    """
    Count aligned blocks from pageblock order up to 1 GiB.

    :param limit: Maximum number of allocators to list for each size.
    """
    function = functions(joined, codes_of_unmovable(joined))
    if joined.records is not None:
        # Once, not in each thread.
        joined.kinds()

    def pairs(rows: Array, codes: Array) -> tuple[_Pairs, _Pairs]:
        block = joined.block[rows]
        of_kind = _Pairs.of(block, kind_codes(joined, rows, codes))
        return of_kind, _Pairs.of(block, function[codes])

    found = [*of_unmovable(joined, pairs)]
    kinds, owners = (_Pairs.all_of([pair[which] for pair in found]) for which in (0, 1))
    sizes: list[BlockSize] = []
    by_kind: list[Blocker] = []
    by_owner: list[Blocker] = []
    for order, shift, zone, counts in _merged(joined, table):
        sizes += _sizes(joined, order, zone, counts)
        for code, blocks, only, pages in kinds.owners(shift, zone):
            by_kind.append(Blocker(order, UnmovableKind(code).label, None, blocks, only, pages))
        for code, blocks, only, pages in owners.owners(shift, zone)[:limit]:
            name, handle, _ = owner_name(joined, code)
            by_owner.append(Blocker(order, name, handle, blocks, only, pages))
    return Contiguity(sizes, by_kind, by_owner)


def block_sizes(joined: Overlay, table: BlockTable) -> list[BlockSize]:
    """Return :attr:`Contiguity.sizes`, for which owners are not needed."""
    return [
        size
        for order, _, zone, counts in _merged(joined, table)
        for size in _sizes(joined, order, zone, counts)
    ]


def _merged(joined: Overlay, table: BlockTable) -> Iterator[tuple[int, int, Array, Array]]:
    """
    Merge pageblocks into blocks of every size.

    :return: Order of the blocks, binary logarithm of their number of pageblocks, and the result of
        :func:`merge_blocks`.
    """
    facts = joined.memory.pages.facts
    largest = (_LARGEST // facts.page_size).bit_length() - 1
    for order in range(facts.pageblock_order, max(largest, facts.pageblock_order) + 1):
        shift = order - facts.pageblock_order
        zone, counts = merge_blocks(table, shift)
        if not (zone >= 0).any():
            break
        yield order, shift, zone, counts


def merge_blocks(table: BlockTable, shift: int) -> tuple[Array, Array]:
    """
    Merge a :class:`BlockTable` into blocks of ``2^shift`` pageblocks; return their zones and
    counts.
    """
    number = -(-len(table.zone) >> shift)
    padded = number << shift
    flat = np.full(padded, -1, np.int16)
    flat[: len(table.zone)] = table.zone
    zone = flat.reshape(number, 1 << shift)
    counts = np.zeros((padded, table.counts.shape[1]), np.int64)
    counts[: len(table.counts)] = table.counts
    merged = counts.reshape(number, 1 << shift, -1).sum(axis=1)
    same = (zone == zone[:, :1]).all(axis=1)
    return np.where(same, zone[:, 0], -1), merged


def _sizes(joined: Overlay, order: int, zone: Array, counts: Array) -> list[BlockSize]:
    facts = joined.memory.pages.facts
    whole = zone >= 0
    result = [_size(order, None, None, counts[whole])]
    if len(facts.zones) > 1:
        for number, known in enumerate(facts.zones):
            mine = zone == number
            if mine.any():
                result.append(_size(order, known.node, known.name, counts[mine]))
    return result


def _size(order: int, node: int | None, zone: str | None, counts: Array) -> BlockSize:
    unmovable = counts[:, Mobility.UNMOVABLE]
    blocked = unmovable > 0
    unknown = ~blocked & (counts[:, Mobility.UNKNOWN] > 0)
    free = ~blocked & (counts[:, Mobility.FREE] == 1 << order)
    ways = np.sort(unmovable[blocked])
    classes = np.searchsorted(np.array(_BOUNDS), ways, "left")
    return BlockSize(
        order=order,
        node=node,
        zone=zone,
        blocks=len(counts),
        free=int(free.sum()),
        movable=int((~blocked & ~unknown & ~free).sum()),
        blocked=int(blocked.sum()),
        unknown=int(unknown.sum()),
        blocked_by=tuple(np.bincount(classes, minlength=len(_BOUNDS) + 1).tolist()),
        in_the_way=int(ways.sum()),
        for_half=int(ways[: -(-len(ways) // 2)].sum()),
    )


@dataclass(frozen=True)
class _Pairs:
    """Distinct pairs of a pageblock and an owner of unmovable pages in it."""

    block: Array
    code: Array
    pages: Array

    @classmethod
    def of(cls, block: Array, code: Array) -> _Pairs:
        """
        Find the pairs.

        :param block: Pageblock of each page, ascending: ``int32``.
        :param code: Number of each page's owner.
        """
        top = int(code.max(initial=0)) + 1
        first = int(block[0])
        number = (int(block[-1]) - first + 1) * top
        if number <= len(block):
            # Few owners: count the pages of each pair that is possible.
            counts = frequencies((block - first) * np.int64(top) + code, number)
            pairs = np.flatnonzero(counts)
            return cls(pairs // top + first, pairs % top, counts[pairs])
        bits = top.bit_length()
        pairs = block.astype(np.int64)
        pairs <<= bits
        pairs |= code
        pairs.sort()
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        counts = np.diff(starts, append=len(pairs))
        pairs = pairs[starts]
        return cls(pairs >> bits, pairs & (1 << bits) - 1, counts)

    @classmethod
    def all_of(cls, parts: list[_Pairs]) -> _Pairs:
        """Concatenate the pairs of different blocks."""
        columns = [(part.block, part.code, part.pages) for part in parts]
        if not columns:
            nothing = np.zeros(0, np.int64)
            return cls(nothing, nothing, nothing)
        block, code, pages = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(block, code, pages)

    def owners(self, shift: int, zone: Array) -> list[tuple[int, int, int, int]]:
        """
        Return ``(code, blocks, blocks with no other owner, pages)``, most blocks first.

        :param shift: Blocks have ``2^shift`` pageblocks.
        :param zone: Zone of each block; blocks with -1 are left out.
        """
        group = self.block >> shift
        inside = zone[group] >= 0
        group, code, weight = group[inside], self.code[inside], self.pages[inside]
        if not len(group):
            return []
        top = int(code.max()) + 1
        pairs = ascending(group * top + code)
        of_group, of_code = pairs // top, pairs % top
        _, inverse, owners = np.unique(of_group, return_inverse=True, return_counts=True)
        touched = np.bincount(of_code, minlength=top)
        only = np.bincount(of_code[owners[inverse] == 1], minlength=top)
        pages = np.bincount(code, weight, minlength=top).astype(np.int64)
        order = np.flatnonzero(touched)
        order = order[np.lexsort((-pages[order], -touched[order]))]
        return [
            (number, int(touched[number]), int(only[number]), int(pages[number]))
            for number in order.tolist()
        ]
