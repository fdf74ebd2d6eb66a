# SPDX-License-Identifier: LGPL-2.1-or-later
"""Draw the map of pageblocks in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drgn_pageowner.analysis.frag.blockmap import BlockMap, MapCell
from drgn_pageowner.escape import word
from drgn_pageowner.render.terminal import columns

__all__ = ("CELL_CLASSES", "cell_class", "map_text")

_COLUMNS = 64

# Kind of cell -> character, ANSI colour and meaning.
_LEGEND = {
    "free": (".", "90", "all free"),
    "movable": ("m", "32", "free and movable pages only"),
    "reclaimable": ("r", "36", "reclaimable pages, none unmovable"),
    "polluted": ("!", "31", "of type Movable or CMA, with unmovable pages in it"),
    "some": ("u", "33", "less than half unmovable"),
    "most": ("U", "35", "more than half unmovable"),
    "unknown": ("?", "37", "not in the dump"),
}


CELL_CLASSES = {name: meaning for name, (_, _, meaning) in _LEGEND.items()}
"""The kinds of cells -> their meanings."""


def cell_class(cell: MapCell) -> str:
    """Return the kind of *cell*: a key of :data:`CELL_CLASSES`."""
    here = cell.free + cell.movable + cell.reclaimable + cell.unmovable
    if cell.polluted:
        return "polluted"
    if cell.unmovable:
        return "most" if cell.unmovable * 2 > here else "some"
    if cell.unknown > here:
        return "unknown"
    if cell.reclaimable:
        return "reclaimable"
    return "movable" if cell.movable else "free"


def map_text(maps: Sequence[BlockMap], *, colour: bool) -> Iterator[str]:
    """
    Yield one character per cell, and a legend.

    :param colour: Whether the terminal shows colours.
    """

    def painted(name: str) -> str:
        character, code, _ = _LEGEND[name]
        return f"\033[{code}m{character}\033[0m" if colour else character

    # Each line begins with a PFN.
    room = columns() - 13
    per_line = next((n for n in (_COLUMNS, _COLUMNS // 2) if n <= room), _COLUMNS // 4)
    for zone in maps:
        per = "1 pageblock" if zone.blocks_per_cell == 1 else f"{zone.blocks_per_cell} pageblocks"
        yield f"node {zone.node}, zone {word(zone.zone)}: a cell is {per}\n"
        for start in range(0, len(zone.cells), per_line):
            cells = zone.cells[start : start + per_line]
            line = "".join(painted(cell_class(cell)) for cell in cells)
            yield f"{cells[0].pfn:#12x} {line}\n"
        yield "\n"
    for name, (_, _, meaning) in _LEGEND.items():
        yield f"{painted(name)} {meaning}\n"
