# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert records and stacks to tables, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import chain
from typing import Any

import numpy as np

from drgn_pageowner.model.arrays import Array, Narrow, slices
from drgn_pageowner.model.columns import STORED, Form, Origin, columns_of
from drgn_pageowner.model.kernel import Facts, Names, TextFormats
from drgn_pageowner.model.records import (
    Memcg,
    Snapshot,
    Times,
    memcgs_by_path,
    pfn_order,
)
from drgn_pageowner.model.session import Session
from drgn_pageowner.model.stacks import Frame, SourceFrame, StackList, Stacks
from drgn_pageowner.model.tags import Tags
from drgn_pageowner.storage.check import check_records, require, within
from drgn_pageowner.storage.container import Columns, Container, JoinedColumns, RecordRows
from drgn_pageowner.storage.plain import as_json, restore
from drgn_pageowner.storage.tags import place_table, tag_places

__all__ = (
    "BASIC_COLUMNS",
    "SavedRecords",
    "digest_of",
    "frame_table",
    "load_record_parts",
    "load_records",
    "load_stack_list",
    "read_frames",
    "read_source",
    "record_tables",
    "stack_list_tables",
)

BASIC_COLUMNS = frozenset(("handle", "ts_nsec"))
"""The columns that ``info`` reads; it reports only problems with these."""

_HANDLES = tuple(name for name, column in STORED.items() if column.form is Form.HANDLE)
# Number of records of freed pages up to which they are held while the others are written.
_MOST_HELD = 1 << 20
# Columns that `info` does not read, so that it does not report their problems.
_OTHER_COLUMNS = frozenset((*columns_of(Origin.PAGE, Origin.PAGEBLOCK), *_HANDLES)) - BASIC_COLUMNS


class _SavedSymbols:
    """Implements ``Symbolizer`` for the PCs that were symbolized when the file was saved."""

    def __init__(self, file: Container, table: str = "frames") -> None:
        self._file = file
        self._table = table
        self._frames: dict[int, Frame] | None = None

    def symbolize(self, pcs: Array) -> list[Frame]:
        """
        Return the frame that was saved for each PC.

        :param pcs: ``uint64``, shape ``(n,)``.
        """
        if self._frames is None:
            self._frames = {frame.pc: frame for frame in read_frames(self._file.table(self._table))}
        known = self._frames
        return [known.get(pc) or Frame(pc, None, 0, 0, None) for pc in pcs.tolist()]


def frame_table(frames: Iterable[Frame]) -> Columns:
    """Convert frames to a table with a row per frame."""
    rows = list(frames)
    return {
        "pc": np.array([frame.pc for frame in rows], np.uint64),
        "name": [frame.name for frame in rows],
        "offset": np.array([frame.offset for frame in rows], np.int64),
        "size": np.array([frame.size for frame in rows], np.uint64),
        "module": [frame.module for frame in rows],
        "called": np.array([frame.called for frame in rows], bool),
    }


