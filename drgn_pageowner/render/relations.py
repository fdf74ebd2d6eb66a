# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make tables of a dump or snapshot for SQL: records, stacks, pages, zones, meta."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from drgn_pageowner.analysis.account.page_class import PageClass, page_classes
from drgn_pageowner.analysis.owners.allocator import plain_name
from drgn_pageowner.analysis.owners.select import Filter
from drgn_pageowner.analysis.owners.stack_table import (
    StackTable,
    allocator_names,
    modules_of_stacks,
)
from drgn_pageowner.analysis.owners.sums import read_sums
from drgn_pageowner.extras import extra
from drgn_pageowner.model.arrays import Array, Numbering, distinct, slices, sums
from drgn_pageowner.model.columns import FIELDS, STORED, Form
from drgn_pageowner.model.dataset import frame_line, sql_type, stack_id
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.pages import PageState
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import Session
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.records import RecordColumns
from drgn_pageowner.render.text import name_at

__all__ = ("EVERYTHING", "PAGES", "RELATIONS", "relation", "relation_parts", "stack_id_of")

# Number of pages whose columns are made together.
_ROWS = 1 << 19


class _Everything:
    """Container that claims to contain every name: it stands for all columns."""

    def __contains__(self, name: object) -> bool:
        return True


EVERYTHING: Container[str] = _Everything()
"""All columns."""


class _Texts:
    """A column of texts; each distinct text is stored once."""

    def __init__(self, codes: Array, texts: Any) -> None:
        """
        :param codes: Integers, a row per row: index of its text.
        :param texts: ``list[str | None]``, or what :func:`_text_array` makes of one.
        """
        self.codes = codes
        self.texts = texts


class _StackTexts:
    """A column of texts of stacks in a table that is made in parts: each is made once."""

    def __init__(self, text_of: Callable[[StackTable], Array]) -> None:
        """
        :param text_of: Returns the text of each stack of a table: ``object`` (str).
        """
        self._text_of = text_of
        self._handles = Numbering()
        self._texts: Any = None

    def of(self, snapshot: Snapshot) -> _Texts:
        """Return the column of the stacks of all records."""
        handles = np.zeros(len(snapshot), np.uint32)
        if "handle" in snapshot:
            handles = snapshot["handle"]
        known = len(self._handles)
        codes = self._handles.of(handles)
        if len(self._handles) > known or self._texts is None:
            self._add(snapshot, self._handles.values[known:].astype(np.uint32))
        return _Texts(codes, self._texts)

    def _add(self, snapshot: Snapshot, handles: Array) -> None:
        pa = extra("pyarrow", "sql", "sql")
        table = StackTable.of(snapshot, snapshot.stacks.index(handles))
        texts = _text_array(pa, [text or None for text in self._text_of(table).tolist()])
        self._texts = texts if self._texts is None else pa.concat_arrays([self._texts, texts])


class _Lists:
    """A column whose values are lists."""

    def __init__(self, rows: list[Any], kind: str) -> None:
        self.codes = rows
        self.kind = kind


def _texts_of(values: Array, text: Callable[[Any], str | None]) -> _Texts:
    found, inverse = distinct(values)
    return _Texts(inverse, [text(value) for value in found.tolist()])


def _texts_of_stacks(snapshot: Snapshot, texts: Callable[[StackTable], Array]) -> _Texts:
    """Return the text of every stack of *snapshot*."""
    numbers = np.arange(len(snapshot.stacks))
    named = texts(StackTable.of(snapshot, numbers)).tolist()
    return _Texts(numbers, [text or None for text in named])


def stack_id_of(frames: Sequence[Frame]) -> str:
    """Return the ID of a stack, which does not depend on addresses, host and build."""
    return stack_id([_line(frame) for frame in frames])


def stack_ids(table: StackTable) -> Array:
    """
    Return the IDs of stacks.

    :return: ``object`` (str), a row per stack; empty for an empty stack.
    """
    lines = [_line(frame) for frame in table.frames]
    code = table.code.tolist()
    result = np.empty(len(table), object)
    result[:] = [
        stack_id([lines[place] for place in code[start:end]])
        for start, end in zip(table.starts.tolist(), table.ends.tolist(), strict=True)
    ]
    return result


def _line(frame: Frame) -> bytes:
    return frame_line(frame, plain_name(frame.name) if frame.name is not None else None)


