# SPDX-License-Identifier: LGPL-2.1-or-later
"""Save the data of a session in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

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
    digest_of,
    record_tables,
    stack_list_tables,
)
from drgn_pageowner.storage.session import SnapshotSession
from drgn_pageowner.storage.tags import tag_tables

__all__ = ("Saved", "SearchPieces", "copied", "save", "search_pieces")

T = TypeVar("T")

# Number of pages from which on columns are compressed until they are saved.
_MANY_PAGES = 1 << 22
_WITHOUT_LEAKS = "this snapshot was saved without leaks: save it with --leaks"


class Pieces(NamedTuple):
    """Tables and documents of a file, by name."""

    tables: dict[str, bytes]
    """Compressed."""
    documents: dict[str, Any]

    @classmethod
    def of(cls, plain: tuple[dict[str, Columns], dict[str, Any]]) -> Pieces:
        """Compress tables, one after another, so that few of them are in memory."""
        return cls(packed_tables(plain[0]), plain[1])

    def add(self, other: Pieces) -> None:
        """Add tables and documents."""
        self.tables.update(other.tables)
        self.documents.update(other.documents)


class UsePieces(NamedTuple):
    """What pages are used for, ready to be written."""

    pieces: Pieces
    slabs: int
    """Number of slabs."""
    problems: list[str]

    @classmethod
    def of(cls, uses: Inventory) -> UsePieces:
        """Compress *uses*."""
        return cls(Pieces.of(inventory_tables(uses)), len(uses.slabs), list(uses.problems))


class SearchPieces(NamedTuple):
    """What a search for leaks adds to a file, ready to be written by another process."""

    pieces: Pieces
    uses: UsePieces | None
    """What pages are used for, which the search found out, if there are page_owner records."""
    pfns: bytes | None
    """:func:`~drgn_pageowner.storage.records.digest_of` the records that it began with; ``None`` if
    it found allocations from the state of pages instead."""
    losses: list[str]
    """Problems of the dump that are known where the search was made, one line each."""


Search = Callable[[], LeakSearch | SearchPieces | str]
"""A function that searches for leaks; or that returns what :func:`search_pieces` returned in
another process."""


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
    search: Search | None = None,
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
        pieces, head = _everything_else(session, saved, records, source, search)
        file.write_pieces(pieces.tables, pieces.documents)
        if not many:
            file.write_records(rows)
        more: dict[str, Any] = {"dump": dict(dump)} if dump is not None else {}
        saved.size = file.finish({**more, **head})
    return saved


def copied(
    session: SnapshotSession,
    path: str,
    *,
    source: bool,
    leaks: bool,
    dump: Mapping[str, str | int | None],
) -> Saved | None:
    """
    Copy the file of *session*, if :func:`save` would write the same.

    The parameters are those of :func:`save`; *leaks* says whether to save a search for leaks.

    :return: ``None`` if it has to be saved anew.
    :raises PageOwnerError: if the file is damaged, or the copy cannot be written
    """
    lacking = {} if leaks else {"leaks": _WITHOUT_LEAKS}
    numbers = session.copy_to(path, source=source, unavailable=lacking, dump=dump)
    if numbers is None:
        return None
    saved = Saved()
    saved.records, saved.pages, saved.size = numbers
    saved.problems = list(session.losses())
    return saved


def _everything_else(
    session: Session,
    saved: Saved,
    records: SavedRecords | None,
    source: bool,
    search: Search | None,
) -> tuple[Pieces, dict[str, Any]]:
    """
    Read everything but the records.

    :return: Tables and documents, and members of the document that is read first.
    """
    found = Pieces({}, {})
    head: dict[str, Any] = {}
    if records is not None:
        everything = records.about
        basic = _basic_problems(session, everything)
        if source:
            source = saved.attempt("source", lambda: _add_source(session, everything)) is not None
        found.add(Pieces.of(record_tables(records, basic, source=source)))
        saved.records = records.number
        saved.problems += everything.problems
    try:
        listed = session.stack_list()
        found.tables.update(packed_tables(stack_list_tables(listed)))
        head["stack_list_threshold"] = listed.threshold
    except PageOwnerError as error:
        # Most kernels have no such list, and nothing else depends on it.
        saved.unavailable["stack_list"] = str(error)
    try:
        use = session.tags()
        found.tables.update(packed_tables(tag_tables(use)))
        head["tags_version"] = use.tags.version
        head["tags_problems"] = list(use.problems)
    except PageOwnerError as error:
        saved.unavailable["tags"] = str(error)
    names = _add_machine(session, saved, records, search, found)
    known = records.about.names if records is not None else None
    found.documents["names"] = as_json(known or names or Names())
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
    return found, head


def _add_machine(
    session: Session,
    saved: Saved,
    records: SavedRecords | None,
    search: Search | None,
    to: Pieces,
) -> Names | None:
    """
    Add all pages, what they are used for, the owners of slab objects, and leaks.

    :return: The names of this kernel; ``None`` if the pages cannot be read.
    """
    pages, uses = _read_pages(session, saved, records if search is None else None)
    names, owners = None, None
    if pages is not None:
        names = pages.pages.names
        to.add(Pieces.of(memory_tables(pages)))
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
    found = _WITHOUT_LEAKS if search is None else _searched(session, search, records)
    if owners is None:
        saved.unavailable["inventory"] = saved.unavailable["memory"]
    else:
        known = found.uses if isinstance(found, SearchPieces) and recorded else None
        if known is None:
            if uses is None:
                uses = saved.attempt("inventory", session.inventory)
            known = UsePieces.of(uses) if uses is not None else None
        if known is not None:
            _add_uses(saved, known, owners, to)
    if isinstance(found, SearchPieces):
        to.add(found.pieces)
        saved.problems += found.losses
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


def _object_owners(session: Session) -> ObjectOwners | str:
    """Return the owners of slab objects, or why there are none."""
    try:
        return session.object_owners()
    except PageOwnerError as error:
        return str(error)


def _add_uses(saved: Saved, uses: UsePieces, owners: ObjectOwners | str, to: Pieces) -> None:
    """
    Add what pages are used for, and the owners of slab objects, which only ``top --slab`` and
    ``account --slab`` need.

    :param owners: The result of :func:`_object_owners`.
    """
    to.add(uses.pieces)
    saved.problems += uses.problems
    if isinstance(owners, str):
        saved.unavailable["slab_owners"] = owners
    elif len(owners.slabs) != uses.slabs:
        saved.unavailable["slab_owners"] = "slabs came and went while a running kernel was saved"
    else:
        to.add(Pieces.of(object_owner_tables(owners)))


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


def search_pieces(session: Session, search: Search) -> SearchPieces | str:
    """
    Compress what a search for leaks adds to a file.

    :param session: Session in which *search* searches.
    :return: A line that says why there is no result, if it failed.
    """
    try:
        found = search()
    except PageOwnerError as error:
        return str(error)
    if not isinstance(found, LeakSearch):
        return found
    return SearchPieces(
        pieces=Pieces.of(search_tables(found)),
        uses=UsePieces.of(found.inventory) if found.recorded else None,
        pfns=digest_of(found.records) if found.recorded else None,
        losses=list(session.losses()),
    )


def _searched(
    session: Session,
    search: Search,
    records: SavedRecords | None,
) -> SearchPieces | str:
    """Return the result of *search*, or why there is none."""
    found = search_pieces(session, search)
    if isinstance(found, str) or found.pfns is None:
        return found
    known = records.pfns if records is not None else digest_of(None)
    if found.pfns != known:
        return "records changed during the search: save a dump of the kernel instead"
    return found


_NO_RECORDS = RecordRows(
    {"pfn": np.zeros(0, np.int64), "order": np.zeros(0, np.uint8), "allocated": np.zeros(0, bool)},
    number=0,
    parts=(),
)
