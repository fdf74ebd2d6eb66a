# SPDX-License-Identifier: LGPL-2.1-or-later
"""Implement :class:`~drgn_pageowner.model.session.Session` for texts that a kernel printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.crash import Crash
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.records import Snapshot, Summing
from drgn_pageowner.model.session import Begun, Finish, one_after_another
from drgn_pageowner.model.stacks import StackList
from drgn_pageowner.model.tags import TagUse
from drgn_pageowner.storage.text.allocinfo import read_allocinfo
from drgn_pageowner.storage.text.page_owner import read_page_owner
from drgn_pageowner.storage.text.page_owner_stacks import read_page_owner_stacks
from drgn_pageowner.storage.text.sorted import read_sorted
from drgn_pageowner.storage.text.source import KINDS, TextFile

if TYPE_CHECKING:
    from drgn_pageowner.model.arrays import Array
    from drgn_pageowner.model.fingerprint import Contents
    from drgn_pageowner.model.heap import Heap, HeapTarget, Inventory, LeakSearch, Word
    from drgn_pageowner.model.info import OwnerSource
    from drgn_pageowner.model.object_facts import ObjectFacts
    from drgn_pageowner.model.object_owners import ObjectOwners
    from drgn_pageowner.model.packed import Packing
    from drgn_pageowner.model.page import PageInfo
    from drgn_pageowner.model.pages import Memory
    from drgn_pageowner.model.tags import Tags

__all__ = ("TextSession",)

_PAGE_SIZE = 4096
# Names of entry code of x86, by which texts of that architecture are recognized. Its pages always
# have 4096 bytes.
_X86 = re.compile(
    r"entry_SYSCALL_\w+|entry_INT80_\w+|asm_exc_\w+|x64_sys_call|__(x64|ia32)_sys_\w+"
)


class TextSession:
    """
    Session on a text that a kernel printed.

    Methods for data that the text does not contain raise an error of one line.
    """

    def __init__(self, path: str, kind: str, page_size: int | None = None) -> None:
        """
        :param path: Path of the text.
        :param kind: Kind of text: a key of :data:`~drgn_pageowner.storage.text.source.KINDS`.
        :param page_size: Page size of the machine, in bytes, because texts do not contain it.
        :raises PageOwnerError: if *path* cannot be read
        """
        self.path = path
        self._kind = kind
        self._page_size = page_size
        self._file = TextFile(path)

    def members(self) -> Mapping[str, TextSession]:
        return {self.path: self}

    @cached_property
    def _facts(self) -> Facts:
        """Facts that are known without reading the text."""
        return Facts(
            release="",
            page_size=self._page_size or _PAGE_SIZE,
            max_page_order=0,
            pageblock_order=0,
            layout={"text": self._kind},
        )

    @cached_property
    def _read(self) -> tuple[Snapshot, StackList | None]:
        if self._kind == "allocinfo":
            self._does_not_say("any record of page_owner")
        facts, listed = replace(self._facts), None
        if self._kind == "page_owner":
            snapshot, _ = read_page_owner(self._file, facts)
        elif self._kind == "sorted":
            snapshot, _ = read_sorted(self._file, facts)
        else:
            snapshot, listed = read_page_owner_stacks(self._file, facts)
        if self._page_size is None and not self._is_x86(snapshot):
            snapshot.problems.append(
                f"the text does not say how large a page is: {_PAGE_SIZE} bytes are assumed "
                "(--page-size)"
            )
        return snapshot, listed

    def _is_x86(self, snapshot: Snapshot) -> bool:
        frames = snapshot.frames(snapshot.stacks.pcs.tolist())
        return any(frame.name is not None and _X86.fullmatch(frame.name) for frame in frames)

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        return self._read[0]

    def record_parts(
        self,
        columns: Iterable[str] | None,
        *,
        freed: bool = False,
        summing: Summing | None = None,
    ) -> Iterator[Snapshot]:
        yield self.snapshot(columns, freed=freed)

    def at_once(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        return one_after_another(functions)

    def beside(self, function: Begun) -> AbstractContextManager[Finish | None]:
        return nullcontext()

    def tags(self) -> TagUse:
        if self._kind != "allocinfo":
            self._does_not_say("allocation tags")
        return TagUse(self._tags, None, self._facts.page_size, self._tags.problems)

    @cached_property
    def _tags(self) -> Tags:
        return read_allocinfo(self._file)

    def stack_list(self) -> StackList:
        listed = self._read[1]
        if listed is None:
            self._does_not_say("page_owner's list of stacks")
        return listed

    def owner_sources(self) -> Sequence[OwnerSource]:
        return ()

    def add_source_lines(self, snapshot: Snapshot, pcs: Iterable[int]) -> None:
        self._does_not_say("source lines")

    def is_live(self) -> bool:
        return False

    def facts(self) -> Facts:
        return self._facts if self._kind == "allocinfo" else self._read[0].facts

    def memory(self, columns: Iterable[str], *, packing: Packing | None = None) -> Memory:
        self._does_not_say("the state of pages")

    def inventory(self, *, owners: bool = True) -> Inventory:
        self._does_not_say("what pages are used for")

    def covering_records(self, memory: Memory, columns: Iterable[str]) -> tuple[Snapshot, Array]:
        self._does_not_say("the state of pages")

    def uses(self, columns: Iterable[str], *, packing: Packing | None = None) -> Inventory:
        self._does_not_say("what pages are used for")

    def losses(self) -> Sequence[str]:
        return ()

    def modules(self) -> list[str]:
        """Return the names of the modules that the text mentions; more may have been loaded."""
        if self._kind == "allocinfo":
            return sorted({tag.module for tag in self._tags.places if tag.module is not None})
        snapshot = self._read[0]
        frames = snapshot.frames(snapshot.stacks.pcs.tolist())
        return sorted({frame.module for frame in frames if frame.module is not None})

    def crash(self) -> Crash:
        return Crash()

    def heap(self, *, types: bool = False) -> Heap:
        self._does_not_say("who points to whom")

    def forget_heap(self) -> None:
        pass

    def forget(self) -> None:
        pass

    def typed_word(self, address: int) -> tuple[str, str] | None:
        self._does_not_say("the types of objects")

    def saved_search(self, *, slab: bool) -> LeakSearch | None:
        return None

    def object_owners(self) -> ObjectOwners:
        self._does_not_say("where objects are")

    def slab_objects(self, objects: Array) -> ObjectFacts:
        self._does_not_say("where objects are")

    def layout_pack(self) -> bytes:
        self._does_not_say("the layout of the kernel")

    def contents(self, nodes: Array) -> Contents:
        self._does_not_say("what is in pages")

    def memory_at(self, addresses: Array, size: int) -> Sequence[bytes]:
        self._does_not_say("what is in pages")

    def target(self, what: str) -> HeapTarget:
        self._does_not_say("who points to whom")

    def words(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]:
        self._does_not_say("who points to whom")

    def mappings(self, target: HeapTarget, limit: int = 1 << 30) -> list[Word]:
        self._does_not_say("what maps a page")

    def page(self, what: str) -> PageInfo:
        self._does_not_say("the state of pages")

    def _does_not_say(self, what: str) -> NoReturn:
        raise PageOwnerError(
            f"{self.path} is {KINDS[self._kind]} as text, which does not say {what}: ask a dump "
            "(-c) or what `save` wrote of one"
        )
