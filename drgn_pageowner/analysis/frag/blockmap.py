# SPDX-License-Identifier: LGPL-2.1-or-later
"""Map physical memory: a cell for every pageblock, or for several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.frag.blocks import BlockTable
from drgn_pageowner.analysis.frag.mobility import Mobility
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.kernel import Facts

__all__ = ("BlockMap", "MapCell", "block_map")


_SHOWN = (
    Mobility.FREE,
    Mobility.MOVABLE,
    Mobility.RECLAIMABLE,
    Mobility.UNMOVABLE,
    Mobility.UNKNOWN,
    Mobility.ABSENT,
)


@dataclass(frozen=True)
class MapCell:
    """One or more consecutive pageblocks of a zone."""

    pfn: int
    blocks: int
    migratetype: str | None
    """The migratetype of most of the blocks."""
    free: int
    movable: int
    reclaimable: int
    unmovable: int
    unknown: int
    absent: int
    """Number of pages without memory. This and the five numbers before it add up to all pages of
    the cell."""
    polluted: int
    """Number of Movable and CMA blocks in the cell with an unmovable page other than boot
    memory."""


@dataclass(frozen=True)
class BlockMap:
    """The cells of one zone, in PFN order; pageblocks without memory are left out."""

    node: int
    zone: str
    blocks_per_cell: int
    cells: list[MapCell]


def block_map(facts: Facts, types: list[str], table: BlockTable, cells: int) -> list[BlockMap]:
    """
    Map every zone.

    :param types: Names of the migratetypes.
    :param cells: Maximum number of cells in total.
    """
    total = int((table.part_of >= 0).sum())
    per_cell = 1
    while per_cell * cells < total:
        per_cell *= 2
    strange = table.polluted(types)
    result = []
    for number, zone in enumerate(facts.zones):
        blocks = np.flatnonzero(table.part_of == number)
        if len(blocks):
            groups = blocks // per_cell
            starts = np.concatenate([[0], np.flatnonzero(np.diff(groups)) + 1])
            found = _cells(facts, types, table, strange, blocks, starts)
            result.append(BlockMap(zone.node, zone.name, per_cell, found))
    return result


def _cells(
    facts: Facts, types: list[str], table: BlockTable, strange: Array, blocks: Array, starts: Array
) -> list[MapCell]:
    """Return the cells that begin at *starts* of *blocks*."""
    counts = np.add.reduceat(table.counts[blocks], starts)
    numbers = np.diff(np.append(starts, len(blocks)))
    kinds = table.migratetype[blocks]
    votes = np.add.reduceat(kinds[:, None] == np.arange(len(types))[None, :], starts, dtype=int)
    most = np.where(votes.any(axis=1), votes.argmax(axis=1), len(types))
    named = [*types, None]
    rows = zip(
        (blocks[starts] << facts.pageblock_order).tolist(),
        numbers.tolist(),
        [named[kind] for kind in most.tolist()],
        *(counts[:, mobility].tolist() for mobility in _SHOWN),
        np.add.reduceat(strange[blocks], starts, dtype=int).tolist(),
        strict=True,
    )
    return [MapCell(*row) for row in rows]
