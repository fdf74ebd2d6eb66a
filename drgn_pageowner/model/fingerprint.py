# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clues to the owner of memory in its contents: addresses of symbols and objects, text, magic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drgn_pageowner.model.arrays import Array

__all__ = ("CLUE_KINDS", "Clue", "Contents", "Fingerprint", "find_numbers", "find_text")

CLUE_KINDS = ("symbol", "gone module", "text", "number", "object", "per-CPU", "page", "itself")
"""Kinds of clues, the most specific ones first."""
_TEXT_BYTES = 24
"""Number of bytes of a text that are compared."""
_SHOWN = 3
"""Maximum number of offsets printed for one clue."""
_SHORTEST = 4
"""Minimum length of a text; shorter runs of printable bytes are taken for binary data."""

# Magic numbers and poison values of include/linux/poison.h, include/linux/spinlock_types_raw.h,
# include/uapi/linux/magic.h, include/linux/elf.h.
_NUMBERS = {
    0xDEAD000000000100: "LIST_POISON1",
    0xDEAD000000000122: "LIST_POISON2",
    0x6B6B6B6B6B6B6B6B: "POISON_FREE: a freed object",
    0x5A5A5A5A5A5A5A5A: "POISON_INUSE: never written",
    0xAAAAAAAAAAAAAAAA: "PAGE_POISON: a freed page",
    0xCCCCCCCCCCCCCCCC: "POISON_FREE_INITMEM, or SLUB_RED_ACTIVE",
    0xBBBBBBBBBBBBBBBB: "SLUB_RED_INACTIVE",
}
_HALVES = {
    0xDEAD4EAD: "SPINLOCK_MAGIC",
    0x57AC6E9D: "STACK_END_MAGIC",
    0x464C457F: "an ELF file",
    0x6B6B6B6B: "POISON_FREE: a freed object",
    0xFD2FB528: "zstd data",
    0x184D2204: "an LZ4 frame",
}


@dataclass(frozen=True)
class Clue:
    """A word or a text in memory that hints at the owner of that memory."""

    offset: int
    """Offset in the memory, in bytes."""
    kind: str
    """One of :data:`CLUE_KINDS`."""
    text: str
    """The symbol, the slab cache, the text, or the name of the magic number."""

    @property
    def words(self) -> str:
        """The clue in words, without its offset."""
        said = {
            "symbol": f"address of {self.text}",
            "gone module": "address in a module that is gone",
            "object": f"address of an object of {self.text}",
            "page": "address of a page",
            "per-CPU": "per-CPU pointer",
            "itself": "address of itself",
            "text": f'"{self.text}"',
        }
        return said.get(self.kind, self.text)


@dataclass(frozen=True)
class Fingerprint:
    """The clues that several pieces of memory, probably of one owner, have in common."""

    clues: Sequence[Clue]
    """The clues, sorted by offset."""
    zero: bool
    """Whether the memory contains only zeroes."""
    example: int
    """Virtual address of a piece of memory with this fingerprint."""
    bytes: str
    """The first bytes of the example, in hexadecimal digits."""
    shared: int
    """Number of pieces of memory with this fingerprint."""

    @property
    def text(self) -> str:
        """The clues in words, the most specific kinds first."""
        if self.zero:
            return "all zero"
        if not self.clues:
            return "no address, text or known number"
        clues = sorted(self.clues, key=lambda clue: (CLUE_KINDS.index(clue.kind), clue.offset))
        offsets: dict[str, list[int]] = {}
        for clue in clues:
            offsets.setdefault(clue.words, []).append(clue.offset)
        return "; ".join(f"{words} at {_places(places)}" for words, places in offsets.items())


def _places(offsets: Sequence[int]) -> str:
    shown = ", ".join(f"+{offset:#x}" for offset in offsets[:_SHOWN])
    return f"{shown} and {len(offsets) - _SHOWN} more" if len(offsets) > _SHOWN else shown


