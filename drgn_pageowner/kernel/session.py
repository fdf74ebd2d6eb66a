# SPDX-License-Identifier: LGPL-2.1-or-later
"""A ``drgn.Program`` as the commands' :class:`~drgn_pageowner.model.session.Session`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from drgn import Object, Program

from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.kernel.dump.damage import DAMAGE, in_words, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.dump.live import is_live
from drgn_pageowner.kernel.linux.kallsyms import module_names
from drgn_pageowner.kernel.linux.printk import log_records, panic_message
from drgn_pageowner.kernel.linux.source_lines import source_frames
from drgn_pageowner.kernel.read.kernel import read_facts
from drgn_pageowner.kernel.read.pages import read_all_pages
from drgn_pageowner.kernel.read.records import RecordReader, read_records
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import record_of_row
from drgn_pageowner.model.kept import keeps_results, kept_as
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.page import PageInfo
from drgn_pageowner.model.pages import Memory
from drgn_pageowner.model.records import Snapshot, Summing
from drgn_pageowner.model.session import Begun, Finish

if TYPE_CHECKING:
    from drgn_pageowner.kernel.read.heap import HeapReader
    from drgn_pageowner.kernel.read.inventory import InventoryReader
    from drgn_pageowner.kernel.read.words import WordFinder
    from drgn_pageowner.model.crash import Crash
    from drgn_pageowner.model.fingerprint import Contents
    from drgn_pageowner.model.heap import Heap, HeapTarget, Inventory, LeakSearch, Word
    from drgn_pageowner.model.info import OwnerSource
    from drgn_pageowner.model.object_facts import ObjectFacts
    from drgn_pageowner.model.object_owners import ObjectOwners
    from drgn_pageowner.model.packed import Packing
    from drgn_pageowner.model.stacks import StackList
    from drgn_pageowner.model.tags import TagUse

__all__ = ("ProgramSession",)

T = TypeVar("T")

# Number of records that are looked at together.
_ROWS = 1 << 19


class ProgramSession:
    """Session on a dump or running kernel; drgn's exceptions become errors of one line."""

    def __init__(self, prog: Program, name: str = "dump") -> None:
        """
        :param prog: Program to read.
        :param name: Name of the program in output that compares several programs.
        """
        self._kernel = Kernel.of(prog)
        self._name = name
        self._inventory: InventoryReader | None = None
        self._heap: HeapReader | None = None
        self._finder: WordFinder | None = None
        self._pages: weakref.ref[Memory] | None = None
        self._page_problems: Sequence[str] | None = None

    @classmethod
    def of(cls, prog: Program) -> ProgramSession:
        """
        Get the session of *prog*.

        :return: For a dump, the same session on every call, because its heap takes long to read;
            for a running kernel, a new session.
        """
        return cls(prog) if is_live(prog) else _session_of(Kernel.of(prog))

    def members(self) -> Mapping[str, ProgramSession]:
        return {self._name: self}

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        wanted = None if columns is None else frozenset(columns)
        # With the time column, the inventory's records also have the same time of the dump.
        if wanted is not None and "ts_nsec" in wanted and not freed:
            known = self._whole_records(wanted)
            if known is not None:
                return known
        return self._once(
            ("records", wanted, freed),
            lambda kernel: read_records(kernel, columns=wanted, freed=freed),
        )

    def record_parts(
        self,
        columns: Iterable[str] | None,
        *,
        freed: bool = False,
        summing: Summing | None = None,
    ) -> Iterator[Snapshot]:
        from drgn_pageowner.kernel.read.record_parts import read_record_parts

        if self.is_live():
            yield self.snapshot(columns, freed=freed)
            return
        if columns is not None and not freed:
            known = self._known_records(frozenset(columns))
            if known is not None:
                yield from known.pieces(_ROWS)
                return
        parts = read_record_parts(self._kernel, columns=columns, freed=freed, summing=summing)
        while (part := self._ask(lambda _: next(parts, None))) is not None:
            yield part

    def at_once(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        from drgn_pageowner.kernel.dump.parallel import at_once

        return at_once(self._kernel, functions, size=self._size())

    def beside(self, function: Begun) -> AbstractContextManager[Finish | None]:
        from drgn_pageowner.kernel.dump.parallel import beside

        return beside(self._kernel, function, size=self._size())

    def _size(self) -> int:
        """Return the size of all ``struct page``, in bytes."""
        return self._kernel.struct_page_size * read_facts(self._kernel).max_pfn

    def _whole_records(self, wanted: frozenset[str]) -> Snapshot | None:
        """
        Return the records of the inventory, if results are kept, and the records have the columns
        *wanted* and were read without problems; otherwise ``None``.
        """
        if self._inventory is None or not keeps_results():
            return None
        return self._inventory.inventory.records_with(wanted)

    def _known_records(self, wanted: frozenset[str]) -> Snapshot | None:
        """Return what :meth:`_whole_records` does, with only the columns *wanted*."""
        records = self._whole_records(wanted)
        return (
            records.only(wanted, read_facts(self._kernel).now_ns) if records is not None else None
        )

    def stack_list(self) -> StackList:
        from drgn_pageowner.kernel.linux.page_owner_stacks import read_stack_list

        return self._ask(read_stack_list)

    def tags(self) -> TagUse:
        from drgn_pageowner.kernel.read.tags import read_tag_use

        return self._ask(read_tag_use)

    def owner_sources(self) -> Sequence[OwnerSource]:
        from drgn_pageowner.kernel.read.owner_sources import read_owner_sources

        return self._ask(read_owner_sources)

    def add_source_lines(self, snapshot: Snapshot, pcs: Iterable[int]) -> None:
        snapshot.source_lines.update(source_frames(self._kernel, pcs))

    def is_live(self) -> bool:
        return is_live(self._kernel.prog)

    def facts(self) -> Facts:
        def read(kernel: Kernel) -> Facts:
            facts = read_facts(kernel)
            if not facts.live:
                facts.panic_message = panic_message(kernel)
                facts.log_read = bool(log_records(kernel))
            return facts

        return self._ask(read)

    def memory(self, columns: Iterable[str], *, packing: Packing | None = None) -> Memory:
        wanted = frozenset(columns)
        if self._inventory is not None and keeps_results():
            memory = self._inventory.inventory.memory
            if wanted <= memory.pages.columns.keys():
                return memory
        return self._noted(
            self._once(
                ("pages", wanted, packing is not None),
                lambda kernel: read_all_pages(kernel, columns=wanted, packing=packing),
            )
        )

    def _noted(self, memory: Memory) -> Memory:
        """Note that *memory* of a dump need not be read again, and return it."""
        if not self.is_live():
            self._page_problems = memory.problems
            if "head" in memory.pages.columns:
                self._pages = weakref.ref(memory)
        return memory

    def inventory(self, *, owners: bool = True) -> Inventory:
        if not owners and self._inventory is None and not keeps_results():
            from drgn_pageowner.kernel.read.inventory import InventoryReader

            return self._ask(lambda kernel: InventoryReader(kernel, owners=False).inventory)
        return self._inventory_reader().inventory

    def covering_records(self, memory: Memory, columns: Iterable[str]) -> tuple[Snapshot, Array]:
        wanted = frozenset(columns)
        if keeps_results():
            records = self.snapshot(wanted)
            known = self._inventory.inventory if self._inventory is not None else None
            if known is not None and known.memory is memory and known.records is records:
                return records, known.record_of_row
            return records, record_of_row(memory.pages, records)

        def read(kernel: Kernel) -> tuple[Snapshot, Array]:
            reader = RecordReader(kernel, columns=wanted, covering=True, narrow=True)
            records = reader.read()
            found = reader.record_of_row(memory.pages, records)
            # The pages of each record are known now.
            for name in {"pfn", "order"} - wanted:
                del records.columns[name]
            return records, found

        return self._ask(read)

    def uses(self, columns: Iterable[str], *, packing: Packing | None = None) -> Inventory:
        from drgn_pageowner.kernel.read.inventory import InventoryReader

        wanted = frozenset(columns)
        found = self._ask(
            lambda kernel: (
                InventoryReader(kernel, without_records=wanted, packing=packing).inventory
            )
        )
        self._noted(found.memory)
        return found

    def _inventory_reader(self) -> InventoryReader:
        if self._inventory is None:
            from drgn_pageowner.kernel.read.inventory import InventoryReader

            self._inventory = self._ask(InventoryReader)
            self._noted(self._inventory.inventory.memory)
            # The free objects are marked in the inventory of a heap alone.
            self._heap = self._finder = None
        return self._inventory

    def heap(self, *, types: bool = False) -> Heap:
        heap = self._heap_reader(types=types).heap
        return heap if types else heap.untyped()

    def forget_heap(self) -> None:
        self._heap = self._finder = None

    def forget(self) -> None:
        self.forget_heap()
        self._inventory = None

    def _heap_reader(self, *, types: bool = False) -> HeapReader:
        if keeps_results():
            # The inventory is for other commands, too, so it must be whole.
            self._inventory_reader()
        if self._heap is None or (types and self._heap.typed is None):
            from drgn_pageowner.kernel.read.heap import HeapReader
            from drgn_pageowner.kernel.read.inventory import InventoryReader

            self._heap = self._ask(
                lambda kernel: HeapReader(
                    kernel, self._inventory or InventoryReader(kernel, of_heap=True), types=types
                )
            )
            self._finder = None
        return self._heap

    def saved_search(self, *, slab: bool) -> LeakSearch | None:
        return None

    def object_owners(self) -> ObjectOwners:
        from drgn_pageowner.kernel.read.object_owners import read_object_owners

        # Pages are not read again while somebody holds them.
        memory = self._pages() if self._pages is not None else None
        return self._ask(lambda kernel: read_object_owners(kernel, memory))

    def slab_objects(self, objects: Array) -> ObjectFacts:
        from drgn_pageowner.kernel.read.object_owners import read_object_facts

        inventory = self._heap_reader().heap.inventory
        pages, slabs = inventory.memory.pages, inventory.slabs
        return self._ask(
            lambda kernel: read_object_facts(kernel, pages, slabs, objects, inventory.problems)
        )

    def contents(self, nodes: Array) -> Contents:
        from drgn_pageowner.kernel.read.fingerprint import read_contents

        reader = self._heap_reader()
        return self._ask(lambda _: read_contents(reader, nodes))

    def memory_at(self, addresses: Array, size: int) -> Sequence[bytes]:
        from drgn_pageowner.kernel.read.fingerprint import read_bytes

        return self._ask(lambda kernel: read_bytes(kernel, addresses, size))

    def target(self, what: str) -> HeapTarget:
        return self._ask(lambda _: self._word_finder().target(what))

    def words(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]:
        return self._ask(
            lambda _: self._word_finder().words(sources, targets, numbers=numbers, limit=limit)
        )

    def mappings(self, target: HeapTarget, limit: int = 1 << 30) -> list[Word]:
        return self._ask(lambda _: self._word_finder().mappings(target, limit))

    def typed_object(self, address: int) -> Object:
        """
        Get a reference object at *address* with the type that was inferred for it.

        :raises LookupError: if the type is unknown
        """
        from drgn_pageowner.kernel.read.word_types import object_at

        found = self._ask(lambda kernel: object_at(kernel, self._heap_reader(types=True), address))
        if found is None:
            raise LookupError(f"the type of what is at {address:#x} is unknown")
        return found

    def typed_word(self, address: int) -> tuple[str, str] | None:
        from drgn_pageowner.kernel.read.word_types import word_at

        return self._ask(lambda kernel: word_at(kernel, self._heap_reader(types=True), address))

    def _word_finder(self) -> WordFinder:
        from drgn_pageowner.kernel.read.words import WordFinder

        reader = self._heap_reader()
        if self._finder is None:
            self._finder = WordFinder(reader)
        return self._finder

    def layout_pack(self) -> bytes:
        from drgn_pageowner.kernel.layout.pack import layout_pack

        # Do not convert exceptions, because errors in DWARF are not damage of the dump.
        return layout_pack(self._kernel.prog)

    def losses(self) -> Sequence[str]:
        contents = self._kernel.contents if not self.is_live() else None
        if contents is None:
            return []
        known = self.facts().problems
        # The struct pages show which pages are missing although no dump level excludes them.
        if len(contents.excluded):
            try:
                problems = self._page_problems
                known = [*known, *(self.memory(()).problems if problems is None else problems)]
            except PageOwnerError as error:
                if not str(error).endswith(tuple(known)):
                    known = [*known, str(error)]
        return self._kernel.problems(known)

    def modules(self) -> list[str]:
        return module_names(self._kernel.reading())

    def crash(self) -> Crash:
        from drgn_pageowner.kernel.read.crash import read_crash

        return self._ask(read_crash)

    def page(self, what: str) -> PageInfo:
        from drgn_pageowner.kernel.read.page import page_report

        return self._ask(lambda kernel: page_report(kernel, what))

    def _once(self, key: tuple[Hashable, ...], question: Callable[[Kernel], T]) -> T:
        """
        Return the result of *question*, as :meth:`_ask` does.

        For a dump, *question* is called only once while results are kept
        (:func:`~drgn_pageowner.model.kept.kept_as`).

        :param key: Distinguishes this question from all others.
        """
        if self.is_live():
            return self._ask(question)
        return kept_as((id(self), *key), self, lambda: self._ask(question))

    def _ask(self, question: Callable[[Kernel], T]) -> T:
        """
        Call *question*, with new caches if the kernel is running. If the call fails because a
        running kernel freed memory, *question* is called once more.

        :raises PageOwnerError: instead of drgn's own exceptions, in one line
        """
        if not is_live(self._kernel.prog):
            return self._of_file(lambda: question(self._kernel))
        try:
            return question(self._kernel.reading())
        except DAMAGE as error:
            unless_mistaken(error)
        try:
            return question(self._kernel.reading())
        except DAMAGE as error:
            unless_mistaken(error)
            raise PageOwnerError(
                "the running kernel changed while it was read, twice "
                f"({str(error) or type(error).__name__}): try again"
            ) from error

    def _of_file(self, question: Callable[[], T]) -> T:
        """
        Call *question*; if that fails, first report the pages that are missing from the file.

        :raises PageOwnerError: instead of drgn's own exceptions, in one line
        """
        try:
            return _in_one_line(question)
        except UsageError:
            raise
        except PageOwnerError as error:
            contents = self._kernel.contents
            lines = contents.problems() if contents is not None else []
            if not lines or str(error).startswith(lines[0]):
                raise
            raise PageOwnerError("; ".join([*lines, str(error)])) from error


@once
def _session_of(kernel: Kernel) -> ProgramSession:
    return ProgramSession(kernel.prog)


def _in_one_line(answer: Callable[[], T]) -> T:
    """
    Call *answer*, and convert exceptions about missing or damaged memory to one-line errors.

    :raises PageOwnerError: instead of drgn's own exceptions
    """
    try:
        return answer()
    except DAMAGE as error:
        unless_mistaken(error)
        raise PageOwnerError(in_words(error)) from error
