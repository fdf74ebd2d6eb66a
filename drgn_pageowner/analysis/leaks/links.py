# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the chain of pointers that keeps a page allocated, and the words that refer to it."""

from __future__ import annotations

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

__all__ = ("Hop", "References", "Why", "WordSearch", "explain_node", "references")


# Words from one node to another that are looked at, to find one whose type is known.
_ENOUGH = 256
# Chains that are as short as the shortest; a page can have thousands.
_MOST_CHAINS = 64


class WordSearch(Protocol):
    """A function that finds the words in some nodes that refer to other nodes."""

    def __call__(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]: ...


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
    """The word."""
    by: str
    """Its meaning: ``"address"``, ``"struct page"``, ``"PFN"``, ``"physical address"``."""
    allocator: str | None
    """The allocator of the page that contains the word."""
    leads_to: str
    reachable: bool
    """Whether the memory that contains the word is itself reachable."""
    counts: bool
    """Whether the word keeps its target alive; bookkeeping does not, nor does a number of an object
    whose type is sure."""
    expression: str | None = None
    """What drgn evaluates to the word: ``prog["init_net"].ipv4.fib_table_hash``; ``None`` for a
    register."""
    type: str | None = None
    """The type of what the word lies in, if it is known."""
    target_type: str | None = None
    """The type of what it leads to, if it is known."""
    exact: bool = False
    """Whether a type that is sure says that the word is a reference."""


@dataclass(frozen=True)
class Why:
    """The reason why a page is in use."""

    what: str
    pfn: int
    name: str
    """The page or the slab object, and who allocated it."""
    verdict: str
    """Label of a :class:`~drgn_pageowner.model.heap.Reachability`; or ``"root"``,
    ``"accounted for"``, ``"not allocated"``."""
    explanation: str
    chain: list[Hop]
    """The words from a root to the page."""
    others: list[list[Hop]] = field(default_factory=list)
    """With all chains: the others that are as short."""
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


def _stacked(reach: Reach, node: int) -> bool:
    return bool(reach.heap.records.stack[node] >= 0)


def _allocator(reach: Reach, node: int) -> str | None:
    if node >= reach.heap.first_object:
        return None
    records = reach.heap.records
    if not reach.heap.recorded and not _stacked(reach, node):
        return None
    return str(allocator_of(records.stack_frames(int(records.stack[node]))) or "(no stack)")


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
        reachable=bool(reach.parent[of] >= 0),
        counts=counts and not weak,
        expression=word.expression,
        type=word.type,
        target_type=word.leads_to,
        exact=counts and sure,
    )


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
    reach: Reach, target: HeapTarget, words: WordSearch, *, everything: bool = False
) -> Why:
    """
    Find the shortest chain from a root to a page or slab object.

    :param words: Finds the words of the chain.
    :param everything: Find all chains that are as short, up to some dozens.
    """
    node = target.node
    if node is None:
        return Why(target.what, target.pfn, f"page pfn:{target.pfn:#x}", "not allocated",
                   target.state, [])  # fmt: skip
    verdict, explanation = _verdict(reach, node)
    chain: list[Hop] = []
    if verdict in (Reachability.REACHABLE.label, "root"):
        first = reach.heap.first_object
        start = int(reach.allocation[node]) if node < first else node
        if everything:
            return _every_chain(reach, start, words, Why(
                target.what, target.pfn, _name(reach, node), verdict, explanation, []
            ))  # fmt: skip
        for here, there in pairwise(_chosen(reach, start)):
            chain += [_hop(reach, word) for word in _between(reach, words, here, there)[:1]]
    elif verdict == Reachability.PFN_ONLY.label:
        chain = references(reach, target, words, 1, numbers_only=True).references
    return Why(target.what, target.pfn, _name(reach, node), verdict, explanation, chain)


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
    steps: dict[tuple[int, int], list[Hop]] = {}
    chains: list[list[Hop]] = []
    for path in reach.shortest(node, _MOST_CHAINS):
        hops: list[list[Hop]] = []
        for pair in pairwise(path):
            if pair not in steps:
                steps[pair] = [_hop(reach, word) for word in _between(reach, words, *pair)]
            hops.append(steps[pair])
        if all(hops):
            rest = [step[0] for step in hops[1:]]
            chains += [[first, *rest] for first in hops[0][: _MOST_CHAINS - len(chains)]]
    return replace(why, chain=chains[0] if chains else [], others=chains[1:])


def references(
    reach: Reach, target: HeapTarget, words: WordSearch, limit: int, *, numbers_only: bool = False
) -> References:
    """
    Find every word that refers to a page or slab object.

    :param limit: The largest number of words to return.
    :param numbers_only: Only PFNs and physical addresses.
    """
    node = target.node
    if node is None:
        return References(target.what, target.pfn, f"page pfn:{target.pfn:#x}", target.state, [])
    heap = reach.heap
    members = _members(reach, node)
    sources = [heap.pfn_holder[np.isin(heap.pfn_target, members)]]
    if not numbers_only:
        sources.append(heap.holder[np.isin(heap.target, members)])
    found = words(np.unique(np.concatenate(sources)), members, numbers=True, limit=limit)
    if numbers_only:
        found = [word for word in found if word.by in ("PFN", "physical address")]
    verdict, _ = _verdict(reach, node)
    return References(
        target.what, target.pfn, _name(reach, node), verdict, [_hop(reach, w) for w in found]
    )
