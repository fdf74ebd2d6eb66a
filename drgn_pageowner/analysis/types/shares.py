# SPDX-License-Identifier: LGPL-2.1-or-later
"""Count slab objects by type and cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Heap
from drgn_pageowner.model.types import HeapTypes, TypedBy

__all__ = (
    "CacheTypes",
    "TypeAccuracy",
    "TypeGroup",
    "TypeShares",
    "check_types",
    "of_type",
    "type_shares",
)


@dataclass(frozen=True)
class TypeGroup:
    """Allocated slab objects of one cache that have the same type."""

    type: str | None
    """``"struct sock"``; ``"struct inode +0x40"`` if the type begins 0x40 bytes into the object;
    ``None`` if unknown."""
    cache: str
    objects: int
    bytes: int
    """``object_size`` of all of them."""
    by: dict[str, int]
    """Evidence for the type: label of :class:`TypedBy` -> number of objects."""
    votes: int
    """Pointers that agree."""
    against: int
    """Pointers that disagree."""
    exact: int
    """Objects whose type is certain."""


@dataclass(frozen=True)
class CacheTypes:
    """The share of a slab cache's allocated objects that have a type."""

    cache: str
    objects: int
    bytes: int
    typed_objects: int
    typed_bytes: int
    exact_objects: int
    contradicted_objects: int
    """Objects that pointers of several, contradicting types refer to."""
    types: list[str]
    """The types with most of its bytes, at most 5."""


@dataclass(frozen=True)
class TypeAccuracy:
    """
    Accuracy of types inferred without the names of caches, checked against the types that the names
    imply.
    """

    certain_objects: int
    """Objects of caches whose name implies the type."""
    named_objects: int
    """Those of them for which a type was inferred."""
    right_objects: int
    """Those whose inferred type is that of the cache, or a member of it at the right offset."""
    wrong: list[tuple[str, str, int]] = field(default_factory=list)
    """Cache, inferred type and number of objects of the others, most first."""


@dataclass(frozen=True)
class TypeShares:
    """All allocated slab objects by type."""

    objects: int
    bytes: int
    typed_objects: int
    typed_bytes: int
    exact_objects: int
    conflicts: int
    """Nodes that have no type because pointers to them disagree."""
    number_of_groups: int
    number_of_caches: int
    caches: list[CacheTypes]
    """Largest first."""
    groups: list[TypeGroup]
    """Largest first."""
    accuracy: TypeAccuracy | None = None


def _objects(heap: Heap) -> tuple[Array, Array, Array]:
    """Return node, cache and size of every allocated slab object: ``int64``."""
    slabs = heap.slabs
    objects = np.flatnonzero(slabs.allocated)
    slab = slabs.slab_of(objects)
    return objects + heap.first_object, slabs.cache[slab].astype(np.int64), slabs.size[slab]


def of_type(types: HeapTypes, number: int, origin: int) -> str:
    """Format the name of a type and the offset at which it begins in an object."""
    name = types.table.layout(number).name
    return f"{name} +{origin:#x}" if origin else name


