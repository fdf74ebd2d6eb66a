# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Records as JSON lines, CSV and a table.

Rows are not formatted one by one: every column is converted to a list, in which each distinct text
is formatted once, and one template is mapped over all lists.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.escape import word
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.columns import FIELDS, Column, Form
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.table import age, csv_cell, table
from drgn_pageowner.render.text import mapped, texts_of_forms

__all__ = ("RECORD_FIELDS", "RecordColumns", "records_csv", "records_json", "records_table")

_ROWS = 16384

RECORD_FIELDS = tuple(column.name for column in FIELDS)
"""The fields of a record in JSON and CSV, in order; null if the kernel lacks the value."""

_IN_TABLE = tuple(
    column
    for name in ("order", "gfp_flags", "migratetype", "node", "zone", "pid", "comm", "memcg")
    for column in FIELDS
    if column.name == name
)


def _pieces(snapshot: Snapshot) -> Iterator[Snapshot]:
    for start in range(0, len(snapshot), _ROWS):
        yield snapshot.select(np.arange(start, min(start + _ROWS, len(snapshot))))


class RecordColumns:
    """The values of record columns, and the text of each."""

    def __init__(self, snapshot: Snapshot) -> None:
        order = snapshot.facts.pageblock_order
        zones = {(zone.node, zone.type): zone.name for zone in snapshot.facts.zones}
        any_node = {zone.type: zone.name for zone in snapshot.facts.zones}
        self._values: Mapping[Form, Callable[[Snapshot], Array]] = {
            Form.PAGES: lambda rows: rows.pages,
            Form.PAGEBLOCK: lambda rows: rows["pfn"] >> order,
            Form.ZONE: _zones,
            Form.STACK: lambda rows: rows.stack,
        }
        self._texts: Mapping[Form, Callable[[Any], str | None]] = {
            **texts_of_forms(snapshot.names),
            Form.ZONE: lambda v: zones.get((v >> 8, v & 0xFF), any_node.get(v & 0xFF)),
            Form.MEMCG: lambda v: snapshot.memcgs[v].path,
            Form.TAG: snapshot.tag_text,
        }

    def numbers(self, rows: Snapshot, column: Column) -> Array | None:
        """Return the values of *column*, or ``None`` if this kernel does not record it."""
        source = column.of or column.name
        if column.form is Form.PAGES and rows.says_pages():
            return rows.pages
        if source not in rows:
            return None
        values = self._values.get(column.form)
        return rows[source] if values is None else values(rows)

    def text(self, column: Column) -> Callable[[Any], str | None] | None:
        """Return the function that formats a value of *column*; ``None`` for a number."""
        text, none = self._texts.get(column.form), column.none
        if text is None or none is None:
            return text
        return lambda value: None if value == none else text(value)

    def lists(
        self, rows: Snapshot, column: Column, change: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        """
        Return *column* of *rows* as Python values: numbers or texts, ``None`` for none.

        :param change: Function that is applied to each distinct text.
        """
        values, text = self.numbers(rows, column), self.text(column)
        if values is None:
            return [None] * len(rows)
        if text is not None:
            if change is None:
                return mapped(values, text)
            return mapped(values, lambda value: change(text(value)))
        if column.none is not None:
            return [None if value == column.none else value for value in values.tolist()]
        plain: list[Any] = values.tolist()
        return plain


def _zones(rows: Snapshot) -> Array:
    """Return node and zone combined in one number; a text may not contain the node."""
    if "node" not in rows:
        return rows["zone"].astype(np.int64)
    return rows["node"].astype(np.int64) << 8 | rows["zone"]


def _stack_texts(snapshot: Snapshot) -> dict[int, list[str]]:
    """Symbolize every stack that is used, all at once, and return its lines by its number."""
    snapshot.frames(snapshot.used_pcs().tolist())
    return {
        number: [
            line for frame in snapshot.stack_frames(number) for line in snapshot.frame_lines(frame)
        ]
        for number in np.unique(snapshot.stack).tolist()
    }


def records_json(snapshot: Snapshot) -> Iterator[str]:
    """Yield one JSON object per line; the fields are :data:`RECORD_FIELDS`."""
    columns = RecordColumns(snapshot)
    stacks = {number: json_document(lines) for number, lines in _stack_texts(snapshot).items()}
    template = "{" + ", ".join(f'"{field}": %s' for field in RECORD_FIELDS) + "}\n"
    texts: dict[Any, str] = {None: "null", True: "true", False: "false"}

    def quoted(value: Any) -> str:
        if value not in texts:
            texts[value] = json_document(value)
        return texts[value]

    for rows in _pieces(snapshot):
        filled: list[Any] = []
        for column in FIELDS:
            if column.form is Form.STACK:
                filled.append(mapped(rows.stack, stacks.__getitem__))
                continue
            values = columns.lists(rows, column)
            plain = not column.form.is_text and column.dtype != "bool" and column.none is None
            if plain and (not values or values[0] is not None):
                filled.append(values)
            else:
                filled.append(map(quoted, values))
        yield "".join(map(template.__mod__, zip(*filled, strict=True)))


def records_csv(snapshot: Snapshot) -> Iterator[str]:
    """Yield a header and one row per record; frames of the stack are separated by ``;``."""
    columns = RecordColumns(snapshot)
    stacks = {number: csv_cell(";".join(lines)) for number, lines in _stack_texts(snapshot).items()}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(RECORD_FIELDS)
    for rows in _pieces(snapshot):
        filled = [
            mapped(rows.stack, stacks.__getitem__)
            if column.form is Form.STACK
            else columns.lists(rows, column, csv_cell)
            for column in FIELDS
        ]
        writer.writerows(zip(*filled, strict=True))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def records_table(snapshot: Snapshot) -> Iterator[str]:
    """Yield one row per record, with the allocator instead of the whole stack."""
    columns = RecordColumns(snapshot)
    now = snapshot.facts.now_ns
    snapshot.frames(snapshot.used_pcs().tolist())

    def fields(rows: Snapshot) -> Iterator[tuple[Any, ...]]:
        ages = [None] * len(rows)
        if "ts_nsec" in rows and now is not None:
            stamps = np.minimum(rows["ts_nsec"], np.uint64(now))
            ages = (np.uint64(now) - stamps).tolist()
        owners = mapped(
            rows.stack, lambda number: str(allocator_of(snapshot.stack_frames(number)) or "-")
        )
        return zip(
            map(hex, rows["pfn"].tolist()) if "pfn" in rows else ["-"] * len(rows),
            *(map(_shown, columns.lists(rows, shown)) for shown in _IN_TABLE),
            map(age, ages),
            map(str, rows["handle"].tolist() if "handle" in rows else ["-"] * len(rows)),
            owners,
            strict=True,
        )

    rows = [row for piece in _pieces(snapshot) for row in fields(piece)]
    headers = (
        "pfn", "order", "gfp", "migratetype", "node", "zone", "pid", "comm", "memcg", "age",
        "handle", "allocator",
    )  # fmt: skip
    if rows:
        yield table(rows, headers, right=(0, 1, 4, 6, 9, 10)) + "\n"
    if snapshot.says_pages():
        yield f"{len(snapshot):,} records, {int(snapshot.pages.sum()):,} pages\n"
    else:
        yield f"{len(snapshot):,} records\n"


def _shown(value: Any) -> str:
    return "-" if value is None else word(str(value))
