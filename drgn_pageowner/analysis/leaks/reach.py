# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find what nothing can reach: mark a :class:`~drgn_pageowner.model.heap.Heap` from its roots.

The records of an allocation that was split by one call (``alloc_pages_exact()``, ``vmalloc()``) are
merged into one node, that of the first record. A node that is not marked cannot be reached from any
root.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np

from drgn_pageowner.analysis.account.page_class import (
    UNACCOUNTED,
    PageClass,
    classes_of_stacks,
    page_classes,
)
from drgn_pageowner.analysis.leaks.split import merge_split
from drgn_pageowner.analysis.leaks.unrecorded import followers, known_by_holder, pages_behind
from drgn_pageowner.analysis.owners.allocator import plain_name
from drgn_pageowner.analysis.owners.stack_table import StackTable, with_stacks
from drgn_pageowner.analysis.types.exact import ReferenceWords, find_references
from drgn_pageowner.model.arrays import (
    Array,
    Groups,
    Growing,
    among,
    ascending,
    begins,
    equals,
    give_back,
    looked_up,
    packed_pairs,
    places_of,
    ranges,
    slices,
    sparse_zeros,
    unpacked_pairs,
)
from drgn_pageowner.model.heap import Evidence, Heap, Reachability, Role
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.later import release
from drgn_pageowner.model.pages import PageState
from drgn_pageowner.model.scratch import large_empty, large_full
from drgn_pageowner.model.threads import from_threads, in_threads

__all__ = ("Graph", "Reach", "reach")

R = TypeVar("R")


# Function that allocates memory to which the kernel itself drops the pointer when it crashes:
# crash_save_vmcoreinfo() goes on with a copy in the crash kernel's memory.
_FORGOTTEN_AT_CRASH = "crash_save_vmcoreinfo_init"


# Functions that allocate the requests of block devices. Their lists of pages mirror those of their
# bios and remain when a request is done, so they do not keep pages allocated.
_MIRRORS = re.compile(r"blk_mq_alloc_(map_and_)?r\w+")


# Functions that allocate a module's memory, and their callers in kernel/module/main.c. Part of it
# remains when a module is unloaded while its allocation tags still count memory.
_MODULE_MEMORY = re.compile(r"(execmem|module)_(memory_)?alloc(_rw)?|move_module")
_MODULE_LOADERS = re.compile(r"module_memory_alloc|move_module|layout_and_allocate|load_module")


# Prior probability that a word equals a PFN by chance, and its weight in pages. On the bundled
# guests it is 0.001 to 0.04 for PFNs from 16,384 on, where most pages are.
_USUAL, _FEWEST = 0.02, 20
# Marking follows a long list one node at a time. NumPy takes as long for one node as for a hundred,
# so for at most this many nodes, with at most this many edges, Python's own loops are faster.
_FEW_NODES, _FEW_EDGES = 16, 256
# Number of nodes whose edges are counted together; one by one if there are more edges for each.
_COUNTED, _CROWDED = 1 << 18, 4
# For more PFNs than this, the probability is not computed: more than 1.5 times the expected number
# of hits counts as unlikely, anything less as likely.
_MANY = 60
# The significance level: hits that are less likely than this are taken for references.
_UNLIKELY = 0.05


