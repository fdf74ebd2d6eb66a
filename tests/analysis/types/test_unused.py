# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test unused parts of arrays, in hand-made structures and in a dump."""

from __future__ import annotations

import numpy as np
import pytest
from handtyped import BATCH, BATCHES, CODE, FREED, LEAF, PIPE, made

from drgn_pageowner.analysis.types.exact import ReferenceWords
from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.model.heap import Heap


def counted(heap: Heap) -> list[tuple[int, int]]:
    """Return place and offset of the words that are references; place -1 is the first variable."""
    assert heap.typing is not None
    pointers = heap.typing.pointers
    good = ReferenceWords(heap, infer_types(heap)).counts
    words = np.stack([pointers.place, pointers.offset])[:, good].T.tolist()
    nodes = heap.nodes
    return [(nodes - 1 - place if place >= nodes else place, offset) for place, offset in words]


@pytest.mark.parametrize(("variable", "base"), [(BATCH, 0), (BATCHES, 8)])
@pytest.mark.parametrize("used", range(4))
def test_what_is_beyond_the_count_is_no_reference(variable: int, base: int, used: int) -> None:
    pointers = [(-1, base + 8 * (1 + i), 1 + i, 0) for i in range(3)]
    heap = made([(16, 3)], pointers, variables=[variable], numbers={(-1, base): used})
    assert counted(heap) == [(-1, base + 8 * (1 + i)) for i in range(used)]


@pytest.mark.parametrize("numbers", [{}, {(-1, 0): 4}, {(-1, 0): 1 << 31}])
def test_a_count_that_is_unknown_or_impossible_leaves_all(
    numbers: dict[tuple[int, int], int],
) -> None:
    pointers = [(-1, 8 * (1 + i), 1 + i, 0) for i in range(3)]
    heap = made([(16, 3)], pointers, variables=[BATCH], numbers=numbers)
    assert len(counted(heap)) == 3


@pytest.mark.parametrize(
    ("head", "tail", "used"),
    [(0, 0, []), (3, 1, [1, 2]), (4, 0, [0, 1, 2, 3]), (6, 3, [0, 1, 3]), (1, 2**32 - 1, [0, 3])],
)
def test_a_ring_is_in_use_from_tail_to_head(head: int, tail: int, used: list[int]) -> None:
    # The variable points to object 0, the ring, whose four elements point to the others.
    ring = [(1, 16 * i, 2 + i, 0) for i in range(4)]
    numbers = {(-1, 0): head, (-1, 4): tail}
    heap = made([(64, 1), (16, 4)], [(-1, 8, 1, 0), *ring], variables=[PIPE], numbers=numbers)
    assert counted(heap) == [*((1, 16 * i) for i in used), (-1, 8)]


def test_nothing_is_said_of_a_structure_that_is_not_sure() -> None:
    # One pointer determines the type of the object with the count.
    pointers = [(1, 8 * (1 + i), 2 + i, 0) for i in range(3)]
    heap = made([(32, 1), (16, 3)], pointers, names=[-1, LEAF], numbers={(1, 0): 0})
    assert len(counted(heap)) == 3
    heap = made(
        [(32, 1), (16, 3)], pointers, names=[BATCH, LEAF], shared=[False, False],
        numbers={(1, 0): 0},
    )  # fmt: skip
    assert counted(heap) == []


def test_where_nothing_is_counted_nothing_is_unused() -> None:
    heap = made([(16, 1)], [(-1, 0, 1, 0)], variables=[LEAF])
    found = ReferenceWords(heap, infer_types(heap)).unused
    assert len(found) == 0
    assert not found.has(np.array([1]), np.array([0])).any()


@pytest.mark.parametrize(
    ("function", "counts"),
    [(CODE[0] + 16, True), (CODE[1], False), (0, False), (8, True), (1 << 40, False)],
)
def test_a_link_counts_while_there_is_a_function_to_call(function: int, counts: bool) -> None:
    # An object passed to kfree_rcu(), which stores the offset of the link: 8.
    numbers = {(-1, 16): np.uint64(function).astype(np.int64).item()}
    heap = made([(16, 1)], [(-1, 8, 1, 0)], variables=[FREED], numbers=numbers)
    assert counted(heap) == [(-1, 8)] * counts


def test_a_link_counts_in_an_object_that_is_to_be_freed_itself() -> None:
    pointers = [(1, 8, 2, 0), (1, 16, 1, 0)]
    for rows in (pointers, pointers[:1]):
        heap = made(
            [(32, 1), (16, 1)], rows, names=[FREED, LEAF], shared=[False, False],
            numbers={(1, 16): -(1 << 46)},
        )  # fmt: skip
        assert ((1, 8) in counted(heap)) == (len(rows) == 2)


def test_a_link_that_cannot_be_read_further_counts() -> None:
    heap = made([(16, 1)], [(-1, 8, 1, 0)], variables=[FREED])
    assert counted(heap) == [(-1, 8)]
