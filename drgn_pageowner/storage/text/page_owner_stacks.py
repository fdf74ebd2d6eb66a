# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read the files show_stacks, show_handles and show_stacks_handles of
/sys/kernel/debug/page_owner_stacks.

The first was added in Linux kernel commit 765973a09803 ("mm,page_owner: display all stacks and
their count") (in v6.9), the others in 3b52b9e31a86 ("mm/page_owner: add debugfs file
'show_handles'") and 5513cfbcf4da ("mm/page_owner: add debugfs file 'show_stacks_handles'") (both in
v6.19).
"""

from __future__ import annotations

import re

import numpy as np

from drgn_pageowner.model.arrays import Array, ranges
from drgn_pageowner.model.kernel import Facts, Names
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import StackList, Stacks
from drgn_pageowner.storage.text.frames import TextFrames, TextStacks
from drgn_pageowner.storage.text.source import Damage, TextFile

__all__ = ("read_page_owner_stacks",)

_STACK = re.compile(
    rb"^((?: [^\n]*\n)*)(?:handle: (-?\d{1,10})\n)?(?:nr_base_pages: (\d{1,15})\n)?(\n?)",
    re.MULTILINE,
)


class _Reader:
    """Accumulates the stacks of a text that is read in pieces."""

    def __init__(self) -> None:
        self.stacks = TextStacks(TextFrames())
        self.damage = Damage()
        self.numbers: list[int] = []
        self.handles: list[int | None] = []
        self.pages: list[int | None] = []
        self._line = 1

    def read(self, piece: bytes) -> None:
        position = 0
        while position < len(piece):
            match = _STACK.match(piece, position)
            assert match is not None
            frames, handle, pages, _ = match.groups()
            end = match.end()
            if handle is None and pages is None:
                # These lines are not a complete stack. Count the lines that look like frames, and
                # the line after them, which cannot be parsed.
                end = piece.index(b"\n", end) + 1 if end < len(piece) and frames else end
                if end == position:
                    end = piece.index(b"\n", position) + 1
                for index, line in enumerate(piece[position:end].split(b"\n")[:-1]):
                    if line:
                        self.damage.add(self._line + index)
            else:
                lines = frames.decode(errors="surrogateescape").split("\n")[:-1]
                number, bad = self.stacks.number(lines)
                for index in bad:
                    self.damage.add(self._line + index)
                self.numbers.append(number)
                self.handles.append(int(handle) & 0xFFFFFFFF if handle is not None else None)
                self.pages.append(int(pages) if pages is not None else None)
            self._line += piece.count(b"\n", position, end)
            position = end

    def drop_odd(self) -> None:
        """
        Drop stacks that lack the handle or the number of pages, which the first stack has, because
        the line could not be parsed.
        """
        if not self.numbers:
            return
        shape = self.handles[0] is None, self.pages[0] is None
        kept = [
            (number, handle, pages)
            for number, handle, pages in zip(self.numbers, self.handles, self.pages, strict=True)
            if (handle is None, pages is None) == shape
        ]
        self.numbers = [number for number, _, _ in kept]
        self.handles = [handle for _, handle, _ in kept]
        self.pages = [pages for _, _, pages in kept]


def read_page_owner_stacks(file: TextFile, facts: Facts) -> tuple[Snapshot, StackList]:
    """
    Read the stacks of a text.

    :return: Records, one row per stack; and the list of stacks in the order of the text.

    :param facts: Facts about the kernel that are known without the stacks.
    """
    reader = _Reader()
    for piece in file.pieces(b"\n", reader.damage):
        reader.read(piece)
    reader.drop_odd()
    rows = len(reader.numbers)
    columns: dict[str, Array] = {}
    handles, pages = _column(reader.handles, np.uint32), _column(reader.pages, np.int64)
    offsets, pcs = reader.stacks.offsets_and_pcs(reader.numbers)
    frames = reader.stacks.frames
    if handles is None:
        table = reader.stacks.table()
        columns["handle"] = (np.array(reader.numbers, np.int64) + 1).astype(np.uint32)
    else:
        columns["handle"] = handles
        table = _by_handle(handles, offsets, pcs, frames.addresses)
    if pages is not None:
        columns["pages"] = pages
    columns["allocated"] = np.ones(rows, bool)
    facts.layout = {"text": "stacks", "members": sorted(columns)}
    symbols = frames.symbols()
    listed = StackList(handles, pages, offsets if len(frames.by_pc) else None, pcs, symbols)
    return (
        Snapshot(
            facts=facts,
            names=Names(),
            columns=columns,
            stacks=table,
            symbolizer=symbols,
            problems=reader.damage.problems(),
        ),
        listed,
    )


def _column(values: list[int | None], dtype: type) -> Array | None:
    known = [value for value in values if value is not None]
    return np.array(known, dtype) if len(known) == len(values) else None


def _by_handle(handles: Array, offsets: Array, pcs: Array, addresses: bool) -> Stacks:
    """Return the stacks in ascending order of their handles, without duplicates."""
    unique, first = np.unique(handles, return_index=True)
    depths = np.diff(offsets)[first]
    new = np.zeros(len(unique) + 1, np.int64)
    np.cumsum(depths, out=new[1:])
    return Stacks(unique, new, pcs[ranges(offsets[first], depths)], addresses=addresses)
