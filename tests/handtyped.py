# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hand-made heaps with types, for tests that need neither drgn nor a dump."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from handmade import Machine, Record, heap

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Heap, Slabs
from drgn_pageowner.model.types import Counted, Layout, Pointers, Typing, Variables, WordUse

A, N, L = int(WordUse.ADDRESS), 0, int(WordUse.ADDRESS | WordUse.LEARN)
HEAD, LEAF, OUTER, VOID, ARRAY, OTHER, BATCH, BATCHES, PIPE = range(9)
UNION, LISTED, LEAVES, FREED = range(9, 13)


def layout(name: str, *words: tuple[int, int], parts: Sequence[tuple[int, int]] = (),
           repeat: bool = False, choices: Sequence[tuple[int, int]] = ()) -> Layout:  # fmt: skip
    use, aim = np.array(words).reshape(-1, 2).T
    use, aim = use.astype(np.uint8), aim.astype(np.int32)
    return Layout(name, 8 * len(words), use, aim, parts, repeat, choices=choices)


CODE = (0xFFFFFFFF81000000, 0xFFFFFFFF82000000)
"""Address of the kernel's functions."""
REPEATED = {LEAF: LEAVES}


class Table:
    """Hand-made types."""

    word = 8
    LAYOUTS = (
        layout("struct head", (A, LEAF), (A, HEAD), (N, -1), (L, -1)),
        layout("struct leaf", (N, -1), (A, LEAF)),
        layout("struct outer", (N, -1), (N, -1), (N, -1), (A, LEAF), parts=[(8, LEAF)]),
        layout("struct holder", (L, -1)),
        layout("struct leaf * []", (A, LEAF), repeat=True),
        layout("struct other", (N, -1), (N, -1)),
        # A structure with a count and an array of three pointers; one with such a member; one with
        # a pointer to a ring buffer.
        layout("struct batch", (N, -1), (A, -1), (A, -1), (A, -1)),
        layout("struct batches", (N, -1), (N, -1), (A, -1), (A, -1), (A, -1),
               parts=[(8, BATCH)]),
        layout("struct pipe", (N, -1), (A, -1)),
        # A union of pointers to a leaf, a listed or an other; a structure that begins with a list
        # head.
        layout("struct union", (A, -1), choices=[(0, LEAF), (0, LISTED), (0, OTHER)]),
        layout("struct listed", (L, -1), (L, -1)),
        layout("struct leaf []", (N, -1), (A, LEAF), repeat=True),
        # A number, and a struct rcu_head.
        layout("struct freed", (N, -1), (L | int(WordUse.CALLBACK), -1), (L, -1)),
    )  # fmt: skip
    COUNTED = (
        Counted(BATCH, array=8, pointed=False, length=3, used=(0, 4), stride=8),
        Counted(PIPE, array=8, pointed=True, length=4, used=(0, 4), tail=(4, 4), stride=16),
    )

    def __init__(self, caches: Sequence[int], shared: Sequence[bool]) -> None:
        self._caches, self._shared = caches, shared

    def layout(self, number: int) -> Layout:
        return self.LAYOUTS[number]

    def repeated(self, number: int) -> int:
        return REPEATED[number]

    def counted(self) -> Sequence[Counted]:
        return self.COUNTED

    def cache_types(self) -> Array:
        return np.array(self._caches, np.int32)

    def shared_caches(self) -> Array:
        return np.array(self._shared, bool)


def made(
    sizes: Sequence[tuple[int, int]],
    pointers: Sequence[tuple[int, int, int, int]],
    *,
    variables: Sequence[int] = (),
    names: Sequence[int] | None = None,
    shared: Sequence[bool] | None = None,
    numbers: Mapping[tuple[int, int], int] | None = None,
) -> Heap:
    """
    Return a heap of one record, the objects of caches, a root, and variables.

    :param sizes: Size and number of the objects of each cache.
    :param pointers: Place, offset, target, and offset in the target. Object *i* is node 1 + i;
        variable *i* is place -1 - i.
    :param numbers: ``(place, offset)`` -> value of a member; other members cannot be read.
    """
    base = heap(Machine("k" + "s" * len(sizes)).inventory(Record(0, ["owner"])), [])
    number = np.array([objects for _, objects in sizes], np.int64)
    size = np.array([size for size, _ in sizes], np.int64)
    start = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
    ones = np.ones(len(sizes), np.int64)
    base.inventory.slabs = Slabs(
        caches=[f"cache{index}" for index in range(len(sizes))],
        cache=np.arange(len(sizes), dtype=np.int32),
        row=np.arange(1, len(sizes) + 1),
        pages=ones,
        first=0 * ones,
        stride=size,
        size=size,
        objects=number,
        start=start,
        allocated=np.ones(int(start[-1]), bool),
        sheaves=np.zeros(0, np.uint64),
    )
    nodes = 1 + int(start[-1]) + 1
    table = Table(names or [-1] * len(sizes), shared or [True] * len(sizes))
    rows = sorted((nodes - 1 - p if p < 0 else p, o, t, a) for p, o, t, a in pointers)
    columns = np.array(rows, np.int32).reshape(-1, 4).T
    known = Variables(
        [f"v{index}" for index in range(len(variables))],
        np.array(variables, np.int32),
        np.full(len(variables), nodes - 1, np.int32),
    )

    def read(place: Array, offset: Array, size: int) -> tuple[Array, Array]:
        keys = zip(place.tolist(), offset.tolist(), strict=True)
        got = [(numbers or {}).get((nodes - 1 - p if p >= nodes else p, o)) for p, o in keys]
        values = [value or 0 for value in got]
        return np.array(values, np.int64), np.array([value is not None for value in got])

    code = np.array([CODE], np.uint64)
    typing = Typing(table, known, Pointers(*columns), read, code)
    return dataclasses.replace(base, typing=typing)