class Graph:
    """Edges, grouped by their source node."""

    def __init__(self, source: Array, target: Array, nodes: int) -> None:
        """
        Sort edges by their source node.

        :param source: ``int32``, shape ``(edges,)``.
        :param target: The same.
        """
        if len(source) and (source[1:] < source[:-1]).any():
            order = np.argsort(source, kind="stable")
            source, target = source[order], target[order]
        self._target = target
        width = np.int32 if len(source) < np.iinfo(np.int32).max else np.int64
        self._first = large_full(nodes + 1, 0, width)

        def count(rows: slice) -> None:
            # The edges are in the order of their sources.
            low, high = places_of(source, [rows.start, rows.stop])
            length, first = rows.stop - rows.start, self._first[rows.start + 1 : rows.stop + 1]
            if high - low > _CROWDED * length:
                # A root may have millions.
                first[:] = places_of(source, np.arange(rows.start, rows.stop), "right")
                return
            number = np.bincount(source[low:high] - rows.start, minlength=length)
            np.cumsum(number, out=number)
            number += low
            first[:] = number

        in_threads(count, slices(nodes, _COUNTED))

    def neighbours(self, nodes: Array) -> tuple[Array, Array]:
        """
        Return all edges that begin at *nodes*.

        :return: The nodes where each edge begins and ends: ``int64``, ``int32``.
        """
        first = self._first[nodes].astype(np.int64)
        counts = self._first[nodes + 1] - first
        return np.repeat(nodes, counts), self._target[ranges(first, counts)]

    def few_edges(self, nodes: list[int]) -> list[tuple[int, list[int]]] | None:
        """
        Return each of *nodes* with the nodes where its edges end, beginning with the last one;
        ``None`` if there are no nodes, or if these are so many that NumPy is faster.
        """
        if not 0 < len(nodes) <= _FEW_NODES:
            return None
        first, target = self._first.data, self._target.data
        left, found = _FEW_EDGES, []
        for node in reversed(nodes):
            start, end = first[node], first[node + 1]
            left -= end - start
            if left < 0:
                return None
            found.append((node, target[start:end].tolist()))
        return found

    def from_last(self, nodes: Array) -> Iterator[tuple[Array, Array]]:
        """
        Yield the result of :meth:`neighbours` piece by piece, beginning with the last edges.
        """
        # Nearly all nodes may be reached in one step.
        for rows in reversed(list(slices(len(nodes)))):
            yield from self._from_last(nodes[rows])

    def _from_last(self, nodes: Array) -> Iterator[tuple[Array, Array]]:
        first = self._first[nodes].astype(np.int64)
        counts = self._first[nodes + 1] - first
        ends = np.cumsum(counts)
        for piece in reversed(list(slices(int(counts.sum())))):
            low, high = np.searchsorted(ends, [piece.start, piece.stop - 1], "right").tolist()
            inside = slice(low, high + 1)
            start, number = first[inside].copy(), counts[inside].copy()
            number[-1] -= ends[high] - piece.stop
            skipped = piece.start - (ends[low] - counts[low])
            start[0] += skipped
            number[0] -= skipped
            yield np.repeat(nodes[inside], number), self._target[ranges(start, number)]


