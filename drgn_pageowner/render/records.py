# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Records as JSON lines, CSV and a table.

No loop formats one row after another: :mod:`~drgn_pageowner.render.assemble` joins the columns,
in which each distinct value is formatted once.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.analysis.owners.stack_table import StackTable
from drgn_pageowner.escape import word
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.columns import FIELDS, Column, Form
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.render.assemble import RowTexts, joined_frames
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.table import age, counted, csv_cell, table
from drgn_pageowner.render.text import mapped, texts_of_forms

__all__ = (
    "RECORD_FIELDS",
    "RecordColumns",
    "StackTexts",
    "records_csv",
    "records_json",
    "records_table",
)

_ROWS = 32768

RECORD_FIELDS = tuple(column.name for column in FIELDS)
"""The fields of a record in JSON and CSV, in order; null if the kernel lacks the value."""

_IN_TABLE = tuple(
    column
    for name in ("order", "gfp_flags", "migratetype", "node", "zone", "pid", "comm", "memcg")
    for column in FIELDS
    if column.name == name
)


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

    def lists(self, rows: Snapshot, column: Column) -> list[Any]:
        """Return the values of *column* as a list of numbers or strings; ``None`` for no value."""
        values, text = self.numbers(rows, column), self.text(column)
        if values is None:
            return [None] * len(rows)
        if text is not None:
            return mapped(values, text)
        if column.none is not None:
            return [None if value == column.none else value for value in values.tolist()]
        plain: list[Any] = values.tolist()
        return plain


def _zones(rows: Snapshot) -> Array:
    """Return node and zone combined in one number; a text may not contain the node."""
    if "node" not in rows:
        return rows["zone"].astype(np.int64)
    return rows["node"].astype(np.int64) << 8 | rows["zone"]


class _Texts(dict[int, str]):
    """Texts by handle. Handles that the stack depot lacks are all the same as 0, no stack."""

    def __missing__(self, handle: int) -> str:
        return self.get(0, "")


class StackTexts:
    """The text of each stack that records have, formatted once for all parts of a listing."""

    def __init__(self, text: Callable[[StackTable, Snapshot], list[str]]) -> None:
        """
        :param text: Returns the text of each stack of a table.
        """
        self._text = text
        self._texts = _Texts()

    def of(self, snapshot: Snapshot) -> Mapping[int, str]:
        """
        Return the texts of the stacks of *snapshot*, and of those before it.

        :return: ``depot_stack_handle_t`` -> text of the stack; handle 0, and all that the stack
            depot lacks, are for records without a stack.
        """
        used = np.zeros(len(snapshot.stacks) + 1, bool)
        used[snapshot.stack] = True
        # Number -1, no stack, has the handle 0.
        handles = np.append(snapshot.stacks.handles, np.uint32(0))
        numbers = np.flatnonzero(used)
        wanted = handles[numbers].tolist()
        new = [place for place, handle in enumerate(wanted) if handle not in self._texts]
        if new:
            numbers = numbers[new]
            numbers[numbers == len(snapshot.stacks)] = -1
            texts = self._text(StackTable.of(snapshot, numbers), snapshot)
            self._texts.update(zip([wanted[place] for place in new], texts, strict=True))
        return self._texts


def _stack_texts(
    text: Callable[[list[str]], str], separator: str, whole: Callable[[str], str]
) -> StackTexts:
    """
    Make a table of the texts of stacks.

    :param text: Function that takes the lines of a frame and returns its text.
    :param separator: Text between two frames.
    :param whole: Function that takes the joined texts of the frames.
    """

    def texts(frames: StackTable, snapshot: Snapshot) -> list[str]:
        of_frames = [text(snapshot.frame_lines(frame)) for frame in frames.frames]
        return list(map(whole, joined_frames(frames, of_frames, separator)))

    return StackTexts(texts)


class _Assembly:
    """Appends fields of records to :class:`RowTexts`, quoted for JSON or for CSV."""

    def __init__(
        self, snapshot: Snapshot, quote: Callable[[Any], str], stacks: Mapping[int, str]
    ) -> None:
        """
        :param quote: Function that quotes a value.
        :param stacks: Handle -> quoted text of the stack; handle 0 is for no stack.
        """
        self._columns = RecordColumns(snapshot)
        self._quote = quote
        self._stacks = stacks
        self._cells = {column.name: self._cell(column) for column in FIELDS}

    def _cell(self, column: Column) -> Callable[[Any], str]:
        text, none, quote = self._columns.text(column), column.none, self._quote
        if text is not None:
            return cache(lambda value: quote(text(value)))
        if none is not None or column.dtype == "bool":
            return cache(lambda value: quote(None if value == none else value))
        return str

    def add(self, texts: RowTexts, rows: Snapshot, column: Column) -> None:
        """Append *column* of *rows* to *texts*."""
        if column.form is Form.STACK:
            self._add_stacks(texts, rows)
            return
        values = self._columns.numbers(rows, column)
        if values is None:
            texts.append(self._quote(None))
            return
        cell = self._cells[column.name]
        texts.column(self._key(rows, column), values, cell)

    def _key(self, rows: Snapshot, column: Column) -> str:
        """
        Return a name for the values of *column*.

        Columns that are formatted from the same stored values have the same name.
        """
        changed = column.form in (Form.PAGES, Form.PAGEBLOCK, Form.ZONE)
        return column.name if changed else column.of or column.name

    def _add_stacks(self, texts: RowTexts, rows: Snapshot) -> None:
        if "handle" not in rows:
            texts.append(self._stacks[0])
            return
        texts.column("handle", rows["handle"], self._stacks.__getitem__)


