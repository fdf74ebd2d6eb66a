# SPDX-License-Identifier: LGPL-2.1-or-later
"""Implement :class:`~drgn_pageowner.model.session.Session` for files that ``save`` wrote."""

from __future__ import annotations

import glob
import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError, UsageError
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.crash import Crash
from drgn_pageowner.model.info import OwnerSource
from drgn_pageowner.model.kept import keeps_results, kept_as
from drgn_pageowner.model.kernel import Facts, Names
from drgn_pageowner.model.records import Snapshot, Summing
from drgn_pageowner.model.session import Begun, Finish, one_after_another
from drgn_pageowner.model.stacks import SourceFrame, StackList
from drgn_pageowner.model.tags import TagUse
from drgn_pageowner.storage.check import check_facts, check_names, require
from drgn_pageowner.storage.container import Container
from drgn_pageowner.storage.dataset import MARKER, Dataset
from drgn_pageowner.storage.places import is_url
from drgn_pageowner.storage.plain import restore
from drgn_pageowner.storage.records import (
    load_record_parts,
    load_records,
    load_stack_list,
    read_source,
)
from drgn_pageowner.storage.tags import load_tag_use
from drgn_pageowner.storage.text.source import kind_of_text

if TYPE_CHECKING:
    from drgn_pageowner.model.fingerprint import Contents
    from drgn_pageowner.model.heap import Heap, HeapTarget, Inventory, LeakSearch, Word
    from drgn_pageowner.model.object_facts import ObjectFacts
    from drgn_pageowner.model.object_owners import ObjectOwners
    from drgn_pageowner.model.packed import Packing
    from drgn_pageowner.model.page import PageInfo
    from drgn_pageowner.model.pages import Memory
    from drgn_pageowner.model.session import Session

__all__ = ("DatasetSession", "SnapshotSession", "open_file", "open_snapshots")

# Number of records that are looked at together.
_ROWS = 1 << 19
# The parts of a file of which it is said if they could not be saved.
_PARTS = frozenset(("records", "memory", "inventory", "leaks", "source"))


