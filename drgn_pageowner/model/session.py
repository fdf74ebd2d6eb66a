# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface through which commands, storage and renderers ask for data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from drgn_pageowner.model.arrays import Array
    from drgn_pageowner.model.crash import Crash
    from drgn_pageowner.model.fingerprint import Contents
    from drgn_pageowner.model.heap import Heap, HeapTarget, Inventory, LeakSearch, Word
    from drgn_pageowner.model.info import OwnerSource
    from drgn_pageowner.model.kernel import Facts
    from drgn_pageowner.model.object_facts import ObjectFacts
    from drgn_pageowner.model.object_owners import ObjectOwners
    from drgn_pageowner.model.page import PageInfo
    from drgn_pageowner.model.pages import Memory
    from drgn_pageowner.model.records import Snapshot
    from drgn_pageowner.model.stacks import StackList
    from drgn_pageowner.model.tags import TagUse

__all__ = ("Session",)


class Session(Protocol):
    """A dump, a running kernel or a saved snapshot, as far as the commands need to know it."""

    def members(self) -> Mapping[str, Session]:
        """Return the sessions by name: this one alone, or each of several snapshots."""
        ...

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        """Return the records, with at least *columns* (``None`` for all)."""
        ...

    def stack_list(self) -> StackList:
        """
        Return page_owner's list of stacks, in its order. Added in Linux kernel commit 217b2119b9e2
        ("mm,page_owner: implement the tracking of the stacks count") (in v6.9).
        """
        ...

    def tags(self) -> TagUse:
        """
        Return the allocation tags with their counters, and sums of the memory that refers to each.
        Added in Linux kernel commit 22d407b164ff ("lib: add allocation tagging support for memory
        allocation profiling") (in v6.10).
        """
        ...

    def owner_sources(self) -> Sequence[OwnerSource]:
        """Return the features of this kernel that record who allocated memory."""
        ...

    def add_source_lines(self, snapshot: Snapshot, pcs: Iterable[int]) -> None:
        """Fill in ``snapshot.source_lines`` for *pcs*."""
        ...

    def is_live(self) -> bool:
        """Return whether the kernel is running, so that another reading may differ."""
        ...

    def facts(self) -> Facts:
        """Return the facts about the kernel, even if it has no page_owner."""
        ...

    def memory(self, columns: Iterable[str]) -> Memory:
        """Return every page and every free list, with at least *columns* of ``struct page``."""
        ...

    def inventory(self) -> Inventory:
        """Return every page, and the data that determine its use."""
        ...

    def heap(self, *, types: bool = False) -> Heap:
        """
        Return the graph of pointers between allocations.

        :param types: Whether to read the data for inferring the types of nodes, too.
        """
        ...

    def saved_search(self, *, slab: bool) -> LeakSearch | None:
        """
        Return the result of a saved search for leaks; ``None`` if there is memory to search
        instead.
        """
        ...

    def object_owners(self) -> ObjectOwners:
        """Return every slab object and who allocated it."""
        ...

    def slab_objects(self, objects: Array) -> ObjectFacts:
        """Return what is known of the allocations of some of the heap's slab objects."""
        ...

    def contents(self, nodes: Array) -> Contents:
        """Return the clues to their owners in the contents of some of the heap's nodes."""
        ...

    def memory_at(self, addresses: Array, size: int) -> Sequence[bytes]:
        """Return the first *size* bytes at each of *addresses*; none if they cannot be read."""
        ...

    def target(self, what: str) -> HeapTarget:
        """Return the heap's node that *what* names."""
        ...

    def words(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]:
        """Return the words in some of the heap's nodes that refer to others."""
        ...

    def losses(self) -> Sequence[str]:
        """
        Return one line for each part that is missing or damaged, and what is unknown because of it.

        For a filtered dump, this reads the whole memmap.
        """
        ...

    def typed_word(self, address: int) -> tuple[str, str] | None:
        """
        Name the word at *address*: what drgn evaluates to it, and the type of its object.

        Types must have been inferred before, of the heap with types.
        """
        ...

    def modules(self) -> list[str]:
        """Return the names of the loaded modules."""
        ...

    def crash(self) -> Crash:
        """Return facts about the crash and the machine."""
        ...

    def page(self, what: str) -> PageInfo:
        """Return everything about the page that *what* names."""
        ...
