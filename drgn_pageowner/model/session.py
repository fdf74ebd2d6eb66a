# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface through which commands, storage and renderers ask for data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from drgn_pageowner.model.arrays import Array
    from drgn_pageowner.model.crash import Crash
    from drgn_pageowner.model.fingerprint import Contents
    from drgn_pageowner.model.heap import Heap, HeapTarget, Inventory, LeakSearch, Word
    from drgn_pageowner.model.info import OwnerSource
    from drgn_pageowner.model.kernel import Facts
    from drgn_pageowner.model.object_facts import ObjectFacts
    from drgn_pageowner.model.object_owners import ObjectOwners
    from drgn_pageowner.model.packed import Packing
    from drgn_pageowner.model.page import PageInfo
    from drgn_pageowner.model.pages import Memory
    from drgn_pageowner.model.records import Snapshot, Summing
    from drgn_pageowner.model.stacks import StackList
    from drgn_pageowner.model.tags import TagUse

__all__ = ("AtOnce", "Begun", "Finish", "Session", "one_after_another")


AtOnce = Callable[[Sequence[Callable[[], Any]]], list[Any]]
"""A function like :meth:`Session.at_once`."""


Begun = Callable[[Callable[[], Any]], Any]
"""A function that another process begins to call: :meth:`Session.beside`."""

Finish = Callable[[Any], Any]
"""A function that returns the result of a :data:`Begun`, or ``None``, given what that waits for."""


def one_after_another(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call functions in this process, the first one last; return their results."""
    others = [function() for function in functions[1:]]
    return [functions[0](), *others]


class Session(Protocol):
    """Interface of a dump, a running kernel, a text or a saved snapshot to the commands."""

    def members(self) -> Mapping[str, Session]:
        """Return the sessions by name: only this session, or one for each of several snapshots."""
        ...

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        """Return the records, with at least *columns* (``None`` for all)."""
        ...

    def record_parts(
        self,
        columns: Iterable[str] | None,
        *,
        freed: bool = False,
        summing: Summing | None = None,
    ) -> Iterator[Snapshot]:
        """
        Return the records in parts, in PFN order, so that they need not be in memory together.

        ``facts``, ``coverage`` and ``problems`` are those of all parts, and complete when the last
        part is returned; indices of stacks, tags and memory cgroups hold in one part only.

        :param summing: If there are many records, this may be called for some at a time, where they
            are read; the parts then consist of the rows that it returned.
        """
        ...

    def at_once(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        """
        Call functions, if there are several processes, at the same time.

        :param functions: The first is called by this process; the others have no side effects. The
            results of the others must not be ``None``, nor refer to pages or records.
        :return: The results, in the order of *functions*.
        """
        ...

    def beside(self, function: Begun) -> AbstractContextManager[Finish | None]:
        """
        Let another process, if there are several, begin to call a function.

        :param function: Function without side effects, with one argument: a function that waits for
            what the caller finds out meanwhile, and returns it. The result must not be ``None``,
            nor refer to pages or records.
        :return: A context, in which the process exists; its value is a function to call once, with
            the value that *function* waits for. It returns the result of *function*, or ``None`` if
            the process failed. ``None`` instead if there is no other process.
        """
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

    def memory(self, columns: Iterable[str], *, packing: Packing | None = None) -> Memory:
        """
        Return every page and every free list, with at least *columns* of ``struct page``.

        :param packing: May be used to compress ``flags``, ``refcount`` and ``mapping``
            (:class:`~drgn_pageowner.model.packed.Packed`), which take slices only then; ``head``
            may be :class:`~drgn_pageowner.model.pages.Heads`.
        """
        ...

    def inventory(self, *, owners: bool = True) -> Inventory:
        """
        Return all pages, with the records, slabs and areas that determine their use.

        :param owners: Whether the tasks, times and tags of the records are needed, too.
        """
        ...

    def covering_records(self, memory: Memory, columns: Iterable[str]) -> tuple[Snapshot, Array]:
        """
        Return the records of allocated pages, with at least *columns*, and the index of the record
        that covers each page of *memory*, as :func:`~drgn_pageowner.model.heap.record_of_row` does.
        The records may lack ``pfn`` and ``order``, unless these are among *columns*.

        PFNs may be of the type :class:`~drgn_pageowner.model.arrays.Narrow`.
        """
        ...

    def uses(self, columns: Iterable[str], *, packing: Packing | None = None) -> Inventory:
        """
        Return an inventory without records, and the pages with at least *columns*.

        :param packing: See :meth:`memory`.
        """
        ...

    def heap(self, *, types: bool = False) -> Heap:
        """
        Return the graph of pointers between allocations.

        :param types: Whether to read the data for inferring the types of nodes, too.
        """
        ...

    def forget_heap(self) -> None:
        """Drop the graph of pointers, which takes much memory; :meth:`heap` reads it again."""
        ...

    def forget(self) -> None:
        """Drop all that was read and kept, for which there will be no use."""
        ...

    def saved_search(self, *, slab: bool) -> LeakSearch | None:
        """
        Return the result of a search for leaks that was saved in a snapshot; ``None`` if this
        session can read memory, so that the search can be made.

        :param slab: Whether lost slab objects are needed, too.
        """
        ...

    def object_owners(self) -> ObjectOwners:
        """Return every slab object and who allocated it."""
        ...

    def slab_objects(self, objects: Array) -> ObjectFacts:
        """
        Return stack, task, tag and memory cgroup of some slab objects, where known.

        :param objects: Indices of slab objects in the heap.
        """
        ...

    def contents(self, nodes: Array) -> Contents:
        """
        Search the contents of heap nodes for clues to the owners of the nodes.

        :param nodes: Numbers of the nodes: ``int64``.
        """
        ...

    def memory_at(self, addresses: Array, size: int) -> Sequence[bytes]:
        """Return the *size* bytes at each of *addresses*; ``b""`` where they cannot be read."""
        ...

    def target(self, what: str) -> HeapTarget:
        """Return the node of the heap that the user's argument *what* names."""
        ...

    def words(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]:
        """
        Return the words in some nodes of the heap that refer to some other nodes.

        :param sources: Nodes to search for such words.
        :param targets: Nodes to search references to.
        :param numbers: Whether to include words that equal a PFN or physical address.
        :param limit: Maximum number of words.
        """
        ...

    def mappings(self, target: HeapTarget, limit: int = 1 << 30) -> list[Word]:
        """
        Return the entries of page tables of processes that map a page.

        :param target: A page that is a node of the heap.
        :param limit: Maximum number of entries.
        """
        ...

    def layout_pack(self) -> bytes:
        """
        Return the layout pack of the kernel: an ELF file with its types, variables and symbols.

        :raises PageOwnerError: if this session has no debugging symbols
        """
        ...

    def losses(self) -> Sequence[str]:
        """
        Return one line for each missing or damaged part, which says what is unknown because of it.

        For a filtered dump, this reads the whole memmap.
        """
        ...

    def typed_word(self, address: int) -> tuple[str, str] | None:
        """
        Find the member that contains the word at *address*.

        The types of the nodes of ``heap(types=True)`` must have been inferred before.

        :return: A drgn expression for the word, and the name of the type of the object that
            contains it; ``None`` if the type is unknown, or if the word is no member.
        """
        ...

    def modules(self) -> list[str]:
        """Return the names of the loaded modules."""
        ...

    def crash(self) -> Crash:
        """Return facts about the crash and the machine."""
        ...

    def page(self, what: str) -> PageInfo:
        """Return all facts about the page that *what* names: a PFN, an address, or a symbol."""
        ...