@dataclass
class Reach:
    """
    The marked graph. Nodes have the same numbers as in the heap; an allocation has that of its
    first record.
    """

    heap: Heap
    allocation: Array
    """``int32``, a row per record: the node of its allocation."""
    role: Array
    """``uint8``, a row per record: :class:`Role`."""
    parent: Array
    """``int32``, a row per node: the node that it was first reached from; the node itself for a
    root, -1 if unreachable."""
    verdict: Array
    """``uint8``, a row per node: :class:`Reachability`; for a record that is not the first of
    its allocation, the verdict of the allocation."""
    classes: Array
    """``uint8``, a row per page: :class:`~drgn_pageowner.analysis.account.page_class.PageClass`."""
    number_chance: list[float]
    """Probability that some word equals a PFN by chance; element *k* is for PFNs from ``2^k``
    on."""
    references: ReferenceWords | None
    """The words that can be references; ``None`` for a heap that was read without types."""
    edges: tuple[Array, Array]
    """Source and target nodes of the edges used for marking: ``int32``."""
    evidence: Array
    """``uint8``, a row per node: :class:`Evidence`."""
    _without: dict[tuple[int, ...], Array] = field(default_factory=dict, repr=False)

    def chain(self, node: int) -> list[int]:
        """Return the shortest path of nodes from a root to *node*, which must be reachable."""
        return _path(self.parent, node)

    def chain_around(self, node: int, roots: Sequence[int]) -> list[int]:
        """
        Return the shortest path of nodes to *node* that does not begin at one of *roots*, nor at
        *node* itself; empty if there is none.

        A path whose last step begins in allocated memory is preferred to one that begins in a root,
        because a root that points to a page of a file usually is a per-CPU batch of pages that will
        be added to a list.
        """
        source, target = self.edges
        parent = self._parents_without(tuple(roots))
        holders = source[(target == node) & (source != node)]
        paths = [_path(parent, holder) for holder in holders[parent[holders] >= 0].tolist()]
        paths = [path for path in paths if node not in path]
        if not paths:
            return []
        best = min(paths, key=lambda path: (path[-1] >= self.heap.first_root, len(path)))
        return [*best, node]

    def _parents_without(self, without: tuple[int, ...]) -> Array:
        """Mark the graph again without the roots *without*, and return :attr:`parent` of that
        marking."""
        found = self._without.get(without)
        if found is None:
            found = np.full(self.heap.nodes, -1, np.int32)
            every = np.flatnonzero(self.parent == np.arange(self.heap.nodes))
            roots = every[~np.isin(every, without)].astype(np.int32)
            found[roots] = roots
            kept = ~np.isin(self.edges[0], without)
            graph = Graph(self.edges[0][kept], self.edges[1][kept], self.heap.nodes)
            _mark(graph, roots, found)
            self._without[without] = found
        return found

    def shortest(self, node: int, limit: int) -> Iterator[list[int]]:
        """
        Yield every path of nodes from a root to *node* that is as short as :meth:`chain`.

        :param limit: Maximum number of paths.
        """
        source, target = self.edges
        layers = [np.array([node])]
        for _ in self.chain(node)[1:]:
            # Nodes from which the next layer is one step away.
            inside = np.isin(target, layers[-1]) & (self.parent[source] >= 0)
            layers.append(np.unique(source[inside]))
        before: list[dict[int, list[int]]] = []
        for there, here in pairwise(layers):
            chosen = np.isin(target, there) & np.isin(source, here)
            pairs = np.unique(np.stack([target[chosen], source[chosen]]), axis=1)
            step: dict[int, list[int]] = {}
            for to, of in pairs.T.tolist():
                step.setdefault(to, []).append(of)
            before.append(step)
        yield from itertools.islice(self._paths([node], before), limit)

    def _paths(self, path: list[int], before: list[dict[int, list[int]]]) -> Iterator[list[int]]:
        if len(path) > len(before):
            # Only a root is its own parent.
            if self.parent[path[-1]] == path[-1]:
                yield path[::-1]
            return
        for of in before[len(path) - 1].get(path[-1], ()):
            yield from self._paths([*path, of], before)


def _path(parent: Array, node: int) -> list[int]:
    """Return the path from a root to *node* along *parent*."""
    result = [node]
    while parent[result[-1]] not in (result[-1], -1):
        result.append(int(parent[result[-1]]))
    return result[::-1]


def reach(heap: Heap, classes: Array | None = None) -> Reach:
    """
    Mark *heap* from its roots, and classify the nodes that are not reached.

    :param classes: The result of :func:`~drgn_pageowner.analysis.account.page_class.page_classes`,
        if already known.
    """
    return _marked(heap, page_classes(heap.inventory) if classes is None else classes)


@kept
def _marked(heap: Heap, classes: Array) -> Reach:
    def referred() -> ReferenceWords | None:
        # Times of many records take much memory. Now only those of what is lost are needed; the
        # process that finds allocations has a copy, or is this one and has done so.
        release(heap.records.columns)
        return find_references(heap)

    node = large_empty(heap.nodes, np.int32)

    def fill(rows: slice) -> None:
        node[rows] = np.arange(rows.start, rows.stop, dtype=np.int32)

    in_threads(fill, slices(len(node)))
    # Both take about as long. The types are kept, so this process infers them.
    references, (allocation, roles) = heap.at_once(
        [referred, lambda: (_allocations(heap), _roles(heap, classes))]
    )
    node[: len(heap.records)] = allocation
    del allocation
    found = _reach(heap, classes, node, references, roles)
    if not heap.recorded:
        behind = pages_behind(found)
        if behind.any():
            number = np.cumsum(~behind) - 1
            first = np.flatnonzero(~behind)[number]
            node[: len(heap.records)] = found.allocation[first]
            found = _reach(heap, classes, node, references, _roles(heap, classes))
    return found