def _records(source: Session, wanted: Container[str]) -> Iterator[dict[str, Any]]:
    columns = _record_columns(wanted)
    parts = source.record_parts(columns, freed=True)
    first, second = next(parts), next(parts, None)
    now = first.facts.now_ns
    if second is not None and "age_ns" in wanted:
        # It is known when all records were read.
        times = [c.name for c in STORED.values() if c.form is Form.TIME]
        known = times if columns is None else columns & {*times}
        *_, last = source.record_parts(known, freed=True)
        now = last.facts.now_ns
    texts = {name: _StackTexts(text_of) for name, text_of in _OF_STACK.items() if name in wanted}
    part: Snapshot | None = first
    del first
    while part is not None:
        yield _part_of_records(part, wanted, now, texts)
        part, second = second, next(parts, None)


def _part_of_records(
    snapshot: Snapshot,
    wanted: Container[str],
    now: int | None,
    texts: Mapping[str, _StackTexts],
) -> dict[str, Any]:
    """
    Return the columns of some records.

    :param now: Time of the dump.
    :param texts: The texts of stacks, by column.
    """
    fields, result = RecordColumns(snapshot), dict[str, Any]()
    for column in FIELDS:
        if column.form is Form.STACK or column.name not in wanted:
            continue
        values, text = fields.numbers(snapshot, column), fields.text(column)
        if values is None:
            result[column.name] = sql_type(column)
        elif text is not None:
            result[column.name] = _texts_of(values, text)
        else:
            numbers = values.astype(sql_type(column))
            none = column.none
            result[column.name] = (
                numbers if none is None else np.ma.array(numbers, mask=values == none)
            )
    numbers_of_rows = snapshot.allocations
    result["allocations"] = "int64" if numbers_of_rows is None else numbers_of_rows
    result["bytes"] = (
        snapshot.pages * snapshot.facts.page_size if snapshot.says_pages() else "int64"
    )
    result["age_ns"] = "int64"
    if "age_ns" in wanted and "ts_nsec" in snapshot and now is not None:
        stamps = np.minimum(snapshot["ts_nsec"], np.uint64(now))
        result["age_ns"] = np.int64(now) - stamps.astype(np.int64)
    return result | {name: of_stacks.of(snapshot) for name, of_stacks in texts.items()}


_OF_STACK: Mapping[str, Callable[[StackTable], Array]] = {
    "allocator": allocator_names,
    "module": modules_of_stacks,
    "stack_id": stack_ids,
}


def _record_columns(wanted: Container[str]) -> frozenset[str] | None:
    """Return the record columns that are needed for the SQL columns *wanted*; ``None`` for all."""
    if wanted is EVERYTHING:
        return None
    needed = {column.of or column.name for column in FIELDS if column.name in wanted}
    if any(name in wanted for name in _OF_STACK):
        needed.add("handle")
    if "age_ns" in wanted:
        needed.add("ts_nsec")
    if "zone" in needed:
        needed.add("node")
    # The rows of some texts are sums of several records.
    return frozenset((*needed, "order", "allocations"))


def _stacks(source: Session) -> dict[str, Any]:
    """Return the stacks of allocated pages, as ``top`` counts them."""
    snapshot = read_sums(source, Filter(), frozenset(("handle",)))
    stacks, number = snapshot.stacks, len(snapshot.stacks)
    frames = [snapshot.stack_frames(index) for index in range(number)]
    known = snapshot.stack >= 0
    rows, pages = snapshot.stack_of(known), snapshot.pages[known]
    held, numbers = sums(rows, pages, number), snapshot.allocations
    return {
        "handle": stacks.handles.astype(np.int64),
        "allocations": "int64" if numbers is None else sums(rows, numbers[known], number),
        "pages": held,
        "bytes": held * snapshot.facts.page_size,
        "kernel_pages": "int64" if stacks.counts is None else stacks.counts,
        "allocator": _texts_of_stacks(snapshot, allocator_names),
        "module": _texts_of_stacks(snapshot, modules_of_stacks),
        "depth": stacks.depths(),
        "functions": _Lists(
            [[f.name or f"{f.pc:#x}" for f in stack] for stack in frames], "string"
        ),
        "frames": _Lists([[str(frame) for frame in stack] for stack in frames], "string"),
        "stack_id": _texts_of_stacks(snapshot, stack_ids),
    }


PAGES: Mapping[str, str] = {
    "pfn": "int64", "node": "int64", "zone": "string", "pageblock": "int64",
    "pageblock_migratetype": "string", "state": "string", "class": "string",
    "free_order": "int64", "head_pfn": "int64", "record_pfn": "int64", "handle": "int64",
}  # fmt: skip
"""Columns of the table ``pages`` that has a row for every page, and their types."""