def read_frames(table: Columns) -> list[Frame]:
    """Load frames from the table of :func:`frame_table`."""
    names = [name for name in Frame._fields if name in table]
    columns = [v.tolist() if isinstance(v := table[name], np.ndarray) else v for name in names]
    return [Frame(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def digest_of(records: Snapshot | None) -> bytes:
    """
    Return a digest of the PFNs of *records*.

    :param records: In any order; ``None`` for no records.
    """
    digest = blake2b()
    if records is not None:
        pfn = records["pfn"][pfn_order(records)]
        for piece in slices(len(records)):
            digest.update(np.ascontiguousarray(pfn[piece]).data)
    return digest.digest()


class SavedRecords:
    """
    The records of a session, including those of freed pages.

    If there are many, they are read a part at a time, when they are written; what they refer to is
    noted then.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        parts = session.record_parts(None, freed=True)
        first = next(parts)
        second = next(parts, None)
        if second is not None and "tag" in first:
            # Indices of tags are not the same in all parts.
            del parts
            first, second = session.snapshot(None, freed=True), None
        self.many = second is not None
        """Whether there are several parts. Then the other members are known when the last row was
        read."""
        self.number = 0
        """Number of records."""
        self.allocated = 0
        """Number of records of allocated pages."""
        self.about = _without_rows(first)
        """A snapshot with all stacks, names and problems of the records, but without rows."""
        self._parts: Iterable[Snapshot] = (first,)
        self._used: list[tuple[Array, Array]] = []
        self._pfns = blake2b()
        self._held: list[Columns] = []
        self._memcgs: dict[Memcg, int] = {}
        if second is not None:
            self._parts = chain((first, second), parts)
        elif "pfn" in first:
            self._add(first)

    def _add(self, part: Snapshot) -> None:
        """Note what the records of *part* refer to."""
        allocated = part["allocated"]
        self.number += len(part)
        self.allocated += int(np.count_nonzero(allocated))
        used = np.zeros(len(part.stacks), np.uint8)
        for piece in slices(len(part)):
            for kind, name in enumerate(_HANDLES):
                if name not in part:
                    continue
                numbers = part.stacks.index(part[name][piece])
                for freed in (False, True):
                    mine = numbers[(allocated[piece] != freed) & (numbers >= 0)]
                    used[mine] |= _bit(freed, kind)
        some = np.flatnonzero(used)
        self._used.append((part.stacks.handles[some], used[some]))
        order = pfn_order(part)
        pfn, allocated = part["pfn"][order], allocated[order]
        for piece in slices(len(part)):
            self._pfns.update(pfn[piece][allocated[piece]].data)

    @property
    def pfns(self) -> bytes:
        """Return :func:`digest_of` the records of allocated pages."""
        return self._pfns.digest()

    def used_by(self) -> Array:
        """
        Return which columns of records refer to each stack of :attr:`about`: ``uint8``, a
        :func:`_bit` for each column of handles that contains the stack.
        """
        stacks = self.about.stacks
        result = np.zeros(len(stacks), np.uint8)
        for handles, bits in self._used:
            number = stacks.index(handles)
            result[number[number >= 0]] |= bits[number >= 0]
        return result

    def rows(self) -> RecordRows:
        """Return the records to write, in the order of PFNs."""
        names = ["pfn", *sorted(self.about.columns.keys() - {"pfn"})]
        return RecordRows(
            empty={name: self.about[name] for name in names},
            number=None if self.many else self.allocated,
            parts=[self._allocated_rows(names), self._freed_rows(names)],
        )

    def _allocated_rows(self, names: Sequence[str]) -> Iterator[Columns]:
        for part in self._noted() if self.many else self._pieces():
            allocated = part["allocated"]
            mine = part.select(allocated)
            yield {name: mine[name] for name in names}
            # Few records of freed pages are held, rather than read again.
            if self.number - self.allocated <= _MOST_HELD and not allocated.all():
                others = part.select(~allocated)
                self._held.append({name: others[name] for name in names})

    def _freed_rows(self, names: Sequence[str]) -> Iterator[Columns]:
        if self.number - self.allocated <= _MOST_HELD:
            yield from self._held
            return
        self._held.clear()
        parts = self._session.record_parts(None, freed=True)
        for part in map(self._numbered, parts) if self.many else self._pieces():
            others = part.select(~part["allocated"])
            yield {name: others[name] for name in names}

    def _noted(self) -> Iterator[Snapshot]:
        """Yield the parts, after noting what their records refer to."""
        for part in map(self._numbered, self._parts):
            self._add(part)
            yield part
        # The last part has all stacks and problems.
        self.about = replace(_without_rows(part), memcgs=[*self._memcgs])

    def _numbered(self, part: Snapshot) -> Snapshot:
        """Change indices of memory cgroups, which hold in one part only, to those of all parts."""
        if "memcg" in part:
            number = self._memcgs
            place = [number.setdefault(memcg, len(number)) for memcg in part.memcgs]
            part.columns["memcg"] = np.array([*place, -1], np.int32)[part["memcg"]]
        return part

    def _pieces(self) -> Iterator[Snapshot]:
        """Yield all records in the order of PFNs, some at a time, if they are in one part."""
        (only,) = self._parts
        order = pfn_order(only)
        for piece in slices(len(only)):
            yield only.select(order[piece] if isinstance(order, np.ndarray) else piece)


def _without_rows(records: Snapshot) -> Snapshot:
    # Slices would keep the whole columns in memory.
    columns = {name: np.zeros(0, column.dtype) for name, column in records.columns.items()}
    return replace(records, columns=columns)


def record_tables(
    records: SavedRecords, basic_problems: list[str], *, source: bool
) -> tuple[dict[str, Columns], dict[str, Any]]:
    """
    Convert stacks and frames of records to tables.

    :param basic_problems: The problems of a snapshot that has only :data:`BASIC_COLUMNS`.
    :param source: Whether to save the source lines.
    :return: The tables by name, and documents by name.
    """
    everything = records.about
    stacks = everything.stacks
    pcs, place = stacks.coded_pcs()
    table: Columns = {
        "handle": stacks.handles,
        "depth": stacks.depths().astype(np.int32),
        "used_by": records.used_by(),
    }
    if stacks.counts is not None:
        table["kernel_pages"] = stacks.counts
    tables = {
        "stacks": table,
        "stack_frames": {"frame": place},
        "pcs": {"pc": pcs},
        "frames": frame_table(everything.frames(pcs.tolist())),
    }
    facts = everything.facts
    if everything.tags is not None:
        tables["record_tags"] = place_table(everything.tags.places)
    documents: dict[str, Any] = {
        "records": {
            "layout": as_json(facts.layout),
            "formats": as_json(facts.formats),
            "memcgs": as_json(everything.memcgs),
            "coverage": as_json(everything.coverage),
            "problems": everything.problems,
            "basic_problems": basic_problems,
        }
    }
    if source:
        documents["source"] = as_json(everything.source_lines)
    return tables, documents


def _bit(freed: int, kind: int) -> np.uint8:
    """Return the bit of the column ``_HANDLES[kind]`` of allocated or of freed records."""
    pair, which = divmod(kind, 2)
    return np.uint8(1 << (4 * pair + 2 * freed + which))


def load_record_parts(
    file: Container,
    facts: Facts,
    names: Names,
    columns: Iterable[str] | None,
    *,
    freed: bool,
    pfns: range | None = None,
) -> Iterator[Snapshot]:
    """
    Load records some at a time, in the order of PFNs, with at least *columns* (``None`` for all).

    :param pfns: Records of other PFNs may be left out.
    :return: At least one part. ``facts`` are complete when the last part is returned.
    """
    with file.checked():
        about = _without_records(file, facts, names, columns, freed=freed)
    times, memcgs = Times(), about.memcgs
    part: Snapshot | None = None
    for rows in file.record_parts(about.columns, freed=freed, pfns=pfns):
        if part is not None:
            yield part
        times.add(rows)
        part = replace(about, columns=rows)
        with file.checked():
            check_records(part)
        if "memcg" in part:
            # Those of many records are saved in the order of these.
            part.memcgs, part.columns["memcg"] = memcgs_by_path(memcgs, rows["memcg"])
    assert part is not None
    about.facts.now_ns = times.latest(about.facts.now_ns)
    yield part


def load_records(
    file: Container,
    facts: Facts,
    names: Names,
    columns: Iterable[str] | None,
    *,
    freed: bool,
    narrow: bool = False,
) -> Snapshot:
    """
    Load all records, as :func:`load_record_parts` does.

    :param narrow: Whether PFNs are to be of the type
        :class:`~drgn_pageowner.model.arrays.Narrow`, if they fit.
    """
    number = file.number_of_records(freed=freed)
    narrow = narrow and facts.max_pfn <= 1 << 32
    joined = JoinedColumns(number, {"pfn": np.uint32} if narrow else None)
    for part in load_record_parts(file, facts, names, columns, freed=freed):
        if len(part) == number and not narrow:
            return part
        joined.add(part.columns)
    if narrow:
        joined.columns["pfn"] = Narrow(joined.columns["pfn"])
    return replace(part, columns=joined.columns)


def _without_records(
    file: Container, facts: Facts, names: Names, columns: Iterable[str] | None, *, freed: bool
) -> Snapshot:
    """Load what all parts of the records have in common; the columns are empty."""
    known = file.document("records")
    wanted = None if columns is None else frozenset(columns)
    chosen = file.names
    if wanted is not None:
        kept = wanted | {"pfn", "order", "allocated"}
        chosen = [name for name in file.names if name in kept]
    chosen = [name for name in chosen if name in STORED]
    coverage = restore(dict[str, Any], known["coverage"])
    # Records from a text have no coverage.
    for name in ("covered", "uncovered", "missing", "allocated", "freed") if coverage else ():
        require(type(coverage[name]) is int, "coverage")
    if coverage.get("stack_depot") is not None:
        for name in ("pools", "bytes"):
            require(type(coverage["stack_depot"][name]) is int, "coverage")
        require(type(coverage["stack_depot"]["capacity"]) in (int, type(None)), "coverage")
    basic = wanted is not None and not wanted & _OTHER_COLUMNS
    tags = _read_record_tags(file) if "record_tags" in file and "tag" in chosen else None
    return Snapshot(
        facts=replace(
            facts,
            panic_message=None,
            layout=_layout(known["layout"], file.names, coverage),
            formats=restore(TextFormats | None, known["formats"]) if wanted is None else None,
        ),
        names=names,
        columns={name: np.zeros(0, STORED[name].dtype) for name in chosen},
        stacks=_read_stacks(file, chosen, freed),
        symbolizer=_SavedSymbols(file),
        memcgs=restore(tuple[Memcg, ...], known["memcgs"]) if "memcg" in chosen else (),
        coverage=coverage,
        problems=restore(list[str], known["basic_problems" if basic else "problems"]),
        tags=tags,
    )


def _layout(known: Any, names: Sequence[str], coverage: Mapping[str, Any]) -> dict[str, Any]:
    layout: dict[str, Any] = restore(dict[str, Any], known)
    members = layout.get("members", [])
    require(isinstance(members, list) and all(type(name) is str for name in members), "layout")
    if "text" in layout or not (members or coverage):
        # Records from a text, or from tags alone, were not decoded from page_ext.
        return layout
    require("members" in layout, "layout")
    require({*members} & STORED.keys() <= {*names}, "records lack a column")
    for name, kind in (("record", str), ("page_owner_offset", int), ("page_ext_size", int)):
        require(type(layout[name]) is kind, "layout")
    if coverage.get("stack_depot") is not None:
        require(type(layout["stack_depot"]) is str, "layout")
    return layout


def _read_record_tags(file: Container) -> Tags:
    """Load the tags that the column ``tag`` refers to, without their counters."""
    places = tag_places(file.table("record_tags"))
    nothing = np.zeros(len(places), np.int64)
    every = np.ones(len(places), bool)
    version = restore(str, file.head.get("tags_version", ""))
    return Tags(places, nothing, nothing, ~every, version, every, every)


def _read_stacks(file: Container, columns: Collection[str], freed: bool) -> Stacks:
    """Read only the stacks that handles in *columns* refer to."""
    kinds = [kind for kind, name in enumerate(_HANDLES) if name in columns]
    if not kinds:
        return Stacks.empty()
    table = file.table("stacks")
    known, frames = file.table("pcs")["pc"], file.table("stack_frames")["frame"]
    within(frames, 0, len(known), "stack_frames")
    pcs = known[frames]
    bits = sum(int(_bit(state, kind)) for kind in kinds for state in range(1 + freed))
    needed = (table["used_by"] & np.uint8(bits)) != 0
    depths = table["depth"].astype(np.int64)
    within(depths, 0, len(frames) + 1, "stacks")
    require(int(depths.sum()) == len(frames), "stack_frames")
    if not needed.all():
        pcs = pcs[np.repeat(needed, depths)]
        table = {name: column[needed] for name, column in table.items()}
        depths = depths[needed]
    offsets = np.zeros(len(depths) + 1, np.int64)
    np.cumsum(depths, out=offsets[1:])
    return Stacks(
        table["handle"],
        offsets,
        pcs,
        table.get("kernel_pages"),
        addresses=file.document("records")["layout"].get("text") is None,
    )


def stack_list_tables(listed: StackList) -> dict[str, Columns]:
    """
    Convert page_owner's list of stacks, in its order, to tables.

    :param listed: List from a dump, so that none of its members is ``None``.
    """
    assert listed.handles is not None
    assert listed.pages is not None
    assert listed.offsets is not None
    pcs, place = np.unique(listed.pcs, return_inverse=True)
    return {
        "stack_list": {
            "handle": listed.handles,
            "pages": listed.pages,
            "depth": np.diff(listed.offsets).astype(np.int32),
        },
        "stack_list_frames": {"frame": place.astype(np.int32)},
        "stack_list_pcs": {"pc": pcs},
        "stack_list_names": frame_table(listed.symbolizer.symbolize(pcs)),
    }


def load_stack_list(file: Container) -> StackList:
    """Load page_owner's list of stacks from the tables of :func:`stack_list_tables`."""
    with file.checked():
        return _stack_list(file)


def _stack_list(file: Container) -> StackList:
    table = file.table("stack_list")
    pcs, frames = file.table("stack_list_pcs")["pc"], file.table("stack_list_frames")["frame"]
    within(frames, 0, len(pcs), "stack_list_frames")
    within(table["depth"], 0, len(frames) + 1, "stack_list")
    require(int(table["depth"].sum()) == len(frames), "stack_list_frames")
    offsets = np.zeros(len(table["depth"]) + 1, np.int64)
    np.cumsum(table["depth"], out=offsets[1:])
    return StackList(
        handles=table["handle"],
        pages=table["pages"],
        offsets=offsets,
        pcs=pcs[frames],
        symbolizer=_SavedSymbols(file, "stack_list_names"),
        threshold=restore(int | None, file.head["stack_list_threshold"]),
    )


def read_source(file: Container) -> dict[int, list[SourceFrame]] | None:
    """Return the saved inlined functions and source lines by PC; ``None`` if none were saved."""
    if "source" not in file:
        return None
    with file.checked():
        found: dict[int, list[SourceFrame]] = restore(
            dict[int, list[SourceFrame]], file.document("source")
        )
        return found
