# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types that pointers tell, on graphs typed by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from handmade import Machine, Record, heap

from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.analysis.types.shares import check_types, type_shares
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Heap, Slabs
from drgn_pageowner.model.types import (
    HeapTypes,
    Layout,
    Pointers,
    TypedBy,
    Typing,
    Variables,
    WordUse,
)

A, N, L = int(WordUse.ADDRESS), 0, int(WordUse.ADDRESS | WordUse.LEARN)
HEAD, LEAF, OUTER, VOID, ARRAY, OTHER = range(6)


def layout(name: str, *words: tuple[int, int], parts: Sequence[tuple[int, int]] = (),
           repeat: bool = False) -> Layout:  # fmt: skip
    use, aim = np.array(words).reshape(-1, 2).T
    return Layout(name, 8 * len(words), use.astype(np.uint8), aim.astype(np.int32), parts, repeat)


class Table:
    """Types made by hand."""

    word = 8
    LAYOUTS = (
        layout("struct head", (A, LEAF), (A, HEAD), (N, -1), (L, -1)),
        layout("struct leaf", (N, -1), (A, LEAF)),
        layout("struct outer", (N, -1), (N, -1), (N, -1), (A, LEAF), parts=[(8, LEAF)]),
        layout("struct holder", (L, -1)),
        layout("struct leaf * []", (A, LEAF), repeat=True),
        layout("struct other", (N, -1), (N, -1)),
    )

    def __init__(self, caches: Sequence[int], shared: Sequence[bool]) -> None:
        self._caches, self._shared = caches, shared

    def layout(self, number: int) -> Layout:
        return self.LAYOUTS[number]

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
) -> Heap:
    """
    A heap of one record, the objects of caches, a root, and variables.

    :param sizes: Of each cache: the size of its objects, and their number.
    :param pointers: Place, offset, target, and offset in the target. Object *i* is node 1 + i;
        variable *i* is place -1 - i.
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
    return dataclasses.replace(base, typing=Typing(table, known, Pointers(*columns)))


def types_of(found: HeapTypes, number: int) -> list[tuple[int, int]]:
    """Type and offset of the first objects."""
    return [(int(found.type[1 + i]), int(found.origin[1 + i])) for i in range(number)]


def test_types_run_along_a_list_from_a_variable() -> None:
    chain = [(-1, 0, 1, 0), *((1 + i, 8, 2 + i, 0) for i in range(9))]
    found = infer_types(made([(16, 10)], chain, variables=[HEAD]))
    assert types_of(found, 10) == [(LEAF, 0)] * 10
    assert found.votes[1:11].tolist() == [1] * 10
    # One pointer is no certainty.
    assert not found.exact[1:11].any()


def test_two_pointers_that_agree_make_a_type_sure() -> None:
    found = infer_types(made([(16, 1)], [(-1, 0, 1, 0), (-2, 0, 1, 0)], variables=[HEAD, HEAD]))
    assert found.exact[1]
    assert found.votes[1] == 2


def test_a_member_s_pointer_tells_what_has_the_member() -> None:
    # Somebody says that it is a struct outer; others that there is a leaf at 8.
    pointers = [(-1, 0, 1, 8), (-2, 0, 1, 8), (-3, 0, 1, 0)]
    table = made([(32, 1)], pointers, variables=[HEAD, HEAD, VOID], names=[OUTER], shared=[False])
    found = infer_types(table)
    assert types_of(found, 1) == [(OUTER, 0)]
    assert (found.votes[1], found.against[1], found.by[1]) == (2, 0, TypedBy.CACHE)
    assert types_of(infer_types(table, names=False), 1) == [(LEAF, 8)]


def test_pointers_that_disagree_leave_it_unknown_and_are_counted() -> None:
    # HEAD's second word leads to a struct head, its first to a leaf: at the same place.
    found = infer_types(made([(64, 1)], [(-1, 0, 1, 0), (-1, 8, 1, 0)], variables=[HEAD]))
    assert types_of(found, 1) == [(-1, 0)]
    assert found.conflicts == 1
    assert found.votes[1] == found.against[1] == 1


def test_what_lies_behind_a_structure_is_no_contradiction() -> None:
    # kmalloc(sizeof(struct leaf) + sizeof(struct leaf)).
    found = infer_types(made([(64, 1)], [(-1, 0, 1, 0), (-2, 0, 1, 16)], variables=[HEAD, HEAD]))
    assert types_of(found, 1) == [(LEAF, 0)]
    assert found.against[1] == 0


def test_a_type_that_does_not_fit_is_none() -> None:
    found = infer_types(made([(8, 1)], [(-1, 0, 1, 0)], variables=[HEAD]))
    assert types_of(found, 1) == [(-1, 0)]


def test_objects_of_a_cache_are_what_the_others_are() -> None:
    pointers = [(-1 - i, 0, 1 + i, 0) for i in range(3)]
    shared = infer_types(made([(16, 5)], pointers, variables=[HEAD] * 3))
    own = infer_types(made([(16, 5)], pointers, variables=[HEAD] * 3, shared=[False]))
    assert types_of(shared, 5) == [(LEAF, 0)] * 3 + [(-1, 0)] * 2
    assert types_of(own, 5) == [(LEAF, 0)] * 5
    assert own.exact[1:6].all()


def test_what_a_void_pointer_leads_to_is_learned() -> None:
    # Five holders lead to leaves; what four of them lead to is known.
    variables = [VOID] * 5 + [HEAD] * 4
    pointers = [(-1 - i, 0, 1 + i, 0) for i in range(5)]
    pointers += [(-6 - i, 0, 1 + i, 0) for i in range(4)]
    found = infer_types(made([(16, 5)], pointers, variables=variables))
    assert types_of(found, 5) == [(LEAF, 0)] * 5
    assert found.by[5] == TypedBy.LEARNED
    assert not found.exact[5]
    # One that leads to something else, and nothing is learned.
    pointers[0] = (-1, 0, 6, 0)
    mixed = made([(16, 5), (16, 1)], pointers, variables=variables, names=[-1, OTHER],
                 shared=[True, False])  # fmt: skip
    assert types_of(infer_types(mixed), 5)[4] == (-1, 0)


def test_the_shares_of_caches_and_types_add_up() -> None:
    pointers = [(-1, 0, 1, 0), (-2, 0, 2, 0), (-2, 8, 4, 0), (-1, 8, 4, 0)]
    graph = made([(16, 3), (64, 1)], pointers, variables=[HEAD, HEAD], names=[LEAF, -1],
                 shared=[False, True])  # fmt: skip
    shares = type_shares(graph, infer_types(graph))
    assert (shares.objects, shares.bytes) == (4, 112)
    assert (shares.typed_objects, shares.exact_objects) == (4, 4)
    assert [(c.cache, c.objects, c.typed_objects, c.types) for c in shares.caches] == [
        ("cache1", 1, 1, ["struct head"]),
        ("cache0", 3, 3, ["struct leaf"]),
    ]
    assert [(g.type, g.objects, g.bytes, g.votes) for g in shares.groups] == [
        ("struct head", 1, 64, 2),
        ("struct leaf", 3, 48, 2),
    ]
    checked = check_types(graph, infer_types(graph, names=False))
    assert (checked.certain_objects, checked.named_objects, checked.right_objects) == (3, 2, 2)
    assert checked.wrong == []
