# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test inferring types from pointers, on hand-made graphs."""

from __future__ import annotations

from handtyped import HEAD, LEAF, LEAVES, LISTED, OTHER, OUTER, UNION, VOID, made

from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.analysis.types.shares import check_types, type_shares
from drgn_pageowner.model.types import HeapTypes, TypedBy


def types_of(found: HeapTypes, number: int) -> list[tuple[int, int]]:
    """Return type and offset of the first objects."""
    return [(int(found.type[1 + i]), int(found.origin[1 + i])) for i in range(number)]


def test_types_run_along_a_list_from_a_variable() -> None:
    chain = [(-1, 0, 1, 0), *((1 + i, 8, 2 + i, 0) for i in range(9))]
    found = infer_types(made([(16, 10)], chain, variables=[HEAD]))
    assert types_of(found, 10) == [(LEAF, 0)] * 10
    assert found.votes[1:11].tolist() == [1] * 10
    # One pointer does not make a type certain.
    assert not found.exact[1:11].any()


def test_two_pointers_that_agree_make_a_type_sure() -> None:
    found = infer_types(made([(16, 1)], [(-1, 0, 1, 0), (-2, 0, 1, 0)], variables=[HEAD, HEAD]))
    assert found.exact[1]
    assert found.votes[1] == 2


def test_a_member_s_pointer_tells_what_has_the_member() -> None:
    # One pointer is to a struct outer; others are to a leaf at offset 8.
    pointers = [(-1, 0, 1, 8), (-2, 0, 1, 8), (-3, 0, 1, 0)]
    table = made([(32, 1)], pointers, variables=[HEAD, HEAD, VOID], names=[OUTER], shared=[False])
    found = infer_types(table)
    assert types_of(found, 1) == [(OUTER, 0)]
    assert (found.votes[1], found.against[1], found.by[1]) == (2, 0, TypedBy.CACHE)
    assert types_of(infer_types(table, names=False), 1) == [(LEAF, 8)]


def test_pointers_that_disagree_leave_it_unknown_and_are_counted() -> None:
    # The second word of HEAD points to a struct head, its first to a leaf, at the same address.
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
    # Five holders point to leaves; the type of four of these is known.
    variables = [VOID] * 5 + [HEAD] * 4
    pointers = [(-1 - i, 0, 1 + i, 0) for i in range(5)]
    pointers += [(-6 - i, 0, 1 + i, 0) for i in range(4)]
    found = infer_types(made([(16, 5)], pointers, variables=variables))
    assert types_of(found, 5) == [(LEAF, 0)] * 5
    assert found.by[5] == TypedBy.LEARNED
    assert not found.exact[5]
    # If one points to another type, nothing is learned.
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


def test_what_is_in_it_tells_which_type_of_a_union_it_has() -> None:
    # An empty list: both words point to the head itself, which does not agree with a leaf or an
    # other.
    lists = [(1, 0, 1, 0), (1, 8, 1, 0)]
    found = infer_types(made([(16, 1)], [(-1, 0, 1, 0), *lists], variables=[UNION]))
    assert types_of(found, 1) == [(LISTED, 0)]
    assert found.by[1] == TypedBy.CONTENT
    # A leaf: its second word points to a leaf, which does not agree with the other types.
    chain = [(-1, 0, 1, 0), (1, 8, 2, 0), (-2, 0, 2, 0)]
    found = infer_types(made([(16, 2)], chain, variables=[UNION, HEAD]))
    assert types_of(found, 2) == [(LEAF, 0), (LEAF, 0)]
    # The object contains no pointers.
    found = infer_types(made([(16, 1)], [(-1, 0, 1, 0)], variables=[UNION]))
    assert types_of(found, 1) == [(-1, 0)]


def test_pointers_behind_the_first_element_tell_an_array() -> None:
    first, last = (-1, 0, 1, 0), (-2, 0, 2, 0)
    elements = [(1, 8 + 16 * i, 2, 0) for i in range(1, 4)]
    heap = made([(64, 1), (16, 1)], [first, last, *elements], variables=[HEAD, HEAD])
    found = infer_types(heap)
    assert types_of(found, 2) == [(LEAVES, 0), (LEAF, 0)]
    assert found.exact[1]
    # The first word is a pointer, which does not agree with a leaf.
    heap = made([(64, 1), (16, 1)], [first, last, *elements, (1, 32, 2, 0)], variables=[HEAD] * 2)
    assert types_of(infer_types(heap), 1) == [(LEAF, 0)]
    # Without pointers after the first element, the type of the rest is unknown.
    heap = made([(64, 1), (16, 1)], [first, last, (1, 8, 2, 0)], variables=[HEAD, HEAD])
    assert types_of(infer_types(heap), 1) == [(LEAF, 0)]
