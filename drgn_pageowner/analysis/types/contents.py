# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the pointers in nodes with the types that the nodes may have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.types.slots import Slots
from drgn_pageowner.model.arrays import Array, ranges
from drgn_pageowner.model.types import Pointers, WordUse

__all__ = ("Candidates", "evidence")


@dataclass(frozen=True)
class Candidates:
    """Types that nodes may have: columns with one row per node and possible type."""

    node: Array
    """``int64``: number of the node."""
    type: Array
    """``int64``: number of the type."""
    origin: Array
    """``int64``: offset in the node at which the type begins, in bytes."""
    start: Array
    """``int64``: offset in the node of the first byte to compare."""
    end: Array
    """``int64``: offset in the node of the byte after the last one to compare."""
    repeat: bool = False
    """Whether each node is an array of the type, rather than one element."""


def evidence(
    candidates: Candidates,
    pointers: Pointers,
    slots: Slots,
    types: Array,
    origins: Array,
) -> tuple[Array, Array]:
    """
    Count the pointers in nodes that agree with the candidates' types, and those that disagree.

    A pointer in a node agrees if the type has a pointer member at its offset, and if the target of
    the pointer is known to have the target type of the member; or if both are pointers to a
    ``struct page``; or if the pointer points to itself, as the head of an empty list does. It
    disagrees if the type has no pointer at its offset, or one to a type that the target does not
    have. All other pointers are not counted.

    :param types: Type number of each place: ``int32``; -1 if unknown.
    :param origins: Offset in each place at which its type begins, in bytes: ``int32``.
    :return: Number of pointers that agree, and number that disagree, for each candidate:
        ``int64``.
    """
    number = len(candidates.node)
    none = np.zeros(number, np.int64)
    if not number:
        return none, none
    slots.need(candidates.type)
    node = candidates.node
    first, count = pointers.span(node)
    rows, which = ranges(first, count), np.repeat(np.arange(number), count)
    offset = pointers.offset[rows].astype(np.int64)
    chosen = (offset >= candidates.start[which]) & (offset < candidates.end[which])
    rows, which, offset = rows[chosen], which[chosen], offset[chosen]
    inside = offset - candidates.origin[which]
    of = candidates.type[which]
    if candidates.repeat:
        inside = inside % np.maximum(slots.size[of], 1)
    slot = slots.of(of, inside)
    use = np.where(slot >= 0, slots.use[np.maximum(slot, 0)], 0)
    aim = np.where(slot >= 0, slots.aim[np.maximum(slot, 0)], -1).astype(np.int64)
    target, at = pointers.target[rows].astype(np.int64), pointers.at[rows].astype(np.int64)
    to_page, page = at < 0, use & np.uint8(WordUse.MEMMAP) != 0
    bad = (use & np.uint8(WordUse.ADDRESS) == 0) | (page & ~to_page) | ((aim >= 0) & to_page)
    itself = (use & np.uint8(WordUse.LEARN) != 0) & (target == node[which]) & (at == offset)
    # The target of a pointer into the node itself is taken to have the candidate type.
    own = (target == node[which]) & (not candidates.repeat)
    there = np.where(own, of, types[target]).astype(np.int64)
    begins = np.where(own, candidates.origin[which], origins[target]).astype(np.int64)
    agrees, known = _agree(aim, at, there, begins, slots)
    good = ~bad & ((page & to_page) | itself | agrees)
    bad |= known & ~agrees
    return (
        np.bincount(which[good], minlength=number).astype(np.int64),
        np.bincount(which[bad], minlength=number).astype(np.int64),
    )


def _agree(aim: Array, at: Array, type_: Array, origin: Array, slots: Slots) -> tuple[Array, Array]:
    """
    Return whether the target of each pointer has the type *aim*, or a member of this type, at the
    address to which the pointer points; and whether the target's type is known: ``bool``.

    :param aim: Target type of each pointer, according to the type that contains the pointer.
    :param at: Offset in the target to which each pointer points, in bytes.
    :param type_: Known type of the target, or -1.
    :param origin: Offset in the target at which its known type begins, in bytes.
    """
    slots.need(np.unique(type_))
    slots.need(np.unique(aim))
    which = np.maximum(type_, 0)
    known = (aim >= 0) & (at >= 0) & (type_ >= 0) & ~slots.repeat[which]
    known &= ~slots.repeat[np.maximum(aim, 0)]
    known &= (at >= origin) & (at < origin + slots.size[which])
    agrees = np.zeros(len(aim), bool)
    rows = np.flatnonzero(known)
    index, outer, inner = slots.containers(aim[rows])
    same = (type_[rows][index] == outer) & (origin[rows][index] + inner == at[rows][index])
    agrees[rows[index[same]]] = True
    return agrees, known
