# SPDX-License-Identifier: LGPL-2.1-or-later
"""
C types of the nodes of a :class:`~drgn_pageowner.model.heap.Heap`: layouts of types, pointers with
their locations, and the type of each node.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from drgn_pageowner.model.arrays import Array, places_of
from drgn_pageowner.model.kinds import Kind

__all__ = (
    "Counted",
    "HeapTypes",
    "Layout",
    "MemberReader",
    "Pointers",
    "TypeTable",
    "TypedBy",
    "Typing",
    "Variables",
    "WordUse",
)


class WordUse(enum.IntFlag):
    """The kinds of reference that a word of a type may be (flags); 0 if it refers to nothing."""

    NOTHING = 0
    """Not a reference: padding, or a number narrower than an address."""
    ADDRESS = 1
    """A pointer, or an integer that is wide enough to hold one (``unsigned long``)."""
    NUMBER = 2
    """A PFN or physical address: an integer of that size, ``phys_addr_t`` or ``dma_addr_t``."""
    MEMMAP = 4
    """A pointer to a ``struct page``, ``struct folio`` or ``struct slab``."""
    LEARN = 8
    """A pointer whose declared type does not give the type of its target: ``void *``, and links
    such as those of ``struct list_head``. The type is inferred from other targets of the same
    member."""
    UNNAMED = 16
    """An integer of a structure whose name and type do not suggest a :attr:`NUMBER`: ``ino``."""
    CALLBACK = 32
    """The link (``next``) of a ``struct rcu_head``. It is only a reference if the next word is set
    to the function to call, because both words are uninitialized before ``call_rcu()``."""


@dataclass(frozen=True)
class Layout:
    """Layout of a C type: the use of each of its words."""

    name: str
    """Name of the type as in C: ``"struct sock"``."""
    size: int
    """Size in bytes; 0 if the debugging symbols only declare the type."""
    use: Array
    """``uint8``, shape ``(words,)``: :class:`WordUse` of each aligned word."""
    aim: Array
    """``int32``, shape ``(words,)``: number of the type that the word points to, or -1."""
    parts: Sequence[tuple[int, int]] = ()
    """Offset (in bytes) and type number of each member that is a structure, nested ones
    included."""
    repeat: bool = False
    """Whether the type is an array of unknown length; the layout is that of one element."""
    flexible: int = -1
    """Offset of the flexible array member that the structure ends with, in bytes; -1 if it has
    none. The array may begin before the end of the structure."""
    choices: Sequence[tuple[int, int]] = ()
    """Offset (in bytes) and target type (number) of each pointer in a union that has pointers to
    different types at this offset."""


@dataclass(frozen=True)
class Counted:
    """
    An array in a structure that has a member with the number of array elements in use.

    The first elements are in use. In a ring buffer, the elements from index *tail* to *head* - 1
    are in use, modulo the length of the array. The other elements contain old values.
    """

    type: int
    """Number of the structure's type."""
    array: int
    """Offset in the structure of the array, or of a pointer to it, in bytes."""
    pointed: bool
    """Whether the structure contains a pointer to the array instead of the array."""
    length: int | tuple[int, int]
    """Number of elements; or offset and size, in bytes, of the member with this number."""
    used: tuple[int, int]
    """Offset and size, in bytes, of the member with the number of elements in use; for a ring
    buffer, of *head*."""
    tail: tuple[int, int] | None = None
    """Offset and size of *tail*, in bytes; ``None`` if the array is not a ring buffer."""
    stride: int | tuple[int, int] = 0
    """Size of an element in bytes; or offset and size of the member with this size."""
    last_index: bool = False
    """Whether :attr:`length` is the largest index instead of the number of elements."""


class TypeTable(Protocol):
    """The C types of a kernel, numbered in the order in which they are first used."""

    word: int
    """Size of a word, in bytes."""

    def layout(self, number: int) -> Layout:
        """Return the layout of the type with number *number*."""
        ...

    def cache_types(self) -> Array:
        """
        Return the type of each slab cache's objects, as implied by the cache's name.

        :return: ``int32``, a row per cache: type number; -1 if unknown.
        """
        ...

    def shared_caches(self) -> Array:
        """
        Return whether each slab cache has objects of several types (kmalloc, merged caches).

        :return: ``bool``, a row per cache.
        """
        ...

    def repeated(self, number: int) -> int:
        """Return the number of the type "array of unknown length" with elements of type
        *number*."""
        ...

    def counted(self) -> Sequence[Counted]:
        """Return the arrays of structures of this kernel that may be in use only in part."""
        ...


