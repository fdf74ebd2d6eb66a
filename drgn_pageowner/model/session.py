# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface through which commands, storage and renderers ask for data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from drgn_pageowner.model.arrays import Array
    from drgn_pageowner.model.crash import Crash
    from drgn_pageowner.model.heap import Heap, HeapTarget, Inventory, LeakSearch, Word
    from drgn_pageowner.model.info import OwnerSource
    from drgn_pageowner.model.kernel import Facts
    from drgn_pageowner.model.object_owners import ObjectOwners
    from drgn_pageowner.model.page import PageInfo
    from drgn_pageowner.model.pages import Memory
    from drgn_pageowner.model.records import Snapshot
    from drgn_pageowner.model.stacks import Frame, StackList
    from drgn_pageowner.model.tags import TagUse

__all__ = ("Session",)


class Session(Protocol):
    """A dump, a running kernel or a saved snapshot, as far as the commands need to know it."""

    def members(self) -> Mapping[str, Session]:
        """The sessions to ask, by name: this one alone, or each of several snapshots."""
        ...

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        """The records, with at least *columns* (``None`` for all)."""
        ...

    def stack_list(self) -> StackList:
        """The stacks that page_owner has a list of, in its order (v6.9)."""
        ...

    def tags(self) -> TagUse:
        """Allocation tags with their counters, and what bears them (v6.10)."""
        ...

    def owner_sources(self) -> Sequence[OwnerSource]:
        """The records this kernel keeps of who allocated memory."""
        ...

    def add_source_lines(self, snapshot: Snapshot, pcs: Iterable[int]) -> None:
        """Fill in ``snapshot.source_lines`` for *pcs*."""
        ...

    def is_live(self) -> bool:
        """Whether it runs while it is read, so that another snapshot may say something else."""
        ...

    def facts(self) -> Facts:
        """The kernel as a whole, also where it has no page_owner."""
        ...

    def memory(self, columns: Iterable[str]) -> Memory:
        """Every page and every free list, with at least *columns* of ``struct page``."""
        ...

    def inventory(self) -> Inventory:
        """Every page with what there is to tell its use."""
        ...

    def heap(self, *, types: bool = False) -> Heap:
        """
        The graph of which allocations point to which.

        :param types: Whether to read what types of nodes are inferred from, too.
        """
        ...

    def saved_search(self, *, slab: bool) -> LeakSearch | None:
        """The result of a saved search for leaks; ``None`` where there is memory to search."""
        ...

    def object_owners(self) -> ObjectOwners:
        """Every slab object, and who allocated it."""
        ...

    def slab_tags(self, objects: Array) -> list[str | None]:
        """The allocation tags of some of the heap's slab objects."""
        ...

    def slab_objects(self, objects: Array) -> tuple[Array, list[tuple[list[Frame], int] | None]]:
        """Addresses of the heap's slab objects, and stack and pid of their allocations."""
        ...

    def target(self, what: str) -> HeapTarget:
        """The heap's node that *what* names."""
        ...

    def words(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]:
        """The words of some of the heap's nodes that lead to others."""
        ...

    def losses(self) -> Sequence[str]:
        """
        A line for everything that is missing or damaged, and what that costs.

        Of a filtered dump, that takes reading the whole memmap.
        """
        ...

    def modules(self) -> list[str]:
        """Names of the loaded modules."""
        ...

    def crash(self) -> Crash:
        """The cause of the crash, and facts about the machine."""
        ...

    def page(self, what: str) -> PageInfo:
        """All about the page that *what* names."""
        ...