@dataclass
class Contents:
    """The clues found in ``n`` pieces of memory: ``m`` clues in all."""

    address: Array
    """``uint64``, shape ``(n,)``: virtual address of each piece."""
    zero: Array
    """``bool``, shape ``(n,)``: whether the piece contains only zeroes."""
    there: Array
    """``bool``, shape ``(n,)``: whether the piece is in the dump."""
    piece: Array
    """``int32``, shape ``(m,)``, a row per clue: index of the piece that contains it; ascending."""
    offset: Array
    """``int32``, shape ``(m,)``: offset of the clue in its piece, in bytes."""
    token: Array
    """``int32``, shape ``(m,)``: index in :attr:`tokens`."""
    tokens: Sequence[tuple[str, str]]
    """The distinct clues: :attr:`Clue.kind` and :attr:`Clue.text`."""


def find_text(words: Array) -> tuple[Array, Array, Array]:
    """
    Find the texts in memory that begin at a word boundary.

    A text is cut off at its first digit, because names of the same kind often differ only by a
    number.

    :param words: ``unsigned long``, shape ``(n, w)``: ``w`` words of each of ``n`` pieces of
        memory, in native byte order.
    :return: For each text, row and column of the word where it begins: ``int64``; and the text:
        ``S24``.
    """
    number, width = words.shape
    data = np.ascontiguousarray(words).view(np.uint8).reshape(number, width, -1)
    letters = (data >= 0x20) & (data < 0x7F)
    letters |= (data == 0x0A) | (data == 0x0D) | (data == 0x09)
    # A text may end in the middle of a word, if the other bytes of that word are zero.
    before = np.logical_and.accumulate(letters, axis=2)
    full = before[:, :, -1]
    count = before.sum(axis=2)
    ends = (count >= _SHORTEST) & np.where(before, True, data == 0).all(axis=2)
    starts = full | ends
    starts[:, 1:] &= ~full[:, :-1]
    row, column = np.nonzero(starts)
    text = np.zeros((len(row), _TEXT_BYTES), np.uint8)
    flat = data.reshape(number, -1)
    size = data.shape[2]
    place = column[:, None] * size + np.arange(_TEXT_BYTES)
    inside = place < flat.shape[1]
    text[inside] = flat[np.broadcast_to(row[:, None], place.shape)[inside], place[inside]]
    kept = (text >= 0x20) & (text < 0x7F) & ~((text >= 0x30) & (text < 0x3A))
    text[~np.logical_and.accumulate(kept, axis=1)] = 0
    good = (text[:, _SHORTEST - 1] != 0) & ((text | 0x20) >= 0x61).any(axis=1)
    row, column, text = row[good], column[good], np.ascontiguousarray(text[good])
    return row, column, text.view(f"S{_TEXT_BYTES}").ravel()


def find_numbers(words: Array) -> tuple[Array, Array, list[str]]:
    """
    Find words that are, or have a 32-bit half that is, a magic number or poison of the kernel.

    :param words: ``uint64``, shape ``(n,)``.
    :return: Indices of these words: ``int64``; for each of them, the index of its name: ``int64``;
        and the list of names.
    """
    names = list(dict.fromkeys([*_NUMBERS.values(), *_HALVES.values()]))
    places, which = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    known = np.array(sorted(_NUMBERS), np.uint64)
    found = np.flatnonzero(np.isin(words, known))
    places.append(found)
    in_order = np.array([names.index(_NUMBERS[int(number)]) for number in known.tolist()])
    which.append(in_order[np.searchsorted(known, words[found])])
    rest = np.ones(len(words), bool)
    rest[found] = False
    halves = np.array(sorted(_HALVES), np.uint64)
    of_half = np.array([names.index(_HALVES[int(number)]) for number in halves.tolist()])
    for half in (words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)):
        found = np.flatnonzero(rest & np.isin(half, halves))
        rest[found] = False
        places.append(found)
        which.append(of_half[np.searchsorted(halves, half[found])])
    return np.concatenate(places), np.concatenate(which), names
