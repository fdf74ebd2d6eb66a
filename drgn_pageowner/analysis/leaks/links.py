# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the chain of pointers that keeps a page allocated, and the words that refer to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from drgn_pageowner.analysis.account.page_class import PageClass
from drgn_pageowner.analysis.leaks.reach import Reach
from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.fingerprint import Fingerprint
from drgn_pageowner.model.heap import HeapTarget, Reachability, Role, Word

__all__ = (
    "Hop",
    "MappingSearch",
    "References",
    "Why",
    "WordSearch",
    "explain_node",
    "references",
)


# Maximum number of words from one node to another that are examined to find one of known type.
_ENOUGH = 256
# Classes of pages that processes may have mapped.
_MAPPED = (PageClass.ANON, PageClass.FILE, PageClass.BUFFERS, PageClass.SHMEM, PageClass.HUGETLB)
# Maximum number of shortest chains to return; a page can have thousands.
_MOST_CHAINS = 64


class WordSearch(Protocol):
    """A function that finds the words in some nodes that refer to other nodes."""

    def __call__(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]: ...


class MappingSearch(Protocol):
    """A function that finds the entries of page tables of processes that map a page."""

    def __call__(self, target: HeapTarget, limit: int = 1 << 30) -> list[Word]: ...


@dataclass(frozen=True)
class Hop:
    """A word and its target."""

    kind: str
    """The kind of memory that contains the word: :attr:`Word.kind`."""
    name: str
    """The symbol, per-CPU variable, task, slab cache or page, and the offset of the word in it."""
    address: int | None
    """Virtual address of the word; ``None`` for a register."""
    value: int
    """Value of the word."""
    by: str
    """How the word refers to its target: :attr:`Word.by`."""
    allocator: str | None
    """The allocator of the page that contains the word."""
    leads_to: str
    reachable: bool
    """Whether the memory that contains the word is itself reachable."""
    counts: bool
    """Whether the word keeps its target alive. False for bookkeeping, and for a word that is a
    number according to a type that is certain."""
    expression: str | None = None
    """drgn expression for the word, such as ``prog["init_net"].ipv4.fib_table_hash``; ``None`` for
    a register."""
    type: str | None = None
    """The type of the object or variable that contains the word, if it is known."""
    target_type: str | None = None
    """The type of the target, if it is known."""
    exact: bool = False
    """Whether the word is a reference according to a type that is certain."""
    target_expression: str | None = None
    """drgn expression for an address in the target. In a chain, the next word is in the same
    object, page or copy of per-CPU memory as this address. ``None`` for a register."""


@dataclass(frozen=True)
class Why:
    """The reason why a page is in use."""

    what: str
    pfn: int
    name: str
    """Description of the page or slab object, and its allocator."""
    verdict: str
    """Label of a :class:`~drgn_pageowner.model.heap.Reachability`; or ``"root"``,
    ``"accounted for"``, ``"not allocated"``."""
    explanation: str
    chain: list[Hop]
    """The words from a root to the page."""
    others: list[list[Hop]] = field(default_factory=list)
    """Other chains of the same length, if all chains were requested."""
    fingerprint: Fingerprint | None = None
    """The clues to its owner in its contents; ``None`` if it cannot be read."""


@dataclass(frozen=True)
class References:
    """The words that refer to a page."""

    what: str
    pfn: int
    name: str
    verdict: str
    references: list[Hop]


def _name(reach: Reach, node: int) -> str:
    heap = reach.heap
    if node >= heap.first_root:
        return heap.roots[node - heap.first_root]
    if node >= heap.first_percpu:
        number = node - heap.first_percpu
        pointer, size = int(heap.percpu.pointer[number]), int(heap.percpu.size[number])
        return f"per-CPU memory {pointer:#x} ({size} bytes for each CPU)"
    if node >= heap.first_object:
        slab = int(heap.slabs.slab_of(np.array([node - heap.first_object]))[0])
        return f"object of {heap.slabs.caches[int(heap.slabs.cache[slab])]}"
    pfn, order = int(heap.records["pfn"][node]), int(heap.records["order"][node])
    of = f" of {_allocator(reach, node)}" if reach.heap.recorded or _stacked(reach, node) else ""
    return f"page pfn:{pfn:#x} (order {order}){of}"


