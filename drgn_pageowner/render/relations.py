# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make tables of a dump or snapshot for SQL: records, stacks, pages, zones, meta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from drgn_pageowner.analysis.account.page_class import PageClass, page_classes
from drgn_pageowner.analysis.owners.stack_table import (
    StackTable,
    allocator_names,
    modules_of_stacks,
)
from drgn_pageowner.extras import extra
from drgn_pageowner.model.arrays import Array, distinct, sums
from drgn_pageowner.model.columns import FIELDS, Column, Form
from drgn_pageowner.model.pages import PageState
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.records import RecordColumns
from drgn_pageowner.render.text import name_at

__all__ = ("RELATIONS", "relation")


class _Texts:
    """A column of texts; each distinct text is stored once."""

    def __init__(self, codes: Array, texts: list[str | None]) -> None:
        self.codes = codes
        self.texts = texts


class _Lists:
    """A column whose values are lists."""

    def __init__(self, rows: list[Any], kind: str) -> None:
        self.codes = rows
        self.kind = kind


def _texts_of(values: Array, text: Callable[[Any], str | None]) -> _Texts:
    found, inverse = distinct(values)
    return _Texts(inverse, [text(value) for value in found.tolist()])


def _texts_of_stacks(
    snapshot: Snapshot, stacks: Array, texts: Callable[[StackTable], Array]
) -> _Texts:
    found, inverse = distinct(stacks)
    named = texts(StackTable.of(snapshot, found)).tolist()
    return _Texts(inverse, [text or None for text in named])


def _type(column: Column) -> str:
    """Return the SQL type of *column*, which is the same for every kernel."""
    if column.form.is_text:
        return "string"
    # PFNs, pids, orders and handles all fit.
    return column.dtype if column.dtype in ("bool", "uint64") else "int64"


def _records(source: Session) -> dict[str, Any]:
    snapshot = source.snapshot(None, freed=True)
    fields, result = RecordColumns(snapshot), dict[str, Any]()
    for column in FIELDS:
        if column.form is Form.STACK:
            continue
        values, text = fields.numbers(snapshot, column), fields.text(column)
        if values is None:
            result[column.name] = _type(column)
        elif text is not None:
            result[column.name] = _texts_of(values, text)
        else:
            numbers = values.astype(_type(column))
            none = column.none
            result[column.name] = (
                numbers if none is None else np.ma.array(numbers, mask=values == none)
            )
    numbers_of_rows = snapshot.allocations
    result["allocations"] = "int64" if numbers_of_rows is None else numbers_of_rows
    result["bytes"] = (
        snapshot.pages * snapshot.facts.page_size if snapshot.says_pages() else "int64"
    )
    now = snapshot.facts.now_ns
    result["age_ns"] = "int64"
    if "ts_nsec" in snapshot and now is not None:
        stamps = np.minimum(snapshot["ts_nsec"], np.uint64(now))
        result["age_ns"] = np.int64(now) - stamps.astype(np.int64)
    stacks = snapshot.stack
    result["allocator"] = _texts_of_stacks(snapshot, stacks, allocator_names)
    result["module"] = _texts_of_stacks(snapshot, stacks, modules_of_stacks)
    return result


def _stacks(source: Session) -> dict[str, Any]:
    """Return the stacks of allocated pages, as ``top`` counts them."""
    snapshot = source.snapshot(("handle",))
    stacks, number = snapshot.stacks, len(snapshot.stacks)
    frames = [snapshot.stack_frames(index) for index in range(number)]
    known = snapshot.stack >= 0
    rows, pages = snapshot.stack[known], snapshot.pages[known]
    held, numbers = sums(rows, pages, number), snapshot.allocations
    return {
        "handle": stacks.handles.astype(np.int64),
        "allocations": "int64" if numbers is None else sums(rows, numbers[known], number),
        "pages": held,
        "bytes": held * snapshot.facts.page_size,
        "kernel_pages": "int64" if stacks.counts is None else stacks.counts,
        "allocator": _texts_of_stacks(snapshot, np.arange(number), allocator_names),
        "module": _texts_of_stacks(snapshot, np.arange(number), modules_of_stacks),
        "depth": stacks.depths(),
        "functions": _Lists(
            [[f.name or f"{f.pc:#x}" for f in stack] for stack in frames], "string"
        ),
        "frames": _Lists([[str(frame) for frame in stack] for stack in frames], "string"),
    }


def _pages(source: Session) -> dict[str, Any]:
    inventory = source.inventory()
    memory, records = inventory.memory, inventory.records
    pages, facts = memory.pages, memory.pages.facts
    zones, types = facts.zones, pages.names.migratetypes
    pfn = pages.all_pfns()
    block = pfn >> facts.pageblock_order
    node_of = np.zeros(256, np.int64)
    node_of[: len(zones)] = [zone.node for zone in zones]
    record_pfn: Any = "int64"
    handle: Any = "int64"
    if records is not None and len(records):
        covered = inventory.record_of_row
        nobodys = covered < 0
        record_pfn = np.ma.array(records["pfn"][covered], mask=nobodys)
        handle = np.ma.array(records["handle"][covered].astype(np.int64), mask=nobodys)
    return {
        "pfn": pfn,
        "node": np.ma.array(node_of[pages["zone"]], mask=pages["zone"] >= len(zones)),
        "zone": _texts_of(pages["zone"], lambda z: zones[z].name if z < len(zones) else None),
        "pageblock": block,
        "pageblock_migratetype": _texts_of(
            memory.pageblocks[block], lambda v: None if v < 0 else name_at(types, v)
        ),
        "state": _texts_of(pages.state, PageState.label_of),
        "class": _texts_of(page_classes(inventory), PageClass.label_of),
        "free_order": np.ma.array(
            pages["free_order"].astype(np.int64), mask=pages["free_order"] < 0
        ),
        "head_pfn": pfn[pages["head"]],
        "record_pfn": record_pfn,
        "handle": handle,
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


RELATIONS: Mapping[str, Callable[[Session], dict[str, Any]]] = {
    "records": _records,
    "stacks": _stacks,
    "pages": _pages,
    "zones": _zones,
    "tags": _tags,
    "meta": _meta,
}
"""Table -> function that makes its columns."""


def relation(table: str, source: Session, name: str) -> Any:
    """
    Make one of the tables of :data:`RELATIONS`, a ``pyarrow.Table``.

    :param name: Value of the column ``snapshot``.
    :raises PageOwnerError: if *source* lacks the data for the table
    """
    pa = extra("pyarrow", "sql", "sql")
    columns = RELATIONS[table](source)
    rows = max(len(_codes(column)) for column in columns.values() if not isinstance(column, str))
    snapshot = _Texts(np.zeros(rows, np.int32), [name])
    return pa.table(
        {"snapshot": _arrow(pa, snapshot, rows)}
        | {column: _arrow(pa, values, rows) for column, values in columns.items()}
    )


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
        texts = pa.array([_printable(text) for text in column.texts], pa.string())
        return texts.take(pa.array(column.codes))
    if isinstance(column, _Lists):
        return pa.array(column.codes, pa.list_(pa.type_for_alias(column.kind)))
    return pa.array(column)


def _printable(text: str | None) -> str | None:
    """Escape the bytes of a task name that are not UTF-8, because SQL text cannot contain them."""
    if text is None:
        return None
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