def _assembled(
    parts: Iterable[Snapshot],
    quote: Callable[[Any], str],
    stacks: StackTexts,
    before: Sequence[str],
    end: str,
) -> Iterator[str]:
    """
    Yield lines with all fields of the records of several snapshots.

    :param quote: Returns the text of a value that is not a number.
    :param before: What stands in front of each of :data:`FIELDS`.
    :param end: What ends a line.
    """
    for part in parts:
        if not len(part):
            continue
        assembly = _Assembly(part, quote, stacks.of(part))
        for rows in part.pieces(_ROWS):
            texts = RowTexts(len(rows))
            for text, column in zip(before, FIELDS, strict=True):
                texts.append(text)
                assembly.add(texts, rows, column)
            texts.append(end)
            yield from texts.text()


def records_json(snapshot: Snapshot, later: Iterable[Snapshot] = ()) -> Iterator[str]:
    """
    Yield one JSON object a line; the fields are :data:`RECORD_FIELDS`.

    :param later: The parts of the listing after *snapshot*.
    """
    stacks = _stack_texts(lambda lines: json_document(lines)[1:-1], ", ", "[{}]".format)
    before = [f'{", " if place else "{"}"{name}": ' for place, name in enumerate(RECORD_FIELDS)]
    yield from _assembled(chain([snapshot], later), json_document, stacks, before, "}\n")


def _csv_text(value: Any) -> str:
    """Return a value quoted as :mod:`csv` quotes a cell."""
    text = io.StringIO()
    csv.writer(text).writerow((csv_cell(value), 0))
    return text.getvalue()[: -len(",0\r\n")]


def records_csv(snapshot: Snapshot, later: Iterable[Snapshot] = ()) -> Iterator[str]:
    """
    Yield a header and a row a record; frames of the stack have ``;`` between them.

    :param later: The parts of the listing after *snapshot*.
    """
    header = io.StringIO()
    csv.writer(header).writerow(RECORD_FIELDS)
    yield header.getvalue()
    stacks = _stack_texts(";".join, ";", _csv_text)
    before = ["", *[","] * (len(FIELDS) - 1)]
    yield from _assembled(chain([snapshot], later), _csv_text, stacks, before, "\r\n")


# Columns that are left out first if the table is too wide.
_SPARE = ("handle", "memcg", "node", "migratetype")


def records_table(snapshot: Snapshot, later: Iterable[Snapshot] = ()) -> Iterator[str]:
    """
    Yield one row per record, with the allocator instead of the whole stack.

    :param later: The parts of the listing after *snapshot*.
    """
    # The time of the dump is known when all parts were read.
    parts = [snapshot, *later]
    now = snapshot.facts.now_ns
    rows = [row for part in parts for row in _rows(part, now)]
    headers = (
        "pfn", "order", "gfp", "migratetype", "node", "zone", "pid", "comm", "memcg", "age",
        "handle", "allocator",
    )  # fmt: skip
    if rows:
        yield table(rows, headers, right=(0, 1, 4, 6, 9, 10), spare=_SPARE) + "\n"
    number = counted(sum(map(len, parts)), "record")
    if snapshot.says_pages():
        yield f"{number}, {counted(sum(int(part.pages.sum()) for part in parts), 'page')}\n"
    else:
        yield f"{number}\n"


def _rows(part: Snapshot, now: int | None) -> Iterator[tuple[Any, ...]]:
    """
    Yield the cells of each record.

    :param now: Time of the dump.
    """
    columns = RecordColumns(part)
    part.frames(part.used_pcs().tolist())
    for rows in part.pieces(_ROWS):
        ages = [None] * len(rows)
        if "ts_nsec" in rows and now is not None:
            stamps = np.minimum(rows["ts_nsec"], np.uint64(now))
            ages = (np.uint64(now) - stamps).tolist()
        owners = mapped(
            rows.stack, lambda number: str(allocator_of(part.stack_frames(number)) or "-")
        )
        yield from zip(
            map(hex, rows["pfn"].tolist()) if "pfn" in rows else ["-"] * len(rows),
            *(map(_shown, columns.lists(rows, shown)) for shown in _IN_TABLE),
            map(age, ages),
            map(str, rows["handle"].tolist() if "handle" in rows else ["-"] * len(rows)),
            owners,
            strict=True,
        )


def _shown(value: Any) -> str:
    return "-" if value is None else word(str(value))
