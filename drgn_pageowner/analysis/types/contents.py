# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare what is in nodes with types that these may have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.types.slots import Slots
from drgn_pageowner.model.arrays import Array, ranges
from drgn_pageowner.model.types import Pointers, WordUse

__all__ = ("Candidates", "evidence")


@dataclass(frozen=True)
class Candidates:
    """Types that nodes may have: columns of one row per node and type."""

    node: Array
    """``int64``"""
    type: Array
    """``int64``"""
    origin: Array
    """``int64``: offset in the node at which the type begins, in bytes."""
    start: Array
    """``int64``: offset in the node of the first byte to compare; *end* is that after the last."""
    end: Array
    repeat: bool = False
    """Whether each is an array of the type."""


def evidence(
    candidates: Candidates,
    pointers: Pointers,
    first: Array,
    slots: Slots,
    types: Array,
    origins: Array,
) -> tuple[Array, Array]:
    """
    Count the pointers in nodes that agree with types, and those that do not.

    A pointer agrees if the type has a pointer there, to what is known to have the type that it
    points to, to a ``struct page`` if it is one to that, or, as the head of an empty list, to
    itself. It disagrees if the type has no pointer there, or one to another type. Other pointers
    tell nothing.

    :param first: ``int64``: index of the first pointer of each place, and of the end.
    :param types: Type of each place, as far as it is known: ``int32``; -1 if unknown.
    :param origins: Offset at which it begins in the place, in bytes: ``int32``.
    :return: Two columns, a row per candidate: ``int64``.
    """
    number = len(candidates.node)
    none = np.zeros(number, np.int64)
    if not number:
        return none, none
    slots.need(candidates.type)
    node = candidates.node
    count = first[node + 1] - first[node]
    rows, which = ranges(first[node], count), np.repeat(np.arange(number), count)
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
    # What a node has of pointers to itself is compared with the type that it may have.
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
    Return whether pointers to *aim* lead to what has this type or such a member, and whether the
    type of what is there is known: ``bool``.

    :param at: Offset in the target that each pointer leads to, in bytes.
    :param type_: Type of the target, or -1.
    :param origin: Offset at which that begins in the target.
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
