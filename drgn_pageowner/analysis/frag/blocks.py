# SPDX-License-Identifier: LGPL-2.1-or-later
"""Count the pages of every pageblock by mobility, and list one pageblock page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.frag.mobility import Mobility, Overlay
from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.arrays import Array, equals, frequencies
from drgn_pageowner.model.pages import PageState
from drgn_pageowner.model.threads import in_threads

__all__ = ("BlockTable", "Run", "block_table", "explain_block")


@dataclass
class BlockTable:
    """One row per pageblock, from number 0 on."""

    zone: Array
    """``int16``: index in ``facts.zones`` of the zone that the whole block is in; -1 where the
    block has a hole, or belongs to several zones."""
    part_of: Array
    """``int16``: index of the zone that its first page is in; -1 for none."""
    migratetype: Array
    """``int8``; -1 for none."""
    counts: Array
    """``int32``, shape ``(blocks, 6)``: pages by :class:`Mobility`."""
    boot: Array
    """``int32``: unmovable pages of boot memory, which was allocated before pageblocks had
    types."""
    pages: int
    """Number of pages in a pageblock."""

    def polluted(self, types: Sequence[str]) -> Array:
        """
        Find blocks of type Movable or CMA with an unmovable page that was allocated there.

        :param types: Names of the migratetypes.
        :return: ``bool``, shape ``(blocks,)``.
        """
        wanted = [number for number, name in enumerate(types) if name in ("Movable", "CMA")]
        strange = self.counts[:, Mobility.UNMOVABLE] > self.boot
        result: Array = np.isin(self.migratetype, wanted) & strange
        return result


def block_table(joined: Overlay) -> BlockTable:
    """Count the pages of every pageblock, once for an :class:`Overlay`."""
    if joined.table is None:
        joined.table = _block_table(joined)
    assert isinstance(joined.table, BlockTable)
    return joined.table


def _block_table(joined: Overlay) -> BlockTable:
    """Count the pages of every pageblock."""
    memory = joined.memory
    size = 1 << memory.pages.facts.pageblock_order
    number = len(memory.pageblocks)
    kinds = len(Mobility)
    counts = np.zeros((number, kinds), np.int32)
    boot = np.zeros(number, np.int32)

    def count(piece: slice) -> None:
        # Numbers of blocks ascend, so a piece has few of them.
        block = joined.block[piece]
        lowest, highest = int(block[0]), int(block[-1])
        block -= lowest
        size_of_piece = (highest + 1 - lowest) * kinds
        of_kind = frequencies(block * kinds + joined.mobility[piece], size_of_piece)
        counts[lowest : highest + 1] += of_kind.reshape(-1, kinds).astype(np.int32)
        reserved = block[equals(memory.pages.state[piece], PageState.RESERVED)]
        boot[lowest : highest + 1] += np.bincount(reserved, minlength=highest + 1 - lowest)

    in_threads(count, joined.block.pieces())
    zone = memory.pages["zone"]
    first = np.full(number, -1, np.int16)
    whole = np.full(number, -1, np.int16)
    if len(zone):
        starts, blocks = joined.block.starts()
        first_zone = np.minimum.reduceat(zone, starts)
        last_zone = np.maximum.reduceat(zone, starts)
        present = np.diff(np.concatenate([starts, [len(zone)]]))
        first[blocks] = np.where(zone[starts] == 255, -1, zone[starts].astype(np.int64))
        one = (first_zone == last_zone) & (last_zone != 255) & (present == size)
        one &= counts[blocks, Mobility.ABSENT] == 0
        whole[blocks[one]] = first_zone[one]
    return BlockTable(whole, first, memory.pageblocks, counts, boot, size)


@dataclass(frozen=True)
class Run:
    """Consecutive pages of one block that belong to one allocation or have one state."""

    pfn: int
    pages: int
    state: str
    mobility: str
    order: int | None
    """The order of the allocation or the free block, which may reach beyond this block."""
    migratetype: str | None
    """The migratetype that the allocation asked for."""
    allocator: str | None
    handle: int | None
    comm: bytes | None
    pid: int | None
    age_ns: int | None


def explain_block(joined: Overlay, block: int) -> list[Run]:
    """
    List the contents of a pageblock, in PFN order.

    :raises PageOwnerError: if there is no such pageblock
    """
    pages = joined.memory.pages
    order = pages.facts.pageblock_order
    ends = pages.first_rows(np.array([block, block + 1], np.int64) << order)
    rows = np.arange(*ends.tolist())
    if not len(rows):
        raise PageOwnerError(f"there is no memory in pageblock {block}")
    state, owner = pages.state[rows], joined.owner[rows]
    heads = pages["free_order"][rows] >= 0
    change = (np.diff(state) != 0) | (np.diff(owner) != 0) | heads[1:]
    starts = np.concatenate([[0], np.flatnonzero(change) + 1, [len(rows)]])
    return [
        _run(joined, int(rows[first]), int(last - first))
        for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ]


def _run(joined: Overlay, row: int, number: int) -> Run:
    pages, records = joined.memory.pages, joined.records
    owner = int(joined.owner[row])
    state = PageState(int(pages.state[row])).label
    mobility = Mobility(int(joined.mobility[row])).label
    pfn = int(pages.pfns(np.array([row]))[0])
    if records is None or owner < 0:
        free_order = int(pages["free_order"][row])
        order = free_order if free_order >= 0 else None
        return Run(pfn, number, state, mobility, order, None, None, None, None, None, None)

    def of(column: str) -> int | None:
        return int(records[column][owner]) if column in records else None

    stack = int(records.stacks.index(records["handle"][owner : owner + 1])[0])
    frame = allocator_of(records.stack_frames(stack))
    stamp, now = of("ts_nsec"), records.facts.now_ns
    return Run(
        pfn=pfn,
        pages=number,
        state=state,
        mobility=mobility,
        order=of("order"),
        migratetype=pages.names.migratetypes[int(records["migratetype"][owner])],
        allocator=str(frame) if frame is not None else None,
        handle=of("handle"),
        comm=bytes(records["comm"][owner]) if "comm" in records else None,
        pid=of("pid"),
        age_ns=max(now - stamp, 0) if now is not None and stamp is not None else None,
    )