def _reach(
    heap: Heap,
    classes: Array,
    node: Array,
    references: ReferenceWords | None,
    roles: tuple[Array, Array, Array],
) -> Reach:
    """
    :param node: The node of the allocation of each node: ``int32``.
    :param references: The words that can be references; ``None`` if all can be.
    :param roles: The result of :func:`_roles`.
    """
    role, mirrors, left = roles
    allocation = node[: len(heap.records)]
    weak = large_full(heap.nodes, False, bool)
    weak[node[heap.bookkeeping]] = True
    # The memory of loaded modules is a root, so these are remains of unloaded modules. Tags of
    # pages and objects refer to them; their contents do not keep anything allocated.
    role[left] = Role.ACCOUNTED
    mirrors, left = (_of_nodes(heap, records) for records in (mirrors, left))
    told = ~mirrors[node[heap.pfn_holder]]
    source, target, own = _followed(heap, references, node, weak | left, mirrors)
    # Marking needs most memory.
    del left, mirrors
    give_back()
    forward = Graph(source, target, heap.nodes)
    parent = large_full(heap.nodes, -1, np.int32)
    roots = np.concatenate(
        [
            np.arange(heap.first_root, heap.nodes, dtype=np.int32),
            ascending(allocation[equals(role, Role.ROOT)]),
        ]
    )
    parent[roots] = roots
    _mark(forward, roots, parent)
    verdict = large_full(heap.nodes, 0, np.uint8)
    lost = parent < 0
    lost[weak] = False
    held = ascending(allocation[equals(role, Role.ACCOUNTED)])
    lost[held] = False
    # A record that is not the first of its allocation is not a node.
    for rows in slices(len(heap.records)):
        lost[rows] &= allocation[rows] == np.arange(rows.start, rows.stop, dtype=np.int32)
    chance, known = _known_by_number(heap, node, lost, parent, role, references, told)
    by_number = _closure(forward, known, lost)
    verdict[by_number] = Reachability.PFN_ONLY
    lost[by_number] = False
    _judge(source, target, own, lost, verdict)
    verdict[: len(heap.records)] = looked_up(verdict, allocation)
    del forward
    give_back()
    evidence = _evidence(heap, references, node, weak, roots, lost)
    evidence[: len(heap.records)] = looked_up(evidence, allocation)
    edges = source, target
    return Reach(
        heap, allocation, role, parent, verdict, classes, chance, references, edges, evidence
    )


def _followed(
    heap: Heap, references: ReferenceWords | None, node: Array, ignored: Array, mirrors: Array
) -> tuple[Array, Array, Array]:
    """
    Find the edges that marking follows.

    :param node: The node of the allocation of each node.
    :param ignored: Nodes whose edges are not followed: ``bool``.
    :param mirrors: Nodes whose edges to records are not followed: ``bool``.
    :return: Source and target nodes of edges between different nodes: ``int32``, in the order of
        their sources; and whether each node refers to itself: ``bool``.
    """
    own = large_full(heap.nodes, False, bool)

    def follow(source: Array, target: Array) -> Array:
        source, target = node[source], node[target]
        same = source == target
        # Threads write the same value.
        own[source[same]] = True
        good = ~(same | ignored[source] | (mirrors[source] & (target < heap.first_object)))
        return packed_pairs(source[good], target[good])

    def untyped(rows: slice) -> Array:
        return follow(heap.holder[rows], heap.target[rows])

    found = Growing(np.uint64)
    for pairs in from_threads(untyped, slices(len(heap.holder))):
        found.add(pairs)
    if references is not None:
        for pairs in _of_typed_edges(heap, references.counts, follow):
            found.add(pairs)
    pairs = found.take()
    pairs.sort()
    source, target = unpacked_pairs(pairs)
    return source, target, own