def type_shares(heap: Heap, types: HeapTypes, *, limit: int | None = None) -> TypeShares:
    """
    Count the allocated slab objects of *heap* by type and cache.

    :param limit: Maximum number of groups, and of caches, to return.
    """
    node, cache, size = _objects(heap)
    type_, origin = types.type[node].astype(np.int64), types.origin[node].astype(np.int64)
    typed, exact = type_ >= 0, types.exact[node]
    names = heap.slabs.caches
    keys = np.stack([cache, type_, np.where(typed, origin, 0)])
    groups, inverse = np.unique(keys, axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    number = groups.shape[1]

    def total(weights: Array) -> Array:
        return np.bincount(inverse, weights, minlength=number).astype(np.int64)

    objects, sizes = np.bincount(inverse, minlength=number), total(size)
    votes, against = total(types.votes[node]), total(types.against[node])
    sure = total(exact)
    by = [total(types.by[node] == kind) for kind in TypedBy]
    every = [
        TypeGroup(
            type=of_type(types, int(groups[1, row]), int(groups[2, row]))
            if groups[1, row] >= 0
            else None,
            cache=names[int(groups[0, row])],
            objects=int(objects[row]),
            bytes=int(sizes[row]),
            by={kind.label: int(by[kind][row]) for kind in TypedBy if by[kind][row]},
            votes=int(votes[row]),
            against=int(against[row]),
            exact=int(sure[row]),
        )
        for row in range(number)
    ]
    every.sort(key=lambda group: (-group.bytes, group.cache, group.type or ""))
    disagree = ~typed & (types.against[node] > 0)
    caches = _caches(names, cache, size, typed, exact, disagree, every)
    return TypeShares(
        objects=len(node),
        bytes=int(size.sum()),
        typed_objects=int(typed.sum()),
        typed_bytes=int(size[typed].sum()),
        exact_objects=int(exact.sum()),
        conflicts=types.conflicts,
        number_of_groups=len(every),
        number_of_caches=len(caches),
        caches=caches[:limit],
        groups=every[:limit],
    )


def _caches(
    names: Sequence[str],
    cache: Array,
    size: Array,
    typed: Array,
    exact: Array,
    disagree: Array,
    groups: list[TypeGroup],
) -> list[CacheTypes]:
    types_of: dict[str, list[str]] = {}
    for group in groups:
        if group.type is not None:
            types_of.setdefault(group.cache, []).append(group.type)
    number = int(cache.max(initial=-1)) + 1

    def total(weights: Array) -> Array:
        return np.bincount(cache, weights, minlength=number).astype(np.int64)

    objects, sizes = np.bincount(cache, minlength=number), total(size)
    typed_objects, typed_bytes = total(typed), total(np.where(typed, size, 0))
    sure, against = total(exact), total(disagree)
    found = []
    for row in np.flatnonzero(objects).tolist():
        name = names[row]
        found.append(
            CacheTypes(
                cache=name,
                objects=int(objects[row]),
                bytes=int(sizes[row]),
                typed_objects=int(typed_objects[row]),
                typed_bytes=int(typed_bytes[row]),
                exact_objects=int(sure[row]),
                contradicted_objects=int(against[row]),
                types=types_of.get(name, [])[:5],
            )
        )
    return sorted(found, key=lambda one: (-one.bytes, one.cache))


def check_types(heap: Heap, types: HeapTypes) -> TypeAccuracy:
    """
    Compare inferred types with the types that the names of caches imply.

    :param types: Inferred without the names of caches.
    """
    node, cache, _ = _objects(heap)
    truth = types.table.cache_types()[cache].astype(np.int64)
    type_, origin = types.type[node].astype(np.int64), types.origin[node].astype(np.int64)
    certain = truth >= 0
    named = certain & (type_ >= 0)
    right = named & (type_ == truth) & (origin == 0)
    keys = np.stack([cache, truth, type_, origin])[:, named & ~right]
    good = int(right.sum())
    wrong: list[tuple[str, str, int]] = []
    for (of, true, found, at), count in _counted(keys):
        if (at, found) in types.table.layout(true).parts:
            good += count
        else:
            wrong.append((heap.slabs.caches[of], of_type(types, found, at), count))
    wrong.sort(key=lambda row: -row[2])
    return TypeAccuracy(int(certain.sum()), int(named.sum()), good, wrong)


def _counted(keys: Array) -> list[tuple[tuple[int, int, int, int], int]]:
    """Return the distinct columns of *keys*, and how often each occurs."""
    if not keys.shape[1]:
        return []
    different, counts = np.unique(keys, axis=1, return_counts=True)
    found = []
    for column, count in zip(different.T.tolist(), counts.tolist(), strict=True):
        of, true, got, at = column
        found.append(((of, true, got, at), count))
    return found