def _pages(source: Session, wanted: Container[str]) -> Iterator[dict[str, Any]]:
    inventory = source.inventory(owners=source.is_live())
    classes = page_classes(inventory) if "class" in wanted else np.zeros(0, np.uint8)
    inventory = _with_columns(inventory, wanted)
    free_order = None
    if "free_order" in wanted:
        free_order = inventory.memory.pages.columns.get("free_order")
        if free_order is None:
            free_order = source.memory(()).pages["free_order"]
    for rows in [*slices(len(inventory.memory.pages), _ROWS)] or [slice(0, 0)]:
        makers = _columns_of_pages(inventory, rows, classes, free_order)
        # The table has as many rows as this column.
        yield {"pfn": makers["pfn"]()} | {
            name: make() for name, make in makers.items() if name in wanted
        }


def _with_columns(inventory: Inventory, wanted: Container[str]) -> Inventory:
    """Return *inventory* without columns of pages and records that only classes are found by."""
    needs = {"state": "state", "zone": "zone", "node": "zone", "head_pfn": "head"}
    needed = {column for name, column in needs.items() if name in wanted} | {"free_order"}
    pages, records = inventory.memory.pages, inventory.records
    columns = {name: column for name, column in pages.columns.items() if name in needed}
    recorded = records is not None and len(records)
    if not recorded or not ("record_pfn" in wanted or "handle" in wanted):
        inventory = replace(inventory, records=None, record_of_row=np.zeros(0, np.int32))
    return replace(
        inventory, memory=replace(inventory.memory, pages=replace(pages, columns=columns))
    )


def _columns_of_pages(
    inventory: Inventory, rows: slice, classes: Array, free_order: Array | None
) -> dict[str, Callable[[], Any]]:
    """
    Return functions that make the columns of some pages.

    :param rows: Their rows.
    :param classes: The class of all pages, if it is needed.
    :param free_order: This column of all pages; ``None`` if it is not needed.
    """
    memory, records = inventory.memory, inventory.records
    pages, facts = memory.pages, memory.pages.facts
    zones, types = facts.zones, pages.names.migratetypes
    pfn = pages.pfns(np.arange(rows.start, rows.stop))
    block = pfn >> facts.pageblock_order
    node_of = np.zeros(256, np.int64)
    node_of[: len(zones)] = [zone.node for zone in zones]

    def of_record(name: str) -> Any:
        if records is None:
            return "int64"
        covered = inventory.record_of_row[rows]
        return np.ma.array(records[name][covered].astype(np.int64), mask=covered < 0)

    def node() -> Any:
        zone = pages["zone"][rows]
        return np.ma.array(node_of[zone], mask=zone >= len(zones))

    def order() -> Any:
        found = free_order[rows] if free_order is not None else None
        return "int64" if found is None else np.ma.array(found.astype(np.int64), mask=found < 0)

    return {
        "pfn": lambda: pfn,
        "node": node,
        "zone": lambda: _texts_of(
            pages["zone"][rows], lambda z: zones[z].name if z < len(zones) else None
        ),
        "pageblock": lambda: block,
        "pageblock_migratetype": lambda: _texts_of(
            memory.pageblocks[block], lambda v: None if v < 0 else name_at(types, v)
        ),
        "state": lambda: _texts_of(pages.state[rows], PageState.label_of),
        "class": lambda: _texts_of(classes[rows], PageClass.label_of),
        "free_order": order,
        "head_pfn": lambda: pages.pfns(pages["head"][rows]),
        "record_pfn": lambda: of_record("pfn"),
        "handle": lambda: of_record("handle"),
    }


def _zones(source: Session) -> dict[str, Any]:
    memory = source.memory(())
    rows = list(zip(memory.pages.facts.zones, memory.zones, strict=True))
    return {
        "node": [zone.node for zone, _ in rows],
        "zone": [zone.name for zone, _ in rows],
        "start_pfn": [zone.start_pfn for zone, _ in rows],
        "spanned": [zone.spanned for zone, _ in rows],
        "present": [zone.present for zone, _ in rows],
        "managed": [zone.managed for zone, _ in rows],
        "free_pages": [stats.free_pages for _, stats in rows],
        "free_cma": [stats.free_cma for _, stats in rows],
        "pcp": [stats.pcp for _, stats in rows],
        "watermark_min": [stats.watermarks[0] for _, stats in rows],
        "watermark_low": [stats.watermarks[1] for _, stats in rows],
        "watermark_high": [stats.watermarks[2] for _, stats in rows],
        "free_blocks": _Lists([list(stats.nr_free) for _, stats in rows], "int64"),
    }