def _of_typed_edges(
    heap: Heap, chosen: Array, work: Callable[[Array, Array], R], *, other: bool = False
) -> Iterator[R]:
    """
    Yield the results of *work* for the source and target nodes of some typed pointers after others
    (``int32``). It is called in several threads.

    :param chosen: The pointers: ``bool``, a row per pointer.
    :param other: The pointers that are not chosen.
    """

    def look_at(rows: slice) -> R:
        pointers = np.flatnonzero(chosen[rows] != other) + rows.start
        return work(*heap.typed_edges(pointers))

    return from_threads(look_at, slices(len(chosen)))


def _evidence(
    heap: Heap,
    references: ReferenceWords | None,
    node: Array,
    weak: Array,
    roots: Array,
    lost: Array,
) -> Array:
    """Return the evidence for the verdict of each node: :class:`Evidence`, a row per node."""
    if references is None:
        return np.zeros(heap.nodes, np.uint8)
    result = large_full(heap.nodes, Evidence.WORDS, np.uint8)

    def certain(source: Array, target: Array) -> Array:
        source, target = node[source], node[target]
        good = (source != target) & ~weak[source]
        return packed_pairs(source[good], target[good])

    def mark_none(_: Array, target: Array) -> None:
        none = node[target]
        result[none[lost[none]]] = Evidence.TYPES

    found = Growing(np.uint64)
    for pairs in _of_typed_edges(heap, references.exact, certain):
        found.add(pairs)
    pairs = found.take()
    pairs.sort()
    parent = large_full(heap.nodes, -1, np.int32)
    parent[roots] = roots
    _mark(Graph(*unpacked_pairs(pairs), heap.nodes), roots, parent)
    result[parent >= 0] = Evidence.TYPES
    del pairs, parent
    deque(_of_typed_edges(heap, references.counts, mark_none, other=True), maxlen=0)
    return result