class SnapshotSession:
    """
    Session on a file that ``save`` wrote.

    Methods that need the contents of memory, which are not in the file, raise an error of one line.
    """

    def __init__(self, path: str) -> None:
        """
        :param path: Path of the file.
        :raises PageOwnerError: if *path* is not a file that ``save`` wrote
        """
        self.path = path
        self._container = Container(path)
        self._source: dict[int, list[SourceFrame]] | None = None
        self._kept: Callable[[], Inventory | None] = lambda: None

    @property
    def _file(self) -> Container:
        return self._container

    def _needs(self, part: str) -> None:
        """
        Check that the file contains *part*.

        :raises PageOwnerError: if *part* could not be saved
        """
        reason = self._file.head["unavailable"].get(part)
        if reason is not None:
            raise PageOwnerError(reason)

    @cached_property
    def _facts(self) -> Facts:
        with self._file.checked():
            facts: Facts = restore(Facts, self._file.head["facts"])
            check_facts(facts)
            return facts

    @cached_property
    def _names(self) -> Names:
        with self._file.checked():
            names: Names = restore(Names, self._file.document("names"))
            check_names(names)
            return names

    def _facts_of_memory(self) -> Facts:
        # The panic message is not part of the memory's facts.
        return replace(self._facts, panic_message=None)

    def members(self) -> Mapping[str, Session]:
        return {self.path: self}

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        self._needs("records")
        wanted = None if columns is None else frozenset(columns)
        # With the time column, the inventory's records also have the same time of the dump.
        if wanted is not None and "ts_nsec" in wanted and not freed:
            known = self._whole_records(wanted)
            if known is not None:
                return known
        return kept_as(
            (id(self), "records", wanted, freed),
            self,
            lambda: load_records(self._file, self._facts, self._names, wanted, freed=freed),
        )

    def record_parts(
        self,
        columns: Iterable[str] | None,
        *,
        freed: bool = False,
        summing: Summing | None = None,
    ) -> Iterator[Snapshot]:
        self._needs("records")
        wanted = None if columns is None else frozenset(columns)
        if wanted is not None and not freed:
            known = self._whole_records(wanted)
            if known is not None:
                return known.only(wanted, self._facts.now_ns).pieces(_ROWS)
        return load_record_parts(self._file, self._facts, self._names, wanted, freed=freed)

    def _whole_records(self, wanted: frozenset[str]) -> Snapshot | None:
        """Return the records of the inventory, if that is kept and they have the columns *wanted*
        and were read without problems; otherwise ``None``."""
        inventory = self._kept() if keeps_results() else None
        return inventory.records_with(wanted) if inventory is not None else None

    def at_once(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        return one_after_another(functions)

    def beside(self, function: Begun) -> AbstractContextManager[Finish | None]:
        return nullcontext()

    def stack_list(self) -> StackList:
        self._needs("stack_list")
        if "stack_list" not in self._file:
            raise PageOwnerError(
                f"{self.path} was saved by an earlier drgn-pageowner, without page_owner's list of "
                "stacks: save it again"
            )
        return load_stack_list(self._file)

    def tags(self) -> TagUse:
        self._needs("tags")
        if "tags" not in self._file:
            raise PageOwnerError(
                f"{self.path} was saved by an earlier drgn-pageowner, without allocation tags: "
                "save it again"
            )
        return load_tag_use(self._file, self._facts.page_size)

    def owner_sources(self) -> Sequence[OwnerSource]:
        with self._file.checked():
            saved: list[OwnerSource] = restore(
                list[OwnerSource], self._file.head.get("owner_sources", [])
            )
            return saved

    def add_source_lines(self, snapshot: Snapshot, pcs: Iterable[int]) -> None:
        if self._source is None:
            self._source = read_source(self._file)
        if self._source is None:
            raise PageOwnerError(
                f"{self.path} was saved without source lines: save it with --source"
            )
        known = self._source
        snapshot.source_lines.update((pc, known[pc]) for pc in pcs if pc in known)

    def is_live(self) -> bool:
        return False

    def facts(self) -> Facts:
        return self._facts

    def memory(self, columns: Iterable[str], *, packing: Packing | None = None) -> Memory:
        self._needs("memory")
        wanted = frozenset(columns)
        inventory = self._kept() if keeps_results() else None
        if inventory is not None and wanted <= inventory.memory.pages.columns.keys():
            return inventory.memory
        return kept_as(
            (id(self), "memory", wanted, packing is not None),
            self,
            lambda: self._memory(wanted, packing=packing),
        )

    def _memory(
        self, columns: Iterable[str], *, narrow: bool = False, packing: Packing | None = None
    ) -> Memory:
        from drgn_pageowner.storage.machine import load_memory

        self._needs("memory")
        facts, names = self._facts_of_memory(), self._names
        return load_memory(self._file, facts, names, columns, narrow=narrow, packing=packing)

    def inventory(self, *, owners: bool = True) -> Inventory:
        from drgn_pageowner.model.heap import INVENTORY_COLUMNS, INVENTORY_COLUMNS_OF_STACKS

        if not owners and not keeps_results():
            return self._inventory(INVENTORY_COLUMNS_OF_STACKS, narrow=True)
        found = kept_as(
            (id(self), "inventory"), self, lambda: self._inventory(INVENTORY_COLUMNS, narrow=False)
        )
        self._kept = weakref.ref(found)
        return found

    def _inventory(self, columns: Iterable[str], *, narrow: bool) -> Inventory:
        """
        Load an inventory.

        :param columns: Columns of the records.
        :param narrow: Whether to keep less of the pages.
        """
        from drgn_pageowner.storage.machine import INVENTORY_PAGES, load_inventory

        self._needs("inventory")
        memory = self._memory(INVENTORY_PAGES, narrow=narrow)
        records: Snapshot | None = None
        if self._why_no_records() is None:
            records = self._records(columns, narrow=narrow)
        return load_inventory(self._file, memory, records)

    def _records(self, columns: Iterable[str], *, narrow: bool) -> Snapshot:
        self._needs("records")
        return load_records(
            self._file, self._facts, self._names, columns, freed=False, narrow=narrow
        )

    def covering_records(self, memory: Memory, columns: Iterable[str]) -> tuple[Snapshot, Array]:
        from drgn_pageowner.model.heap import record_of_row

        wanted = frozenset(columns)
        if keeps_results():
            records, known = self.snapshot(wanted), self._kept()
            if known is not None and known.memory is memory and known.records is records:
                return records, known.record_of_row
            return records, record_of_row(memory.pages, records)
        records = self._records(wanted, narrow=True)
        found = record_of_row(memory.pages, records)
        # The pages of each record are known now.
        for name in {"pfn", "order"} - wanted:
            del records.columns[name]
        return records, found

    def uses(self, columns: Iterable[str], *, packing: Packing | None = None) -> Inventory:
        from drgn_pageowner.storage.machine import INVENTORY_PAGES, load_inventory

        self._needs("inventory")
        memory = self._memory({*INVENTORY_PAGES, *columns}, packing=packing)
        return load_inventory(self._file, memory, None)

    def losses(self) -> Sequence[str]:
        with self._file.checked():
            saved: list[str] = restore(list[str], self._file.head.get("losses", []))
            return saved

    def modules(self) -> list[str]:
        modules: list[str] = self._file.head["modules"]
        return modules

    def crash(self) -> Crash:
        # Files of earlier versions do not have it.
        with self._file.checked():
            crash: Crash = restore(Crash, self._file.head.get("crash", {}))
            return crash

    def copy_to(
        self,
        path: str,
        *,
        source: bool,
        unavailable: Mapping[str, str],
        dump: Mapping[str, Any],
    ) -> tuple[int, int, int] | None:
        """
        Copy the file, if saving it anew would write the same.

        :param source: Whether source lines are wanted.
        :param unavailable: The parts that would not be saved, and why.
        :param dump: What :meth:`dump` is to return.
        :return: Numbers of records and of pages, and the size of the file in bytes; ``None`` if it
            has to be saved anew.
        :raises PageOwnerError: if the file is damaged, or the copy cannot be written
        """
        head = self._file.head
        lacking = {part: why for part, why in head["unavailable"].items() if part in _PARTS}
        same = lacking == unavailable and source == ("source" in self._file)
        # Of other records, only the stacks in use are saved anew.
        same &= head["facts"]["page_owner"] == "on"
        if not (same and dump == head.get("dump") and self._file.is_as_written_now()):
            return None
        size = self._file.copy_to(path)
        pages = int(self._file.table("page_ranges")["pages"].sum())
        return self._file.number_of_records(freed=True), pages, size

    def dump(self) -> dict[str, Any] | None:
        """
        Return the identity of the dump that the file was saved from.

        :return: ``id`` of the dump, its ``size`` in bytes and the ``build_id`` of its kernel;
            ``None`` if the file was not saved from a dump, or does not say so.
        """
        known = self._file.head.get("dump")
        if known is None:
            return None
        with self._file.checked():
            require(re.fullmatch("[0-9a-f]{16}", known["id"]) is not None, "dump")
            require(type(known["size"]) in (int, type(None)), "dump")
            require(type(known["build_id"]) in (str, type(None)), "dump")
            return {name: known[name] for name in ("id", "size", "build_id")}

    def heap(self, *, types: bool = False) -> Heap:
        self._only_memory_knows("the pointers between allocations")

    def forget_heap(self) -> None:
        pass

    def forget(self) -> None:
        pass

    def typed_word(self, address: int) -> tuple[str, str] | None:
        self._only_memory_knows("the types of objects")

    def saved_search(self, *, slab: bool) -> LeakSearch:
        found = kept_as((id(self), "search"), self, self._search)
        return found if slab else replace(found, lost=None)

    def _search(self) -> LeakSearch:
        from drgn_pageowner.model.heap import INVENTORY_COLUMNS
        from drgn_pageowner.storage.leaks import load_search

        self._needs("leaks")
        # The inventory is for other commands, too, if it is kept.
        inventory = (
            self.inventory() if keeps_results() else self._inventory(INVENTORY_COLUMNS, narrow=True)
        )
        return load_search(self._file, inventory)

    def object_owners(self) -> ObjectOwners:
        from drgn_pageowner.storage.machine import load_slabs
        from drgn_pageowner.storage.object_owners import load_object_owners

        self._needs("inventory")
        self._needs("slab_owners")
        if "slab_owners" not in self._file:
            raise PageOwnerError(
                f"{self.path} was saved by an earlier drgn-pageowner, without the owners of slab "
                "objects: save it again"
            )
        return load_object_owners(self._file, load_slabs(self._file), self._facts.page_size)

    def slab_objects(self, objects: Array) -> ObjectFacts:
        self._only_memory_knows("the addresses of objects")

    def layout_pack(self) -> bytes:
        raise PageOwnerError(
            f"{self.path} is a snapshot, without the types of its kernel: write the layout pack of "
            "a dump (-c)"
        )

    def contents(self, nodes: Array) -> Contents:
        self._only_memory_knows("the contents of memory")

    def memory_at(self, addresses: Array, size: int) -> Sequence[bytes]:
        self._only_memory_knows("the contents of memory")

    def target(self, what: str) -> HeapTarget:
        self._only_memory_knows("the pointers between allocations")

    def words(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]:
        self._only_memory_knows("the pointers between allocations")

    def mappings(self, target: HeapTarget, limit: int = 1 << 30) -> list[Word]:
        self._only_memory_knows("the page tables of processes")

    def page(self, what: str) -> PageInfo:
        from drgn_pageowner.storage.page import PAGE_FACTS, page_info

        no_records = self._why_no_records()
        memory = self._memory(PAGE_FACTS, narrow=True)
        return page_info(what, memory, self._covering if no_records is None else None, no_records)

    def _covering(self, pfn: int) -> Snapshot:
        """Return the records whose pages include *pfn*."""
        self._needs("records")
        largest = 1 << self._facts.max_page_order
        parts = load_record_parts(
            self._file,
            self._facts,
            self._names,
            None,
            freed=True,
            pfns=range(pfn - largest + 1, pfn + 1),
        )
        some = [
            part.select((part["pfn"] <= pfn) & (part["pfn"] + part.pages > pfn)) for part in parts
        ]
        columns = {name: np.concatenate([part[name] for part in some]) for name in some[0].columns}
        return replace(some[-1], columns=columns)

    def _why_no_records(self) -> str | None:
        """Return the reason why the file has no page_owner records; ``None`` if it has records."""
        reason: str | None = self._file.head["unavailable"].get("records")
        # Rows made from tags are not page_owner records.
        return NO_RECORDS.get(self._facts.page_owner, reason)

    def _only_memory_knows(self, what: str) -> NoReturn:
        raise PageOwnerError(
            f"{self.path} is a snapshot, which does not contain {what}: use the dump (-c) that it "
            "was saved from"
        )


class _Several(SnapshotSession):
    """Session on several files, for commands that iterate over :meth:`members`."""

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._sessions = sessions

    def members(self) -> Mapping[str, Session]:
        return self._sessions

    @property
    def _file(self) -> Container:
        raise UsageError(f"{len(self._sessions)} snapshots: this command reads one at a time")


class DatasetSession(SnapshotSession):
    """
    Session on a dataset, for the commands ``sql`` and ``fleet``, which read its :attr:`dataset`.

    All other methods raise an error of one line.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.path = dataset.place.name
        self.dataset = dataset

    @property
    def _file(self) -> Container:
        raise UsageError(f"{self.path} is a dataset of many snapshots: only sql and fleet read it")


def open_file(path: str, page_size: int | None = None) -> Session:
    """
    Open a file that ``save`` wrote, or a text that a kernel printed.

    :param page_size: Page size of the machine, in bytes, if the file is a text.
    :raises PageOwnerError: if the file does not exist, or is neither a snapshot nor a known text
    """
    if is_url(path) or os.path.isdir(path):
        dataset = Dataset(path)
        if not dataset.exists:
            raise PageOwnerError(f"{path} is no dataset: it has no {MARKER}")
        return DatasetSession(dataset)
    kind = kind_of_text(path) if os.path.exists(path) else None
    if kind is None:
        return SnapshotSession(path)
    from drgn_pageowner.storage.text.session import TextSession

    return TextSession(path, kind, page_size)


def open_snapshots(patterns: Sequence[str], page_size: int | None = None) -> Session:
    """
    Open the files that match any of *patterns* (``*``, ``?`` and ``[...]``).

    :param page_size: Page size of the machine, in bytes, for files that are texts.
    :raises PageOwnerError: if one of them does not exist, or is neither a snapshot nor a known text
    """
    paths: list[str] = []
    for pattern in patterns:
        there = is_url(pattern) or os.path.exists(pattern)
        paths += [pattern] if there else sorted(glob.glob(pattern)) or [pattern]
    paths = list(dict.fromkeys(paths))
    if len(paths) == 1:
        return open_file(paths[0], page_size)
    return _Several({path: open_file(path, page_size) for path in paths})
