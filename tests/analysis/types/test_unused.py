# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parts of arrays that are not in use, of structures made by hand and of a dump."""

from __future__ import annotations

import numpy as np
import pytest
from handtyped import BATCH, BATCHES, LEAF, PIPE, made

from drgn_pageowner.analysis.types.exact import ReferenceWords
from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.model.heap import Heap


def counted(heap: Heap) -> list[tuple[int, int]]:
    """Place and offset of the words that count; -1 is the first variable."""
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
    # One pointer tells the type of the object that has the count.
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