def _stack(reach: Reach, node: int) -> int:
    return int(reach.heap.records.stack_of(np.array([node]))[0])


def _stacked(reach: Reach, node: int) -> bool:
    return _stack(reach, node) >= 0


def _allocator(reach: Reach, node: int) -> str | None:
    if node >= reach.heap.first_object:
        return None
    records = reach.heap.records
    if not reach.heap.recorded and not _stacked(reach, node):
        return None
    return str(allocator_of(records.stack_frames(_stack(reach, node))) or "(no stack)")


def _members(reach: Reach, node: int) -> Array:
    """Return the nodes of the heap that belong to the same allocation as *node*."""
    if node >= reach.heap.first_object:
        return np.array([node])
    result: Array = np.flatnonzero(reach.allocation == reach.allocation[node])
    return result


def _hop(reach: Reach, word: Word) -> Hop:
    first = reach.heap.first_object
    of = int(reach.allocation[word.node]) if word.node < first else word.node
    weak = np.isin(word.node, reach.heap.bookkeeping).item()
    counts, sure = _counts(reach, word)
    return Hop(
        kind=word.kind,
        name=word.name,
        address=word.address,
        value=word.value,
        by=word.by,
        allocator=_allocator(reach, word.node),
        leads_to=_name(reach, word.target),
        reachable=bool(reach.parent[of] >= 0) or word.kind == "page table",
        counts=counts and not weak,
        expression=word.expression,
        type=word.type,
        target_type=word.leads_to,
        exact=counts and sure,
        target_expression=word.target_expression,
    )


def _linked(reach: Reach, chain: Sequence[Word]) -> list[Hop]:
    """
    Convert the words of a chain to hops.

    The :attr:`Hop.target_expression` of each hop locates the object that contains the next word.
    """
    hops = []
    following: list[Word | None] = [*chain[1:], None]
    for word, after in zip(chain, following[: len(chain)], strict=True):
        hop = _hop(reach, word)
        if after is not None and word.by == "struct page" and after.kind == "struct page":
            # The word points to the struct page, not into the page.
            hop = replace(hop, target_expression=hop.expression)
        elif after is not None and word.by == "per-CPU pointer" and after.cpu is not None:
            hop = replace(hop, target_expression=f"per_cpu_ptr({hop.expression}, {after.cpu})")
        hops.append(hop)
    return hops


def _counts(reach: Reach, word: Word) -> tuple[bool, bool]:
    """
    Return whether a word can be a reference, and whether a type that is certain decides that.

    Without types, every word can be one.
    """
    return reach.references.counts_word(word) if reach.references is not None else (True, False)


def _best(reach: Reach, words: list[Word]) -> list[Word]:
    """Return those of *words* that can be references, words with a known type first."""
    kept = [word for word in words if _counts(reach, word)[0]]
    return sorted(kept, key=lambda word: (not _counts(reach, word)[1], word.type is None))


def _verdict(reach: Reach, node: int) -> tuple[str, str]:
    heap = reach.heap
    if node < heap.first_object:
        role = int(reach.role[node])
        row = int(heap.inventory.memory.pages.rows(heap.records["pfn"][node : node + 1])[0])
        kind = PageClass(reach.classes[row]).label if row >= 0 else "page"
        if role == Role.ROOT:
            return "root", f"it is a root itself: {kind} (or mapped by a process)"
        if role == Role.ACCOUNTED:
            return "accounted for", f"it is held by other means than addresses: {kind}"
    verdict = Reachability(reach.verdict[node])
    explanations = {
        Reachability.REACHABLE: "a chain of addresses leads to it from a root",
        Reachability.PFN_ONLY: "no address of it is held, but its PFN or physical address is",
        Reachability.UNREACHABLE: "nothing points at it",
        Reachability.FROM_UNREACHABLE: "only what nothing reaches points at it",
        Reachability.ITSELF: "only it itself, or a ring that it is part of, points at it",
    }
    return verdict.label, explanations[verdict]


