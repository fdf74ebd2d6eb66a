# SPDX-License-Identifier: LGPL-2.1-or-later
"""
C types of the memory of a :class:`~drgn_pageowner.model.heap.Heap`: layouts, pointers with the
places that they lie in, and the type of every node.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.kinds import Kind

__all__ = (
    "HeapTypes",
    "Layout",
    "Pointers",
    "TypeTable",
    "TypedBy",
    "Typing",
    "Variables",
    "WordUse",
)


class WordUse(enum.IntFlag):
    """What a word of a type can be; a word that is none of it refers to nothing."""

    NOTHING = 0
    """Numbers that are narrower than an address, padding."""
    ADDRESS = 1
    """A pointer, or an integer of the size of one (``unsigned long``), which can hold one."""
    NUMBER = 2
    """A PFN or physical address: such an integer, ``phys_addr_t``, ``dma_addr_t``."""
    MEMMAP = 4
    """A pointer to the ``struct page`` (``struct folio``, ``struct slab``) and to nothing else."""
    LEARN = 8
    """Says nothing about its target: ``void *``, and links such as those of ``struct list_head``.
    The other targets of the same member do."""


@dataclass(frozen=True)
class Layout:
    """The words of a type."""

    name: str
    """As in C: ``"struct sock"``."""
    size: int
    """In bytes; 0 if the debugging symbols only declare it."""
    use: Array
    """``uint8``, shape ``(words,)``: :class:`WordUse` of each aligned word."""
    aim: Array
    """``int32``, the same shape: the type that the word points to, or -1."""
    parts: Sequence[tuple[int, int]] = ()
    """Offset (in bytes) and number of the types of its members that are structures, those of
    members' members, too."""
    repeat: bool = False
    """Whether it is an array of unknown length."""
    flexible: int = -1
    """Offset of the array of unknown length that it ends with, in bytes; -1 if it has none. The
    array may begin before the end of the structure."""


class TypeTable(Protocol):
    """The types of a kernel, which are numbered in the order in which they are met."""

    word: int
    """Size of a word, in bytes."""

    def layout(self, number: int) -> Layout:
        """The words of a type."""
        ...

    def cache_types(self) -> Array:
        """The type that a slab cache's name stands for: ``int32``, a row a cache; -1 if none."""
        ...

    def shared_caches(self) -> Array:
        """Which slab caches have objects of many types (kmalloc, merged caches): ``bool``."""
        ...


@dataclass
class Variables:
    """Variables of the kernel and its modules whose type is known; per-CPU ones once per CPU."""

    names: Sequence[str]
    """The expression that drgn evaluates to the variable."""
    type: Array
    """``int32``: number in the :class:`TypeTable`."""
    node: Array
    """``int32``: the node of the heap that the variable is part of."""

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def none(cls) -> Variables:
        """No variables."""
        return cls([], np.zeros(0, np.int32), np.zeros(0, np.int32))


@dataclass
class Pointers:
    """
    Every word that leads to a node of a heap, a row each, in the order of place and offset.

    A place is a node, or a variable: variable ``i`` is place ``heap.nodes + i``.
    """

    place: Array
    """``int32``: where the word lies."""
    offset: Array
    """``int32``: offset of the word in its place, in bytes; -1 if unknown."""
    target: Array
    """``int32``: the node that it leads to."""
    at: Array
    """``int32``: the offset in the node that it leads to, in bytes; -1 if it leads to the
    ``struct page``."""

    def __len__(self) -> int:
        return len(self.place)


class TypedBy(Kind):
    """What tells the type of a node (values of :attr:`HeapTypes.by`)."""

    NOTHING = 0, "unknown"
    POINTERS = 1, "pointers"
    """The types of pointers to it."""
    LEARNED = 2, "like its siblings"
    """The types of what else the same ``void *`` or link leads to."""
    CACHE = 3, "cache"
    """The name of its slab cache."""
    CONSENSUS = 4, "the cache's other objects"
    VARIABLE = 5, "variable"


@dataclass
class HeapTypes:
    """The type of every place of a heap."""

    table: TypeTable
    type: Array
    """``int32``, a row per place: number of the type, or -1."""
    origin: Array
    """``int32``: offset of the type in the place, in bytes. What is in front of it, and behind its
    end, is unknown."""
    by: Array
    """``uint8``: :class:`TypedBy`."""
    votes: Array
    """``int32``: typed pointers that say so."""
    against: Array
    """``int32``: typed pointers that say otherwise."""
    exact: Array
    """``bool``: whether the type is sure, so that only what it says is a reference is one."""
    conflicts: int = 0
    """Nodes without a type because pointers of several types lead to them."""
    rounds: int = 0
    problems: list[str] = field(default_factory=list)

    def name(self, place: int) -> str | None:
        """The name of the type of a place, if it is the whole place's."""
        number = int(self.type[place])
        return self.table.layout(number).name if number >= 0 else None


@dataclass
class Typing:
    """What types are inferred from: of a heap that was read with types."""

    table: TypeTable
    variables: Variables
    pointers: Pointers
    inferred: HeapTypes | None = None
    """The types, once they were inferred."""
