# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Infer the types of a heap's nodes from the types of the pointers to them.

The members of a typed node determine the types of the nodes that they point to. Each such pointer
is a vote for the type of its target, or against it. This is repeated until nothing changes. No step
runs per object: a round is a few operations on the array of all pointers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.types.contents import Candidates, evidence
from drgn_pageowner.analysis.types.slots import Slots
from drgn_pageowner.model.arrays import (
    Array,
    among,
    begins,
    equals,
    ranges,
    runs,
    slices,
    sparse_zeros,
)
from drgn_pageowner.model.heap import Heap
from drgn_pageowner.model.scratch import large_full
from drgn_pageowner.model.types import HeapTypes, TypedBy, WordUse

__all__ = ("infer_types",)

# _MOST_ROUNDS: maximum number of rounds. _UNSETTLED: after this many rounds, a node that loses its
# type remains without one, because some nodes would gain and lose a type forever.
_MOST_ROUNDS, _UNSETTLED = 40, 6
# A node gets a type if at least this share of the typed pointers to it agree.
_AGREED = 0.9
# All objects of a cache get a type if at least this share of its typed objects, and at least this
# many, have it.
_SAME_CACHE, _FEW = 0.95, 3
# A void * or a link is taken to point to one type if at least this share of its typed targets have
# it.
_LEARNED = 0.98
_AT_LEAST = 4
# If a step after this many steps gives a type to at most this many nodes, these may be elements of
# linked lists. The lists are then followed to their ends, not by one element per step.
_CHAIN = 8
# A type is certain if at least this many pointers in the node agree with it, and none disagrees.
_ENOUGH = 2
# A type that is a member of more types than this (for example struct mutex) is not taken for the
# element of an array: a pointer to it probably points to the first member of another structure.
_MANY_CONTAINERS = 16
# Pointers farther inside a node than this are not used to determine its type.
_FARTHEST = 1 << 18


@dataclass
class _Votes:
    """Votes of pointers for the types of their targets; equal votes are merged."""

    node: Array
    type: Array
    at: Array
    """The offset of the type in the node, in bytes."""
    count: Array

    @classmethod
    def of(cls, node: Array, type_: Array, at: Array) -> _Votes:
        key = (node.astype(np.int64) << 32) | at.astype(np.int64)
        order = np.lexsort((type_, key))
        key, type_, node, at = key[order], type_[order], node[order], at[order]
        first, count = runs(key, type_)
        return cls(node[first].astype(np.int64), type_[first].astype(np.int64),
                   at[first].astype(np.int64), count)  # fmt: skip


