# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse the stacks of a text; each distinct frame and stack is stored once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.stacks import Frame, Stacks

__all__ = ("TextFrames", "TextStacks", "TextSymbols")

# "%pS", preceded by "[<%p>] " in v3.19 and not in v4.9.
_FRAME = re.compile(
    r" (?:\[<(?P<address>[0-9a-f]+)>\] )?"
    r"(?:(?P<name>[^\s+]+)\+(?P<offset>0x[0-9a-f]+)/(?P<size>0x[0-9a-f]+)"
    r"(?: \[(?P<module>[^\]\s]+)\])?|(?P<bare>0x[0-9a-f]+))"
)


class TextSymbols:
    """Implements ``Symbolizer`` for the frames of a text."""

    def __init__(self, frames: dict[int, Frame]) -> None:
        self._frames = frames

    def symbolize(self, pcs: Array) -> list[Frame]:
        """
        Return the frame that was parsed for each PC.

        :param pcs: ``uint64``, shape ``(n,)``.
        """
        known = self._frames
        return [known.get(pc) or Frame(pc, None, 0, 0, None) for pc in pcs.tolist()]


@dataclass
class TextFrames:
    """Parses the frames of a text, and stores each distinct frame once."""

    def __post_init__(self) -> None:
        self._of_line: dict[str, int | None] = {}
        self.by_pc: dict[int, Frame] = {}
        self.addresses = True
        """Whether the text prints the address of every frame."""
        self.address_digits = 0
        """Number of digits of the address before a name; 0 if there is no address."""

    def pc(self, line: str) -> int | None:
        """
        Return the PC of the frame in *line*; ``None`` if *line* is not a frame.

        If the text prints no addresses, the PC is a number computed from the frame, which is the
        same for the same frame in every text.
        """
        if line not in self._of_line:
            self._of_line[line] = self._new(line)
        return self._of_line[line]

    def _new(self, line: str) -> int | None:
        match = _FRAME.fullmatch(line)
        if match is None:
            return None
        address, bare = match["address"], match["bare"]
        text = line[1:]
        if address is not None:
            self.address_digits = len(address)
            text = text[len(address) + len("[<>] ") :]
        if bare is not None:
            pc = int(bare, 16)
        elif address is not None:
            pc = int(address, 16)
        else:
            self.addresses = False
            pc = int.from_bytes(
                hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(),
                "big",
            )
        if bare is None:
            offset, size = int(match["offset"], 16), int(match["size"], 16)
            frame = Frame(pc, match["name"], offset, size, match["module"])
        else:
            frame = Frame(pc, None, 0, 0, None)
        if str(frame) != text:
            return None
        self.by_pc[pc] = frame
        return pc

    def symbols(self) -> TextSymbols:
        """Return a symbolizer for the PCs that :meth:`pc` returned."""
        return TextSymbols(self.by_pc)

    def modules(self) -> list[str]:
        """Return the names of the modules that any of the frames is in."""
        return sorted({frame.module for frame in self.by_pc.values() if frame.module is not None})

    def format(self) -> str:
        """Return the format of a frame, as in :attr:`TextFormats.frame`."""
        return f" [<%0{self.address_digits}p>] %pS\n" if self.address_digits else " %pS\n"


class TextStacks:
    """Parses the stacks of a text, and numbers the distinct stacks from 0."""

    def __init__(self, frames: TextFrames) -> None:
        self.frames = frames
        self._number: dict[tuple[int, ...], int] = {}
        self._stacks: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        return len(self._stacks)

    def number(self, lines: Iterable[str]) -> tuple[int, list[int]]:
        """
        Return the number of the stack in *lines*, and the indices of lines that are not frames.
        """
        pcs, bad = [], []
        for index, line in enumerate(lines):
            pc = self.frames.pc(line)
            if pc is None:
                bad.append(index)
            else:
                pcs.append(pc)
        stack = tuple(pcs)
        if stack not in self._number:
            self._number[stack] = len(self._stacks)
            self._stacks.append(stack)
        return self._number[stack], bad

    def offsets_and_pcs(self, numbers: Iterable[int]) -> tuple[Array, Array]:
        """Return offsets and PCs of the stacks *numbers*, as in :class:`Stacks`."""
        chosen = [self._stacks[number] for number in numbers]
        offsets = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum([len(stack) for stack in chosen], out=offsets[1:])
        return offsets, np.array([pc for stack in chosen for pc in stack], np.uint64)

    def table(self) -> Stacks:
        """
        Return all stacks.

        The handle of each stack is its number plus 1, because the text has no handles.
        """
        offsets, pcs = self.offsets_and_pcs(range(len(self)))
        handles = np.arange(1, len(self) + 1, dtype=np.uint32)
        return Stacks(handles, offsets, pcs, addresses=self.frames.addresses)