def explain_node(
    reach: Reach,
    target: HeapTarget,
    words: WordSearch,
    *,
    mappings: MappingSearch | None = None,
    everything: bool = False,
) -> Why:
    """
    Find the shortest chain from a root to a page or slab object.

    :param words: Function that finds the words of the chain.
    :param mappings: Function that finds the page table entries that map a page into processes;
        ``None`` if they are not to be searched.
    :param everything: Whether to find all chains of that length, up to some dozens.
    """
    node = target.node
    if node is None:
        return Why(target.what, target.pfn, f"page pfn:{target.pfn:#x}", "not allocated",
                   target.state, [])  # fmt: skip
    verdict, explanation = _verdict(reach, node)
    start = int(reach.allocation[node]) if node < reach.heap.first_object else node
    why = Why(target.what, target.pfn, _name(reach, node), verdict, explanation, [])
    if verdict == Reachability.REACHABLE.label:
        if everything:
            return _every_chain(reach, start, words, why)
        return replace(why, chain=_linked(reach, _along(reach, words, _chosen(reach, start))))
    if verdict == Reachability.PFN_ONLY.label:
        return replace(why, chain=_linked(reach, _by_number(reach, start, words)))
    if verdict in ("root", "accounted for"):
        chains = _of_process(reach, target, start, words, mappings, everything=everything)
        return replace(why, chain=chains[0], others=chains[1:]) if chains else why
    return why


def _along(reach: Reach, words: WordSearch, path: list[int]) -> list[Word]:
    """Return, for each step of a path of nodes, the word that most likely is the reference."""
    return [word for pair in pairwise(path) for word in _between(reach, words, *pair)[:1]]


def _by_number(reach: Reach, node: int, words: WordSearch) -> list[Word]:
    """Find the words that lead from a root to the PFN or physical address of *node*."""
    path = _from_number(reach, node)
    if not path:
        return []
    heap, members = reach.heap, _members(reach, path[0])
    sources = np.unique(heap.pfn_holder[np.isin(heap.pfn_target, members)])
    numbers = [
        word for word in words(sources, members, numbers=True, limit=_ENOUGH) if _is_number(word)
    ]
    if not numbers:
        return []
    best = min(numbers, key=lambda word: _doubt(reach, word))
    before: list[Word] = []
    if reach.parent[_node_of(reach, best)] >= 0:
        before = _along(reach, words, _chosen(reach, _node_of(reach, best)))
    return [*before, best, *_along(reach, words, path)]


def _is_number(word: Word) -> bool:
    return word.by in ("PFN", "physical address")


def _node_of(reach: Reach, word: Word) -> int:
    """Return the node of the allocation that contains *word*."""
    return int(reach.allocation[word.node]) if word.node < reach.heap.first_object else word.node


def _doubt(reach: Reach, word: Word) -> tuple[bool, bool, bool]:
    """
    Return a sort key for words that equal a PFN or a physical address.

    Words that can be such a number, and that are in reachable memory, come first.
    """
    counts, sure = _counts(reach, word)
    return not counts, bool(reach.parent[_node_of(reach, word)] < 0), not sure


def _from_number(reach: Reach, node: int) -> list[int]:
    """
    Return the shortest path to *node* from a node whose PFN is known; empty if there is none.

    Nodes that only such a node reaches count as known by PFN, too.
    """
    heap, (source, target) = reach.heap, reach.edges
    known = np.zeros(heap.nodes, bool)
    known[reach.allocation[heap.pfn_target]] = True
    following: dict[int, int] = {node: -1}
    frontier = np.array([node])
    while len(frontier):
        found = frontier[known[frontier]]
        if len(found):
            path = [int(found[0])]
            while following[path[-1]] >= 0:
                path.append(following[path[-1]])
            return path
        step = np.isin(target, frontier) & (reach.verdict[source] == Reachability.PFN_ONLY)
        before = []
        for of, to in zip(source[step].tolist(), target[step].tolist(), strict=True):
            if of not in following:
                following[of] = to
                before.append(of)
        frontier = np.array(before, np.int64)
    return []