class _Inference:
    def __init__(self, heap: Heap, *, names: bool) -> None:
        assert heap.typing is not None
        self.heap, self.typing = heap, heap.typing
        self.pointers = heap.typing.pointers
        self.table = heap.typing.table
        self.slots = Slots(self.table)
        places = heap.nodes + len(heap.typing.variables)
        self.type = large_full(places, -1, np.int32)
        # Most records have no type, and no typed pointer refers to them.
        self.origin = sparse_zeros(places, np.int32)
        self.by = sparse_zeros(places, np.uint8)
        self.votes = sparse_zeros(places, np.int32)
        self.against = sparse_zeros(places, np.int32)
        self.fixed = sparse_zeros(places, np.bool_)
        self.voted = np.zeros(0, np.int64)
        self.learned = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.banned = sparse_zeros(places, np.bool_)
        self.content = sparse_zeros(places, np.int32)
        self.conflicts = 0
        self.room = self._room()
        slabs = heap.slabs
        self.cache_of = np.repeat(slabs.cache, slabs.objects)
        self.shared = self.table.shared_caches()
        self.type[heap.nodes :] = heap.typing.variables.type
        self.by[heap.nodes :] = TypedBy.VARIABLE
        self.fixed[heap.nodes :] = True
        self.named = np.full(len(slabs.caches), -1, np.int32)
        if names:
            self.named = self.table.cache_types()
            self._of_cache_names()

    def _room(self) -> Array:
        """
        Return the size of each node, in bytes: ``int32``; 0 for a root. Larger sizes than fit are
        larger than any type.
        """
        heap = self.heap
        room = large_full(heap.nodes, 0, np.int32)
        most = np.iinfo(np.int32).max
        pointers = self.pointers
        # The records of a vmalloc area are one place, which extends to the last offset that a
        # pointer refers to.
        size = heap.inventory.memory.pages.facts.page_size
        for rows in slices(heap.first_object):
            pages = np.int64(1) << heap.records["order"][rows].astype(np.int64)
            room[rows] = np.minimum(pages * size, most)
        for rows in slices(len(pointers)):
            target, at = pointers.target[rows], pointers.at[rows]
            farther = at >= room[target]
            end = np.minimum(at[farther].astype(np.int64) + 1, most)
            np.maximum.at(room, target[farther], end.astype(np.int32))
        slabs = heap.slabs
        sizes = slabs.size.astype(np.int32)
        room[heap.first_object : heap.first_percpu] = np.repeat(sizes, slabs.objects)
        room[heap.first_percpu : heap.first_root] = heap.percpu.size
        return room

    def _of_cache_names(self) -> None:
        heap = self.heap
        number = self.named[self.cache_of]
        chosen = np.flatnonzero((number >= 0) & heap.slabs.allocated)
        node = chosen + heap.first_object
        self.type[node] = number[chosen]
        self.by[node] = TypedBy.CACHE
        self.fixed[node] = True

    # --- votes --------------------------------------------------------------------------------

    def all_votes(self) -> _Votes:
        """Return the votes of all typed nodes, and set :attr:`slot`."""
        typed = np.flatnonzero(self.type >= 0)
        self.slot, votes = self._votes_of(ranges(*self.pointers.span(typed)))
        return votes

    def _votes_of(self, chosen: Array) -> tuple[tuple[Array, Array], _Votes]:
        """
        Return the votes of some of the pointers, all of which are in typed places.

        :return: Indices of the pointers that are at a word of the type of their place, and the
            index of this word in :attr:`slots`: ``int64``; and the votes.
        """
        pointers = self.pointers
        place = pointers.place[chosen]
        types = self.type[place].astype(np.int64)
        self.slots.need(types)
        offset = pointers.offset[chosen].astype(np.int64)
        offset = np.where(offset >= 0, offset - self.origin[place], -1)
        slot = self.slots.of(types, offset)
        known = slot >= 0
        chosen, place, slot = chosen[known], place[known], slot[known]
        target = pointers.target[chosen]
        aim = self.slots.aim[slot]
        at = pointers.at[chosen].astype(np.int64)
        # A pointer to its own node adds no information.
        good = (aim >= 0) & (at >= 0) & (at < _FARTHEST) & (place != target)
        self.slots.need(aim[good])
        # A pointer to an array of unknown length only says something about its node if it points to
        # the start of the node; otherwise it points to a member.
        good[good] = (at[good] == 0) | ~self.slots.repeat[aim[good]]
        return (chosen, slot), _Votes.of(target[good], aim[good], at[good])

    def spread(self, fresh: Array) -> None:
        """
        Follow the pointers of the newly typed nodes *fresh*, and of nodes that get a type from them
        in turn.
        """
        step = 0
        while len(fresh):
            step += 1
            if step > _CHAIN and len(fresh) <= _CHAIN:
                fresh = np.union1d(fresh, self._along(fresh))
            slot, votes = self._votes_of(ranges(*self.pointers.span(fresh)))
            node, type_, origin, explained, total = self.decide(votes)
            free = (self.type[node] < 0) & ~self.banned[node] & (explained >= _AGREED * total)
            fresh = node[free]
            self.type[fresh], self.origin[fresh] = type_[free], origin[free]
            self.by[fresh] = TypedBy.POINTERS
            fresh = np.union1d(fresh, self._like_siblings(*slot))

    def _along(self, fresh: Array) -> Array:
        """
        Give the type of *fresh* to the untyped elements that follow them in linked lists.

        :return: Nodes that got a type: ``int64``.
        """
        pointers, slots = self.pointers, self.slots
        found = [np.zeros(0, np.int64)]
        self.slots.need(self.type[fresh])
        to_start = np.flatnonzero(pointers.at == 0)
        offset = pointers.offset[to_start]
        for number in np.unique(self.type[fresh]).tolist():
            base, words, size = (int(a[number]) for a in (slots.base, slots.words, slots.size))
            own = np.flatnonzero(slots.aim[base : base + words] == number)
            for word in own[:_CHAIN].tolist() if not slots.repeat[number] else ():
                chosen = to_start[offset == word * self.table.word]
                # Stored plus 1, so that most of the memory is not touched.
                after = sparse_zeros(len(self.type), np.int32)
                after[pointers.place[chosen]] = pointers.target[chosen] + np.int32(1)
                current = fresh[(self.type[fresh] == number) & (self.origin[fresh] == 0)]
                while len(current):
                    current = after[current].astype(np.int64) - 1
                    current = current[current >= 0]
                    free = (self.type[current] < 0) & ~self.banned[current]
                    current = current[free & (self.room[current] >= size)]
                    self.type[current], self.origin[current] = number, 0
                    self.by[current] = TypedBy.POINTERS
                    found.append(current)
        return np.concatenate(found)

    def decide(self, votes: _Votes) -> tuple[Array, Array, Array, Array, Array]:
        """
        Choose the type for each node that is consistent with most votes.

        :return: Nodes, types, offsets of the types in the nodes, number of votes that agree, and of
            all votes.
        """
        votes = self._without_weak(votes)
        index, outer, inner = self.slots.containers(votes.type)
        node, count = votes.node[index], votes.count[index]
        origin = votes.at[index] - inner
        size = np.where(self.slots.repeat[outer], self.table.word, self.slots.size[outer])
        fits = (origin >= 0) & (origin + size <= self.room[node])
        # An array of pointers begins at the start of the node.
        fits &= ~self.slots.repeat[outer] | (origin == 0)
        direct = inner == 0
        direct &= outer == votes.type[index]
        node, outer, origin, count, direct = (
            column[fits] for column in (node, outer, origin, count, direct)
        )
        order = np.lexsort((outer, origin, node))
        node, outer, origin, count, direct = (
            column[order] for column in (node, outer, origin, count, direct)
        )
        first = np.flatnonzero(begins(node, outer, origin))
        if not len(first):
            empty = np.zeros(0, np.int64)
            return empty, empty, empty, empty, empty
        explained = np.add.reduceat(count, first)
        straight = np.add.reduceat(np.where(direct, count, 0), first)
        node, outer, origin = node[first], outer[first], origin[first]
        # Among types that agree with equally many votes, prefer the one that pointers are declared
        # with, then the first and outermost.
        order = np.lexsort((self.slots.size[outer], -origin, straight > 0, explained, node))
        last = np.ones(len(order), bool)
        last[:-1] = node[order][1:] != node[order][:-1]
        best = order[last]
        node, outer, origin = node[best], outer[best], origin[best]
        return node, outer, origin, explained[best], self._about(votes, node, outer, origin)

    def _without_weak(self, votes: _Votes) -> _Votes:
        """
        Leave out the votes of pointers to bytes or numbers for nodes that pointers to structures
        refer to, too.

        For example, a structure that begins with a name is not a string.
        """
        weak = self.slots.scalar[votes.type]
        if not weak.any():
            return votes
        strong = np.unique(votes.node[~weak])
        kept = ~weak | ~np.isin(votes.node, strong)
        return _Votes(votes.node[kept], votes.type[kept], votes.at[kept], votes.count[kept])

    def _about(self, votes: _Votes, node: Array, type_: Array, origin: Array) -> Array:
        """
        Return the numbers of votes that refer to the bytes that each type covers in its node:
        ``int64``.
        """
        # Votes for nodes without a candidate type are left out; nodes are ascending.
        which = np.minimum(np.searchsorted(node, votes.node), len(node) - 1)
        end = origin + self._extent(type_, node)
        about = (node[which] == votes.node) & (votes.at < end[which])
        about &= votes.at + np.maximum(self.slots.size[votes.type], 1) > origin[which]
        return np.bincount(which[about], votes.count[about], len(node)).astype(np.int64)

    def _extent(self, type_: Array, node: Array) -> Array:
        """
        Return the size of each type in its node, in bytes; an array of unknown length extends to
        the end of the node.
        """
        size = np.maximum(self.slots.size[type_], 1)
        result: Array = np.where(self.slots.repeat[type_], self.room[node], size)
        return result

    def settle(self, *, last: bool) -> Array:
        """
        Compare the types of all nodes with all votes, and correct those that disagree.

        :param last: Whether a node that loses its type now remains without one.
        :return: The nodes whose type changed: ``int64``.
        """
        votes = self.all_votes()
        node, type_, origin, explained, total = self.decide(votes)
        agreed = explained >= _AGREED * total
        free = ~self.fixed[node] & ~self.banned[node]
        self.conflicts = int(np.count_nonzero(~agreed & ~self.fixed[node]))
        self.votes[self.voted] = 0
        self.against[self.voted] = 0
        self.voted = node[node < self.heap.nodes]
        self.votes[node], self.against[node] = explained, total - explained
        # Nodes typed by pointers that have no type any more, or that other pointers contradict.
        chosen = free & agreed
        kept = np.zeros(len(self.type), bool)
        kept[node[chosen]] = True
        lost = np.flatnonzero(equals(self.by, TypedBy.POINTERS) & ~kept)
        contradicted = node[free & ~agreed]
        lost = np.union1d(lost, contradicted[self.type[contradicted] >= 0])
        if last:
            self.banned[lost] = True
        self.type[lost] = -1
        self.by[lost] = TypedBy.NOTHING
        node, type_, origin = node[chosen], type_[chosen], origin[chosen]
        changed = (self.type[node] != type_) | (self.origin[node] != origin)
        self.type[node], self.origin[node] = type_, origin
        self.by[node] = TypedBy.POINTERS
        return np.union1d(lost, node[changed])

    def of_fixed(self, votes: _Votes) -> None:
        """Count the votes for and against types that do not come from votes."""
        mine = np.flatnonzero(self.fixed[votes.node])
        node, type_, at, count = (
            column[mine] for column in (votes.node, votes.type, votes.at, votes.count)
        )
        self.votes[np.flatnonzero(self.fixed)] = 0
        self.against[np.flatnonzero(self.fixed)] = 0
        if not len(mine):
            return
        self.slots.need(self.type[node])
        index, outer, inner = self.slots.containers(type_)
        origin = at[index] - inner
        size = np.maximum(self.slots.size[outer], 1)
        origin = np.where(self.slots.repeat[outer], origin % size, origin)
        same = (self.type[node[index]] == outer) & (self.origin[node[index]] == origin)
        agrees = np.zeros(len(mine), bool)
        agrees[index[same]] = True
        np.add.at(self.votes, node[agrees], count[agrees])
        start = self.origin[node]
        end = start + self._extent(self.type[node].astype(np.int64), node)
        about = (at < end) & (at + np.maximum(self.slots.size[type_], 1) > start)
        about &= ~agrees
        np.add.at(self.against, node[about], count[about])

    def consensus(self) -> None:
        """
        Give all objects of a cache the type of its typed objects, if that is the same for nearly
        all of them.
        """
        heap = self.heap
        first, end = heap.first_object, heap.first_percpu
        mine = np.flatnonzero(
            (self.type[first:end] >= 0)
            & equals(self.by[first:end], TypedBy.POINTERS)
            & heap.slabs.allocated
            & ~self.shared[self.cache_of]
        )
        if not len(mine):
            return
        node = mine + first
        cache = self.cache_of[mine].astype(np.int64)
        claim = (cache << 40) | (self.type[node].astype(np.int64) << 18) | self.origin[node]
        claims, counts = np.unique(claim, return_counts=True)
        of = claims >> 40
        total = np.zeros(len(heap.slabs.caches), np.int64)
        np.add.at(total, of, counts)
        good = (counts >= _SAME_CACHE * total[of]) & (counts >= _FEW)
        for number in np.flatnonzero(good).tolist():
            type_, origin = int(claims[number] >> 18) & 0x3FFFFF, int(claims[number]) & 0x3FFFF
            objects = np.flatnonzero((self.cache_of == of[number]) & heap.slabs.allocated)
            nodes = objects + first
            nodes = nodes[~self.fixed[nodes]]
            self.type[nodes], self.origin[nodes] = type_, origin
            self.by[nodes] = TypedBy.CONSENSUS
            self.fixed[nodes] = True

    def learn(self) -> None:
        """
        Find members whose declared type does not give the type of their targets, but whose typed
        targets all have one type, and add them to :attr:`learned`.
        """
        pointers, slots = self.pointers, self.slots
        chosen, slot = self.slot
        typed = slots.use[slot] & np.uint8(WordUse.LEARN) != 0
        chosen, slot = chosen[typed], slot[typed]
        typed = (pointers.at[chosen] >= 0) & (self.type[pointers.target[chosen]] >= 0)
        chosen, slot = chosen[typed], slot[typed]
        node = pointers.target[chosen]
        inside = (pointers.at[chosen] - self.origin[node]).astype(np.int64)
        type_ = self.type[node].astype(np.int64)
        self.slots.need(type_)
        good = (inside >= 0) & (inside < np.minimum(slots.size[type_], _FARTHEST))
        good &= ~slots.repeat[type_]
        key = (slot[good] << 40) | (type_[good] << 18) | inside[good]
        claims, counts = np.unique(key, return_counts=True)
        of = claims >> 40
        total = np.zeros(len(slots.use), np.int64)
        np.add.at(total, of, counts)
        sure = (counts >= _LEARNED * total[of]) & (counts >= _AT_LEAST)
        number = np.full(len(slots.use), -1, np.int64)
        at = np.zeros(len(slots.use), np.int64)
        number[of[sure]] = (claims[sure] >> 18) & 0x3FFFFF
        at[of[sure]] = claims[sure] & (_FARTHEST - 1)
        self.learned = number, at

    def _like_siblings(self, chosen: Array, slot: Array) -> Array:
        """
        Give untyped targets of learned members the type of the other targets of these members.

        :param chosen: Indices of pointers: ``int64``.
        :param slot: Index of the word that each of them is in its type.
        :return: The nodes that have a type now: ``int64``.
        """
        number, at = self.learned
        known = slot < len(number)
        chosen, slot = chosen[known], slot[known]
        node, type_ = self.pointers.target[chosen], number[slot]
        free = (type_ >= 0) & (self.type[node] < 0) & ~self.banned[node]
        free &= self.pointers.at[chosen] == at[slot]
        node, type_ = node[free], type_[free]
        # Only if no typed pointer refers to it.
        alone = (self.votes[node] + self.against[node] == 0) & self._fits(node, type_)
        order = np.lexsort((type_[alone], node[alone]))
        node, type_ = node[alone][order], type_[alone][order]
        if not len(node):
            return np.zeros(0, np.int64)
        first = np.flatnonzero(begins(node))
        same = np.maximum.reduceat(type_, first) == np.minimum.reduceat(type_, first)
        node, type_ = node[first][same], type_[first][same]
        self.type[node], self.origin[node] = type_, 0
        self.by[node] = TypedBy.LEARNED
        result: Array = node.astype(np.int64)
        return result

    def _fits(self, node: Array, type_: Array) -> Array:
        """Return whether each type has a size for which its node's slab cache would be used."""
        size = self.slots.size[np.maximum(type_, 0)]
        first, end = self.heap.first_object, self.heap.first_percpu
        is_object = (node >= first) & (node < end)
        room = self.room[node]
        # Each kmalloc() size class is 1.3 to 2 times as large as the next smaller one.
        result: Array = is_object & (size <= room) & (2 * size > room)
        return result

    def _evidence(self, candidates: Candidates) -> tuple[Array, Array]:
        return evidence(candidates, self.pointers, self.slots, self.type, self.origin)

    def _of_choices(self) -> Array:
        """
        Give types to the targets of pointers in unions. A target gets a type if it is the only one
        of the union's target types that agrees with the pointers inside the target.

        :return: The nodes that got a type: ``int64``.
        """
        pointers = self.pointers
        typed = np.flatnonzero(self.type >= 0)
        (rows, slot), _ = self._votes_of(ranges(*self.pointers.span(typed)))
        words, types = self.slots.choices()
        first, end = (np.searchsorted(words, slot, side) for side in ("left", "right"))
        target = pointers.target[rows]
        free = (self.type[target] < 0) & ~self.banned[target]
        chosen = (end > first) & free & (pointers.at[rows] >= 0)
        rows, first, count = rows[chosen], first[chosen], (end - first)[chosen]
        which, type_ = np.repeat(rows, count), types[ranges(first, count)]
        keys = np.stack([pointers.target[which], type_, pointers.at[which]]).astype(np.int64)
        node, type_, at = np.unique(keys, axis=1)
        self.slots.need(np.unique(type_))
        size = self.slots.size[type_]
        fits = ~self.slots.repeat[type_] & (size > 0) & (at == 0) & self._fits(node, type_)
        node, type_, at, size = node[fits], type_[fits], at[fits], size[fits]
        good, bad = self._evidence(Candidates(node, type_, at, at, at + size))
        agrees = (bad == 0) & (good > 0)
        node, type_, good = node[agrees], type_[agrees], good[agrees]
        _, index, number = np.unique(node, return_index=True, return_counts=True)
        index = index[number == 1]
        node = node[index]
        self.type[node], self.origin[node] = type_[index], 0
        self.by[node] = TypedBy.CONTENT
        self.content[node] = good[index]
        result: Array = node
        return result

    def _arrays(self) -> Array:
        """
        Find the nodes that are larger than their type and are arrays of it: all pointers after the
        first element agree with further elements.

        :return: The nodes whose type was changed to an array: ``int64``.
        """
        by_pointers = np.isin(self.by, (TypedBy.POINTERS, TypedBy.LEARNED))
        node = np.flatnonzero(by_pointers[: self.heap.nodes])
        type_, origin = self.type[node].astype(np.int64), self.origin[node].astype(np.int64)
        self.slots.need(np.unique(type_))
        size, room = self.slots.size[type_], self.room[node]
        fits = ~self.slots.repeat[type_] & (size > 0) & (size % self.table.word == 0)
        fits &= origin + 2 * size <= room
        different, which = np.unique(type_, return_inverse=True)
        index, _, _ = self.slots.containers(different)
        fits &= (np.bincount(index, minlength=len(different)) <= _MANY_CONTAINERS)[which]
        node, type_, origin, size, room = (
            column[fits] for column in (node, type_, origin, size, room)
        )
        end = room - (room - origin) % np.maximum(size, 1)
        good, bad = self._evidence(Candidates(node, type_, origin, origin + size, end, repeat=True))
        chosen = (bad == 0) & (good > 0)
        node, type_ = node[chosen], type_[chosen]
        self.content[node] = good[chosen]
        for number in np.unique(type_).tolist():
            mine = node[type_ == number]
            self.type[mine] = self.table.repeated(number)
        self.slots.need(np.unique(self.type[node]))
        result: Array = node
        return result

    def run(self) -> HeapTypes:
        fresh = np.flatnonzero(self.type >= 0)
        rounds = 0
        for rounds in range(1, _MOST_ROUNDS + 1):
            self.spread(fresh)
            before = self.type.copy()
            changed = self.settle(last=rounds > _UNSETTLED)
            self.consensus()
            if not len(changed) and (before == self.type).all():
                self.learn()
                self._like_siblings(*self.slot)
                if (before == self.type).all():
                    break
            fresh = np.flatnonzero((before != self.type) & (self.type >= 0))
            fresh = np.union1d(fresh, changed[self.type[changed] >= 0])
        self.spread(self._of_choices())
        self.spread(self._arrays())
        votes = self.all_votes()
        self.of_fixed(votes)
        return HeapTypes(
            table=self.table,
            type=self.type,
            origin=self.origin,
            by=self.by,
            votes=self.votes,
            against=self.against,
            exact=self.exact(),
            conflicts=self.conflicts,
            rounds=rounds,
        )

    def exact(self) -> Array:
        """Return which places have a type that is certain: ``bool``."""
        heap = self.heap
        sure = large_full(len(self.type), False, bool)
        sure[heap.nodes :] = True
        # No type is certain in a cache for whose objects pointers often disagree.
        first, end = heap.first_object, heap.first_percpu
        number = len(heap.slabs.caches)
        for_ = np.bincount(self.cache_of, self.votes[first:end], minlength=number)
        against = np.bincount(self.cache_of, self.against[first:end], minlength=number)
        doubtful = against > 0.1 * (for_ + against)
        by_cache = among(self.by[first:end], (TypedBy.CACHE, TypedBy.CONSENSUS))
        sure[first:end] = by_cache & ~doubtful[self.cache_of]
        for rows in slices(len(self.type)):
            others = equals(self.by[rows], TypedBy.POINTERS) & (self.votes[rows] >= 2)
            # A type is also certain if several pointers in the node agree with it.
            others |= self.content[rows] >= _ENOUGH
            sure[rows] |= others & (self.against[rows] == 0)
            sure[rows] &= self.type[rows] >= 0
        # A variable without pointers needs no layout.
        for rows in slices(heap.nodes):
            type_ = self.type[rows]
            self.slots.need(type_)
            sure[rows] &= self.slots.size[np.maximum(type_, 0)] > 0
        return sure


def infer_types(heap: Heap, *, names: bool = True) -> HeapTypes:
    """
    Infer the types of the nodes of *heap*.

    :param heap: A heap that was read with types.
    :param names: Whether to use the types that the names of slab caches imply. The result with them
        is cached in
        :attr:`~drgn_pageowner.model.types.Typing.inferred`.
    """
    assert heap.typing is not None
    if not names:
        return _Inference(heap, names=False).run()
    if heap.typing.inferred is None:
        heap.typing.inferred = _Inference(heap, names=True).run()
    return heap.typing.inferred