def _meta(source: Session) -> dict[str, Any]:
    facts = source.facts()
    return {
        "release": [facts.release],
        "version": [facts.version],
        "hostname": [facts.hostname],
        "arch": [facts.arch],
        "page_size": [facts.page_size],
        "present": [sum(zone.present for zone in facts.zones)],
        "now_ns": "int64" if facts.now_ns is None else [facts.now_ns],
        "live": [facts.live],
        "panic_message": "string" if facts.panic_message is None else [facts.panic_message],
        "page_owner": [facts.page_owner],
        "modules": _Lists([source.modules()], "string"),
    }


def _tags(source: Session) -> dict[str, Any]:
    use = source.tags()
    tags, found = use.tags, use.found
    columns: dict[str, Any] = {
        "tag": [str(tag) for tag in tags.places],
        "file": [tag.filename for tag in tags.places],
        "line": [tag.lineno for tag in tags.places],
        "module": [tag.module for tag in tags.places] if tags.places else "string",
        "function": [tag.function for tag in tags.places],
        "bytes": tags.bytes,
        "calls": tags.calls,
        "inaccurate": tags.inaccurate,
        "listed": tags.listed,
    }
    for name in ("pages", "objects", "object_bytes", "percpu_bytes"):
        columns[name] = "int64" if found is None else getattr(found, name)
    return columns


def _at_once(
    columns: Callable[[Session], dict[str, Any]],
) -> Callable[[Session, Container[str]], Iterator[dict[str, Any]]]:
    return lambda source, _: iter([columns(source)])


RELATIONS: Mapping[str, Callable[[Session, Container[str]], Iterator[dict[str, Any]]]] = {
    "records": _records,
    "stacks": _at_once(_stacks),
    "pages": _pages,
    "zones": _at_once(_zones),
    "tags": _at_once(_tags),
    "meta": _at_once(_meta),
}
"""Table -> function that yields its columns, at least those that are wanted, for some rows at a
time."""


def relation_parts(
    table: str, source: Session, name: str, wanted: Container[str] = EVERYTHING
) -> Iterator[Any]:
    """
    Make one of the tables of :data:`RELATIONS`, some rows at a time.

    :param name: Value of the column ``snapshot``.
    :param wanted: Names of the columns that are needed; other columns may be missing.
    :return: ``pyarrow.Table``, at least one.
    :raises PageOwnerError: if *source* lacks the data for the table
    """
    pa = extra("pyarrow", "sql", "sql")
    for columns in RELATIONS[table](source, wanted):
        rows = max(len(_codes(c)) for c in columns.values() if not isinstance(c, str))
        snapshot = _Texts(np.zeros(rows, np.int32), [name])
        yield pa.table(
            {"snapshot": _arrow(pa, snapshot, rows)}
            | {
                column: _arrow(pa, values, rows)
                for column, values in columns.items()
                if column in wanted
            }
        )


def relation(table: str, source: Session, name: str) -> Any:
    """Make one of the tables of :data:`RELATIONS` with all columns, a ``pyarrow.Table``."""
    pa = extra("pyarrow", "sql", "sql")
    return pa.concat_tables(relation_parts(table, source, name))


def _codes(column: Any) -> Any:
    return column.codes if isinstance(column, _Texts | _Lists) else column


def _arrow(pa: Any, column: Any, rows: int) -> Any:
    if isinstance(column, str):
        return pa.nulls(rows, pa.type_for_alias(column))
    if isinstance(column, np.ma.MaskedArray):
        return pa.array(column.data, mask=column.mask)
    if isinstance(column, np.ndarray):
        return pa.array(column)
    if isinstance(column, _Texts):
        texts = column.texts
        texts = _text_array(pa, texts) if isinstance(texts, list) else texts
        return texts.take(pa.array(column.codes))
    if isinstance(column, _Lists):
        return pa.array(column.codes, pa.list_(pa.type_for_alias(column.kind)))
    return pa.array(column)


def _text_array(pa: Any, texts: list[str | None]) -> Any:
    """Return *texts* as a ``pyarrow.StringArray``."""
    return pa.array([_printable(text) for text in texts], pa.string())


def _printable(text: str | None) -> str | None:
    """Escape the bytes of a task name that are not UTF-8, because SQL text cannot contain them."""
    if text is None:
        return None
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