def _of_process(
    reach: Reach,
    target: HeapTarget,
    node: int,
    words: WordSearch,
    mappings: MappingSearch | None,
    *,
    everything: bool,
) -> list[list[Hop]]:
    """
    Find the reasons why a page is in use that is not kept by pointers alone: a page of a process or
    of a file, or a page that is a root itself.

    :param everything: Whether to find all mappings, up to some dozens.
    :return: Chains of words, the most useful one first: for an anonymous or hugetlb page, a page
        table entry that maps it; for other pages, a chain of pointers.
    """
    heap = reach.heap
    if node >= heap.first_object:
        return []
    row = int(heap.inventory.memory.pages.rows(heap.records["pfn"][node : node + 1])[0])
    kind = reach.classes[row] if row >= 0 else PageClass.UNKNOWN
    # Prefer other references to those on stacks, which are only temporary.
    stacks = [one for one in range(heap.first_root, heap.nodes) if _is_stack(reach, one)]
    path = reach.chain_around(node, [heap.process_pages, *stacks])
    path = path or reach.chain_around(node, [heap.process_pages])
    pointers = [_linked(reach, _along(reach, words, path))]
    mapped: list[list[Hop]] = []
    if mappings is not None and (kind in _MAPPED or reach.role[node] == Role.ROOT):
        found = mappings(target, _MOST_CHAINS if everything else 1)
        mapped = [_linked(reach, [word]) for word in found]
    private = kind in (PageClass.ANON, PageClass.HUGETLB)
    chains = [*mapped, *pointers] if private else [*pointers, *mapped]
    chains = [chain for chain in chains if chain]
    return chains if everything else chains[:1]


def _chosen(reach: Reach, node: int) -> list[int]:
    """
    Return a shortest path from a root to *node*.

    If there are several, a path that does not begin at the stack of a task is preferred.
    """
    path = reach.chain(node)
    if not _is_stack(reach, path[0]):
        return path
    others = reach.shortest(node, _MOST_CHAINS)
    return next((other for other in others if not _is_stack(reach, other[0])), path)


def _is_stack(reach: Reach, node: int) -> bool:
    first = reach.heap.first_root
    return node >= first and reach.heap.roots[node - first].startswith("stack of ")


def _between(reach: Reach, words: WordSearch, here: int, there: int) -> list[Word]:
    """Return the words of node *here* that refer to node *there*, the most certain first."""
    found = words(_members(reach, here), _members(reach, there), limit=_ENOUGH)
    return _best(reach, found)


def _every_chain(reach: Reach, node: int, words: WordSearch, why: Why) -> Why:
    """
    Find every shortest chain to *node*.

    If several words of a root refer to the second node, each begins a chain of its own, because
    they may belong to different variables.
    """
    steps: dict[tuple[int, int], list[Word]] = {}
    chains: list[list[Hop]] = []
    for path in reach.shortest(node, _MOST_CHAINS):
        found: list[list[Word]] = []
        for pair in pairwise(path):
            if pair not in steps:
                steps[pair] = _between(reach, words, *pair)
            found.append(steps[pair])
        if all(found):
            rest = [step[0] for step in found[1:]]
            firsts = found[0][: _MOST_CHAINS - len(chains)] if found else []
            chains += [_linked(reach, [first, *rest]) for first in firsts]
    return replace(why, chain=chains[0] if chains else [], others=chains[1:])


def references(reach: Reach, target: HeapTarget, words: WordSearch, limit: int) -> References:
    """
    Find every word that refers to a page or slab object.

    :param limit: Maximum number of words to return.
    """
    node = target.node
    if node is None:
        return References(target.what, target.pfn, f"page pfn:{target.pfn:#x}", target.state, [])
    heap = reach.heap
    members = _members(reach, node)
    holders = np.concatenate([
        holder[np.isin(target, members)]
        for holder, target in (
            (heap.pfn_holder, heap.pfn_target), (heap.holder, heap.target), heap.typed_edges()
        )
    ])  # fmt: skip
    # Types know the first record of an allocation only, but all of its records may have pointers.
    of_records = np.unique(reach.allocation[holders[holders < heap.first_object]])
    sources = np.union1d(holders, np.flatnonzero(np.isin(reach.allocation, of_records)))
    found = words(sources, members, numbers=True, limit=limit)
    verdict, _ = _verdict(reach, node)
    return References(
        target.what, target.pfn, _name(reach, node), verdict, [_hop(reach, w) for w in found]
    )