class MemberReader(Protocol):
    """A function that reads one unsigned integer in each of several nodes or variables."""

    def __call__(self, place: Array, offset: Array, size: int) -> tuple[Array, Array]:
        """
        Read integers.

        :param place: ``int64``, shape ``(n,)``: nodes or variables; see :class:`Pointers`.
        :param offset: ``int64``: offset in the place, in bytes.
        :param size: Size of the integers: 1, 2, 4 or 8 bytes.
        :return: The integers (``int64``), and whether they could be read (``bool``).
        """
        ...


@dataclass
class Variables:
    """
    Table of the variables of the kernel and its modules whose type is known.

    A per-CPU variable has one row per CPU.
    """

    names: Sequence[str]
    """drgn expressions for the variables."""
    type: Array
    """``int32``: number in the :class:`TypeTable`."""
    node: Array
    """``int32``: the node of the heap that the variable is part of."""

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def none(cls) -> Variables:
        """Return an empty table."""
        return cls([], np.zeros(0, np.int32), np.zeros(0, np.int32))


@dataclass
class Pointers:
    """
    Table of the words that refer to a node of a heap: one row per word, sorted by place and offset.

    A *place* is a node or a variable. Places ``0`` to ``heap.nodes - 1`` are the nodes; place
    ``heap.nodes + i`` is variable ``i``.
    """

    place: Array
    """``int32``: the place that contains the word."""
    offset: Array
    """``int32``: offset of the word from the start of :attr:`place`, in bytes; -1 if unknown."""
    target: Array
    """``int32``: the node that it refers to."""
    at: Array
    """``int32``: the offset in the target that the word points to, in bytes; -1 if it points to the
    target's ``struct page``."""

    def __len__(self) -> int:
        return len(self.place)

    def span(self, places: Array) -> tuple[Array, Array]:
        """
        Find the pointers that each of *places* contains.

        :return: Index of the first pointer, and number of pointers: ``int64``, a row per place.
        """
        first = places_of(self.place, places)
        return first, places_of(self.place, places, "right") - first


class TypedBy(Kind):
    """The evidence for the type of a node (values of :attr:`HeapTypes.by`)."""

    NOTHING = 0, "unknown"
    POINTERS = 1, "pointers"
    """The types of the pointers to it."""
    LEARNED = 2, "like its siblings"
    """The types of other targets of the same ``void *`` or link."""
    CACHE = 3, "cache"
    """The name of its slab cache."""
    CONSENSUS = 4, "the cache's other objects"
    VARIABLE = 5, "variable"
    CONTENT = 6, "what is in it"
    """A pointer in a union points to the node, and only one of the union's target types agrees with
    the pointers in the node."""


@dataclass
class HeapTypes:
    """The inferred type of each place of a heap; see :class:`Pointers` for places."""

    table: TypeTable
    type: Array
    """``int32``, a row per place: number of the type, or -1."""
    origin: Array
    """``int32``: offset at which the type begins in the place, in bytes. The memory before and
    after it is of unknown type."""
    by: Array
    """``uint8``: :class:`TypedBy`."""
    votes: Array
    """``int32``: number of typed pointers to the place that agree with its type."""
    against: Array
    """``int32``: number of typed pointers to the place that disagree with its type."""
    exact: Array
    """``bool``: whether the type is certain, so that only members that are references in that type
    are treated as references."""
    conflicts: int = 0
    """Number of nodes that were not given a type, because pointers of different types point to
    them."""
    rounds: int = 0
    """Number of times that types were propagated along pointers."""
    problems: list[str] = field(default_factory=list)

    def name(self, place: int) -> str | None:
        """Return the name of the type of a place, if the type begins at its start."""
        number = int(self.type[place])
        return self.table.layout(number).name if number >= 0 else None


@dataclass
class Typing:
    """The data from which the types of a heap's nodes are inferred, and the result."""

    table: TypeTable
    variables: Variables
    pointers: Pointers
    read: MemberReader | None = None
    """Function that reads members; ``None`` if the dump's memory is not available."""
    code: Array = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    """``uint64``, shape ``(n, 2)``: start and end address of the code of the kernel and of each
    module."""
    inferred: HeapTypes | None = None
    """The inferred types; ``None`` until they have been inferred."""
