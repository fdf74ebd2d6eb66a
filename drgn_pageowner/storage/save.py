# SPDX-License-Identifier: LGPL-2.1-or-later
"""Save the data of a session in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.model.heap import Inventory, LeakSearch
from drgn_pageowner.model.kept import keeping_nothing
from drgn_pageowner.model.kernel import Names
from drgn_pageowner.model.object_owners import ObjectOwners
from drgn_pageowner.model.pages import Memory
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import Session
from drgn_pageowner.storage.container import (
    Columns,
    RecordRows,
    fast_packing,
    new_container,
    packed_tables,
)
from drgn_pageowner.storage.leaks import search_tables
from drgn_pageowner.storage.machine import PAGE_COLUMNS, inventory_tables, memory_tables
from drgn_pageowner.storage.object_owners import object_owner_tables
from drgn_pageowner.storage.plain import as_json
from drgn_pageowner.storage.records import (
    BASIC_COLUMNS,
    SavedRecords,
    record_tables,
    stack_list_tables,
)
from drgn_pageowner.storage.tags import tag_tables

__all__ = ("Saved", "save")

T = TypeVar("T")

# Number of pages from which on columns are compressed until they are saved.
_MANY_PAGES = 1 << 22
_WITHOUT_LEAKS = "this snapshot was saved without leaks: save it with --leaks"


class Saved:
    """Result of saving a session: sizes of the saved parts, and why other parts are missing."""

    def __init__(self) -> None:
        self.records = 0
        """Number of records, including those of freed pages."""
        self.pages = 0
        """Number of pages of the machine."""
        self.size = 0
        """Size of the file in bytes."""
        self.unavailable: dict[str, str] = {}
        """For each part that was not saved, by name, one line that says why."""
        self.lacking: dict[str, str] = {}
        """The entries of :attr:`unavailable` that the user is told about."""
        self.problems: list[str] = []
        """Problems of the dump, one line each."""

    def attempt(self, part: str, read: Callable[[], T]) -> T | None:
        """Call *read* to read *part*; if that fails, note the reason and return ``None``."""
        try:
            return read()
        except PageOwnerError as error:
            self.unavailable[part] = self.lacking[part] = str(error)
            return None


def save(
    session: Session,
    path: str,
    *,
    source: bool = False,
    search: Callable[[], LeakSearch] | None = None,
    dump: Mapping[str, str | int | None] | None = None,
) -> Saved:
    """
    Save all decoded data of *session* in a file; contents of memory are not saved.

    :param path: Path of the file.
    :param source: Whether to save inlined functions and source lines of all stacks, too.
    :param search: Function that searches for leaks, to save the result as well.
    :param dump: ``id``, ``size`` and ``build_id`` of the dump, to save as well.
    :raises PageOwnerError: if the kernel is unknown, or the file cannot be written
    """
    saved = Saved()
    # If the kernel is unknown, no part can be read.
    session.facts()
    records = saved.attempt("records", lambda: SavedRecords(session))
    if records is not None and "pfn" not in records.about:
        raise PageOwnerError(
            "a text that sums up pages has no records to save: it is read as it is (-S)"
        )
    rows = records.rows() if records is not None else _NO_RECORDS
    many = rows.number is None
    with new_container(path, rows) as file:
        if many:
            # What the records refer to is found while they are written.
            file.write_records(rows)
        tables, documents, head = _everything_else(session, saved, records, source, search)
        file.write_pieces(tables, documents)
        if not many:
            file.write_records(rows)
        more: dict[str, Any] = {"dump": dict(dump)} if dump is not None else {}
        saved.size = file.finish({**more, **head})
    return saved


def _everything_else(
    session: Session,
    saved: Saved,
    records: SavedRecords | None,
    source: bool,
    search: Callable[[], LeakSearch] | None,
) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """
    Read everything but the records.

    :return: Tables and documents by name, and members of the document that is read first. Tables
        are compressed one after another, so that few of them are in memory.
    """
    tables: dict[str, bytes] = {}
    documents: dict[str, Any] = {}
    head: dict[str, Any] = {}
    if records is not None:
        everything = records.about
        basic = _basic_problems(session, everything)
        if source:
            source = saved.attempt("source", lambda: _add_source(session, everything)) is not None
        _add(record_tables(records, basic, source=source), tables, documents)
        saved.records = records.number
        saved.problems += everything.problems
    try:
        listed = session.stack_list()
        tables |= packed_tables(stack_list_tables(listed))
        head["stack_list_threshold"] = listed.threshold
    except PageOwnerError as error:
        # Most kernels have no such list, and nothing else depends on it.
        saved.unavailable["stack_list"] = str(error)
    try:
        use = session.tags()
        tables |= packed_tables(tag_tables(use))
        head["tags_version"] = use.tags.version
        head["tags_problems"] = list(use.problems)
    except PageOwnerError as error:
        saved.unavailable["tags"] = str(error)
    names = _add_machine(session, saved, records, search, tables, documents)
    known = records.about.names if records is not None else None
    documents["names"] = as_json(known or names or Names())
    modules, crash = session.modules(), session.crash()
    saved.problems = list(dict.fromkeys([*saved.problems, *session.losses()]))
    head |= {
        "facts": as_json(session.facts()),
        "modules": modules,
        "crash": as_json(crash),
        "losses": saved.problems,
        "owner_sources": as_json(list(session.owner_sources())),
        "unavailable": saved.unavailable,
    }
    return tables, documents, head


def _add_machine(
    session: Session,
    saved: Saved,
    records: SavedRecords | None,
    search: Callable[[], LeakSearch] | None,
    tables: dict[str, bytes],
    documents: dict[str, Any],
) -> Names | None:
    """
    Add all pages, what they are used for, the owners of slab objects, and leaks.

    :return: The names of this kernel; ``None`` if the pages cannot be read.
    """
    pages, uses = _read_pages(session, saved, records if search is None else None)
    names, owners = None, None
    if pages is not None:
        names = pages.pages.names
        _add(memory_tables(pages), tables, documents)
        saved.pages = len(pages.pages)
        saved.problems += pages.problems
        # While the pages are in memory, they are not read again.
        owners = _object_owners(session)
        del pages
    # A search for leaks finds more free objects in the slabs of an inventory. Without records, it
    # also finds more uses of pages, which are not part of that.
    recorded = records is not None and session.facts().page_owner not in NO_RECORDS
    if owners is not None and search is not None and not recorded:
        uses = saved.attempt("inventory", session.inventory)
    found = _WITHOUT_LEAKS if search is None else _searched(search, records)
    if isinstance(found, LeakSearch) and recorded:
        uses = found.inventory
    if owners is None:
        saved.unavailable["inventory"] = saved.unavailable["memory"]
    else:
        _add_uses(session, saved, uses, owners, tables, documents)
    if isinstance(found, LeakSearch):
        _add(search_tables(found), tables, documents)
    else:
        saved.unavailable["leaks"] = found
        if search is not None:
            saved.lacking["leaks"] = found
    return names


def _read_pages(
    session: Session, saved: Saved, records: SavedRecords | None
) -> tuple[Memory | None, Inventory | None]:
    """
    Return all pages, and what they are used for if that can be read with them.

    :param records: The records, whose problems are those of an inventory, too; ``None`` if the
        inventory is made later.
    """
    packing = fast_packing() if session.facts().max_pfn > _MANY_PAGES else None
    if records is not None and not records.about.problems:
        with suppress(PageOwnerError):
            uses = session.uses(PAGE_COLUMNS, packing=packing)
            return uses.memory, uses
    # Nobody else asks for all columns of pages, which take much memory.
    with keeping_nothing():
        return saved.attempt("memory", lambda: session.memory(PAGE_COLUMNS, packing=packing)), None


def _add(
    more: tuple[dict[str, Columns], dict[str, Any]],
    tables: dict[str, bytes],
    documents: dict[str, Any],
) -> None:
    """
    Add tables and documents to those that will be written.

    :param more: Tables by name, and documents by name.
    """
    tables |= packed_tables(more[0])
    documents |= more[1]


def _object_owners(session: Session) -> ObjectOwners | str:
    """Return the owners of slab objects, or why there are none."""
    try:
        return session.object_owners()
    except PageOwnerError as error:
        return str(error)


def _add_uses(
    session: Session,
    saved: Saved,
    uses: Inventory | None,
    owners: ObjectOwners | str,
    tables: dict[str, bytes],
    documents: dict[str, Any],
) -> None:
    """
    Add what pages are used for, and the owners of slab objects, which only ``top --slab`` and
    ``account --slab`` need.

    :param uses: What pages are used for, if it is known.
    :param owners: The result of :func:`_object_owners`.
    """
    if uses is None:
        uses = saved.attempt("inventory", session.inventory)
    if uses is None:
        return
    _add(inventory_tables(uses), tables, documents)
    saved.problems += uses.problems
    if isinstance(owners, str):
        saved.unavailable["slab_owners"] = owners
    elif len(owners.slabs) != len(uses.slabs):
        saved.unavailable["slab_owners"] = "slabs came and went while a running kernel was saved"
    else:
        _add(object_owner_tables(owners), tables, documents)


def _basic_problems(session: Session, everything: Snapshot) -> list[str]:
    """Return the problems of a snapshot with only :data:`BASIC_COLUMNS`."""
    # Fewer columns have no other problems, so most dumps need not be read once more.
    if not everything.problems:
        return []
    *_, last = session.record_parts(BASIC_COLUMNS, freed=True)
    return last.problems


def _add_source(session: Session, records: Snapshot) -> Snapshot:
    """Fill in the source lines of all stacks of *records*, and return *records*."""
    session.add_source_lines(records, np.unique(records.stacks.pcs).tolist())
    return records


def _searched(search: Callable[[], LeakSearch], records: SavedRecords | None) -> LeakSearch | str:
    """Return the result of *search*, or why there is none."""
    try:
        found = search()
    except PageOwnerError as error:
        return str(error)
    # Without page_owner records, the search found allocations from the state of pages instead.
    pfn = found.records["pfn"]
    if found.recorded and not (records.has_pfns(pfn) if records is not None else not len(pfn)):
        return "records changed during the search: save a dump of the kernel instead"
    return found


_NO_RECORDS = RecordRows(
    {"pfn": np.zeros(0, np.int64), "order": np.zeros(0, np.uint8), "allocated": np.zeros(0, bool)},
    number=0,
    parts=(),
)