def _allocations(heap: Heap) -> Array:
    """Return the first record of the allocation of every record: ``int32``."""
    records = heap.records
    number = merge_split(records, followers(heap))
    # Numbers ascend, without gaps.
    result = looked_up(np.flatnonzero(begins(number)).astype(np.int32), number)
    areas = heap.inventory.areas
    if not len(result) or not areas:
        return result
    area = np.repeat(np.arange(len(areas)), [len(area.rows) for area in areas])
    rows = np.concatenate([area.rows for area in areas])
    record = np.where(rows >= 0, heap.inventory.record_of_row[rows], -1)
    pairs = np.unique(area[record >= 0] * np.int64(len(records)) + result[record[record >= 0]])
    joined = _joined(pairs // len(records), pairs % len(records), len(areas), len(records))
    heads: Array = joined[result]
    return heads


def _joined(area: Array, head: Array, areas: int, heads: int) -> Array:
    """
    Merge all allocations that one area maps into one, represented by the lowest of their heads.

    :param area: ``int64``, shape ``(n,)``: number of an area that maps an allocation.
    :param head: ``int64``, shape ``(n,)``: the head of that allocation.
    :return: ``int32``, shape ``(heads,)``: for each head, the head of the merged allocation.
    """
    result = np.arange(heads, dtype=np.int32)
    while True:
        lowest = np.full(areas, heads, np.int32)
        np.minimum.at(lowest, area, result[head])
        if (result[head] == lowest[area]).all():
            return result
        np.minimum.at(result, head, lowest[area])
        # Heads that were merged before get the head of their head.
        result = result[result]


def _roles(heap: Heap, classes: Array) -> tuple[Array, Array, Array]:
    """
    Return the :class:`Role` of each record: ``uint8``; and the candidates that are made by
    functions of :data:`_MIRRORS`, and those that are memory of modules, of which there are few:
    ``int64``.
    """
    pages, records = heap.inventory.memory.pages, heap.records
    kind = np.empty(len(records), np.uint8)
    role = large_full(len(records), Role.ACCOUNTED, np.uint8)
    for part in slices(len(records)):
        rows = np.maximum(pages.rows(records["pfn"][part]), 0)
        kind[part] = classes[rows]
        role[part][among(kind[part], UNACCOUNTED)] = Role.CANDIDATE
        # A driver refers to its migratable pages by numbers or through their tail pages. On kernels
        # without page types for them, these are pages of zsmalloc and balloons.
        state = pages.state[rows]
        role[part][among(state, (PageState.NOREF, PageState.DRIVER_MOVABLE))] = Role.ACCOUNTED
    candidates = equals(role, Role.CANDIDATE)
    forgotten, early, mirrors, left = with_stacks(
        records, candidates, [_is_forgotten, _is_early, _is_mirror, _is_module_memory]
    )
    role[forgotten] = Role.ACCOUNTED
    role[early] = Role.ROOT
    role[among(kind, (PageClass.BOOT, PageClass.PERCPU, PageClass.MODULE))] = Role.ROOT

    def mark_users(rows: slice) -> None:
        # Page tables keep pages that are mapped into a process. (A page type is a negative
        # mapcount.)
        mapped = (pages["mapcount"][rows] >= 0) & equals(pages.state[rows], PageState.KERNEL)
        users = heap.inventory.record_of_row[rows][mapped]
        users = users[users >= 0]
        # Threads write the same value.
        role[users[equals(role[users], Role.CANDIDATE)]] = Role.ROOT

    in_threads(mark_users, slices(len(pages)))
    # Records that are not candidates may have the same stack.
    candidates = equals(role, Role.CANDIDATE)
    return role, np.flatnonzero(mirrors & candidates), np.flatnonzero(left & candidates)


def _of_nodes(heap: Heap, nodes: Array) -> Array:
    """Return which nodes are among *nodes*: ``bool``, a row per node."""
    result = sparse_zeros(heap.nodes, np.bool_)
    result[nodes] = True
    return result


def _is_forgotten(table: StackTable) -> Array:
    return table.any(table.marks(lambda frame: frame.name == _FORGOTTEN_AT_CRASH))


def _is_early(table: StackTable) -> Array:
    result: Array = classes_of_stacks(table) == PageClass.BOOT
    return result


def _is_mirror(table: StackTable) -> Array:
    return table.any(table.marks(lambda frame: _MIRRORS.match(frame.name or "") is not None))


def _is_module_memory(table: StackTable) -> Array:
    def named(pattern: re.Pattern[str]) -> Array:
        return table.marks(lambda f: pattern.fullmatch(plain_name(f.name or "")) is not None)

    # Find a frame of one function whose caller is a frame of the other.
    inner, outer = named(_MODULE_MEMORY), named(_MODULE_LOADERS)
    called = np.append(outer[1:], False)
    called[table.ends[table.ends > table.starts] - 1] = False
    return table.any(inner & called)


def _mark(graph: Graph, frontier: Array, parent: Array) -> None:
    """
    Set, in place, *parent* of every node that *frontier* reaches and that has none (-1) yet.

    The search is breadth first, so that parents form shortest paths.
    """
    while len(frontier):
        frontier = _mark_list(graph, frontier, parent)
        reached = [frontier[:0]]
        # The parent is the last of the nodes that a node is reached from.
        for source, target in graph.from_last(frontier):
            fresh = parent[target] < 0
            source, target = source[fresh], target[fresh]
            parent[target] = source
            reached.append(ascending(target))
        # The frontier may be nearly all nodes, and is not needed twice.
        frontier = np.concatenate(reached)
        del reached
        frontier = ascending(frontier)


def _mark_list(graph: Graph, frontier: Array, parent: Array) -> Array:
    """Do what :func:`_mark` does while *frontier* is small; return the first one that is not."""
    if len(frontier) > _FEW_NODES:
        return frontier
    marked = parent.data
    nodes: list[int] = frontier.tolist()
    while (edges := graph.few_edges(nodes)) is not None:
        reached = []
        for node, targets in edges:
            for target in targets:
                if marked[target] < 0:
                    marked[target] = node
                    reached.append(target)
        nodes = sorted(reached)
    return np.array(nodes, np.int32)


def _closure(graph: Graph, start: Array, within: Array) -> Array:
    """Return every node of *within* that is in *start* or can be reached from there."""
    # Few nodes are lost.
    parent = sparse_zeros(len(within), np.int32)
    parent[within] = -1
    parent[start] = start
    _mark(graph, start, parent)
    return np.flatnonzero(within & (parent >= 0))


def _known_by_number(
    heap: Heap,
    node: Array,
    lost: Array,
    parent: Array,
    role: Array,
    references: ReferenceWords | None,
    told: Array,
) -> tuple[list[float], Array]:
    """
    Find lost allocations whose PFN or physical address is stored in reachable memory.

    A word can equal a PFN by chance. The frequency is measured on reachable pages, whose PFNs need
    not be stored anywhere; lost allocations of one stack count only if their PFNs occur more often
    than that.

    :param told: Whether each word of :attr:`Heap.pfn_holder` may be a reference: ``bool``.
    :return: :attr:`Reach.number_chance`, and the nodes that were found.
    """
    source, target = node[heap.pfn_holder], node[heap.pfn_target]
    # Code that stores a PFN stores the first one of an allocation.
    told = told & (heap.pfn_target == target) & (parent[source] >= 0) & ~_identifiers(heap)
    if references is not None:
        told &= references.numbers
    known = ascending(target[told & lost[target]])
    records = heap.records
    size = np.empty(len(records), np.uint8)

    hit = np.zeros(len(records), bool)
    hit[heap.pfn_target[told]] = True

    def count(rows: slice) -> tuple[Array, Array]:
        size[rows] = np.log2(np.maximum(records["pfn"][rows], 1))
        held = equals(role[rows], Role.CANDIDATE) & (parent[rows] >= 0)
        numbers = (np.bincount(size[rows][some], minlength=64) for some in (held, held & hit[rows]))
        return next(numbers), next(numbers)

    of_size, hits = np.zeros(64, np.int64), np.zeros(64, np.int64)
    for more, more_hits in in_threads(count, slices(len(records))):
        of_size += more
        hits += more_hits
    largest = int(size.max(initial=0)) + 1
    of_size, hits = of_size[:largest], hits[:largest]
    chance = (hits + _FEWEST * _USUAL) / (of_size + _FEWEST)
    named = np.zeros(len(records), bool)
    named[known] = True
    all_lost = np.flatnonzero(lost[: len(records)])
    chosen = []
    stacks = Groups.of(records.stack_of(all_lost))
    hits = stacks.sums(named[all_lost])
    often = 2 * hits > stacks.counts
    if not heap.recorded:
        # Leave out allocations without a stack: the number of chance hits is only judged per stack.
        often &= stacks.values >= 0
        alone = np.flatnonzero(named)
        alone = alone[records.stack_of(alone) < 0]
        holders, pages = source[told], target[told]
        chosen.append(known_by_holder(alone, holders, pages, chance[size], heap.first_root))
    for number in np.flatnonzero(often).tolist():
        every = all_lost[stacks.rows(number)]
        if _at_least(int(hits[number]), chance[size[every]]) < _UNLIKELY:
            chosen.append(every[named[every]])
    return chance.tolist(), np.concatenate([np.zeros(0, np.int32), *chosen])


def _at_least(number: int, chances: Array) -> float:
    """Return the probability that *number* or more of the events with *chances* happen."""
    if len(chances) > _MANY:
        return 0.0 if number > 1.5 * chances.sum() else 1.0
    # Element i is the probability that i of the events so far happen.
    likely = np.ones(1)
    for chance in chances.tolist():
        likely = np.append(likely * (1 - chance), 0) + np.append(0, likely * chance)
    return float(likely[number:].sum())


def _identifiers(heap: Heap) -> Array:
    """
    Find PFN-like words that are object identifiers, not page references: ``bool``, a row per word.

    If a member of a structure contains PFNs, nearly all objects of that type have a PFN there, and
    each object a different one. In contrast, inode numbers equal PFNs in some objects only, and a
    limit equals the same PFN in all objects.
    """
    slabs = heap.slabs
    result = np.zeros(len(heap.pfn_holder), bool)
    in_slab = np.flatnonzero(heap.pfn_offset >= 0)
    if not len(in_slab):
        return result
    cache = slabs.cache[slabs.slab_of(heap.pfn_holder[in_slab] - heap.first_object)]
    own = np.array(["kmalloc" not in name for name in slabs.caches], bool)
    per_cache = np.bincount(
        slabs.cache[slabs.slab_of(np.flatnonzero(slabs.allocated))], minlength=len(slabs.caches)
    )
    member = cache.astype(np.int64) << 32 | heap.pfn_offset[in_slab]
    members, inverse, hits = np.unique(member, return_inverse=True, return_counts=True)
    pairs = np.unique(inverse * np.int64(len(heap.records)) + heap.pfn_target[in_slab])
    different = np.bincount(pairs // len(heap.records), minlength=len(members))
    few = (10 * hits[inverse] < 9 * per_cache[cache]) | (2 * different < hits)[inverse]
    result[in_slab] = own[cache] & few
    return result


def _judge(source: Array, target: Array, own: Array, lost: Array, verdict: Array) -> None:
    """
    Set, in *verdict*, the verdict of each lost node, by the references between lost nodes.

    A node is held by itself if it is in a ring of references or between two rings, or if only it
    refers to itself; else it is only reachable from unreachable if a lost node refers to it; else
    unreachable.

    :param source: Node that contains each reference.
    :param target: Node that each reference refers to.
    :param own: Whether each node refers to itself: ``bool``.
    :param lost: Whether no root reaches a node: ``bool``, an element for each node.
    """
    nodes = np.flatnonzero(lost)
    if not len(nodes):
        return
    inside = np.flatnonzero(lost[target])
    inside = inside[lost[source[inside]]]
    # Number the lost nodes, which usually are few.
    source, target = (np.searchsorted(nodes, ends[inside]) for ends in (source, target))
    verdict[nodes] = Reachability.FROM_UNREACHABLE
    held = np.zeros(len(nodes), bool)
    held[target] = True
    verdict[nodes[~held]] = Reachability.UNREACHABLE
    # Repeatedly removing nodes without an incoming or without an outgoing edge leaves rings and the
    # nodes between rings.
    ring = _peeled(source, target, len(nodes)) & _peeled(target, source, len(nodes))
    verdict[nodes[ring]] = Reachability.ITSELF
    alone = own[nodes] & ~held
    verdict[nodes[alone]] = Reachability.ITSELF


def _peeled(source: Array, target: Array, nodes: int) -> Array:
    """
    Remove nodes without an incoming edge until every node left has one.

    :param source: Node at which each edge begins; *target* is the node at which it ends.
    :return: The nodes that are left: ``bool``, shape ``(nodes,)``.
    """
    graph = Graph(source.astype(np.int32), target.astype(np.int32), nodes)
    degree = np.bincount(target, minlength=nodes)
    left = np.ones(nodes, bool)
    frontier = np.flatnonzero(degree == 0)
    while len(frontier):
        left[frontier] = False
        frontier = _peel_list(graph, frontier, degree, left)
        _, reached = graph.neighbours(frontier)
        np.subtract.at(degree, reached, 1)
        reached = ascending(reached)
        frontier = reached[left[reached] & (degree[reached] == 0)]
    return left


def _peel_list(graph: Graph, frontier: Array, degree: Array, left: Array) -> Array:
    """Do what :func:`_peeled` does while *frontier* is small; return the first one that is not."""
    if len(frontier) > _FEW_NODES:
        return frontier
    incoming, kept = degree.data, left.data
    nodes: list[int] = frontier.tolist()
    while (edges := graph.few_edges(nodes)) is not None:
        nodes = []
        for _, targets in edges:
            for target in targets:
                incoming[target] -= 1
                if not incoming[target]:
                    kept[target] = False
                    nodes.append(target)
    return np.array(nodes, np.int32)
