# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Records as JSON lines, CSV and a table.

Rows are never formatted by a loop of ours: every column becomes a list, of texts that are made
once per distinct value, and one template is mapped over all of them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.escape import word
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.table import age, csv_cell, table
from drgn_pageowner.render.text import comm_text, flags_text, gfp_text, mapped, name_at

__all__ = ("RECORD_FIELDS", "RecordColumns", "records_csv", "records_json", "records_table")

_ROWS = 16384

RECORD_FIELDS = (
    "pfn",
    "order",
    "pages",
    "gfp_mask",
    "gfp_flags",
    "migratetype",
    "pageblock",
    "pageblock_migratetype",
    "page_flags",
    "node",
    "zone",
    "pid",
    "tgid",
    "comm",
    "ts_nsec",
    "free_ts_nsec",
    "handle",
    "allocated",
    "last_migrate_reason",
    "memcg",
    "stack",
    "free_pid",
    "free_tgid",
    "free_handle",
)
"""The fields of a record in JSON and CSV, in order; null where the kernel has none."""


def _pieces(snapshot: Snapshot) -> Iterator[Snapshot]:
    for start in range(0, len(snapshot), _ROWS):
        yield snapshot.select(np.arange(start, min(start + _ROWS, len(snapshot))))


class RecordColumns:
    """The fields of :data:`RECORD_FIELDS` but ``stack``, as values that have a text each."""

    def __init__(self, snapshot: Snapshot) -> None:
        names, order = snapshot.names, snapshot.facts.pageblock_order
        zones = {(zone.node, zone.type): zone.name for zone in snapshot.facts.zones}
        any_node = {zone.type: zone.name for zone in snapshot.facts.zones}
        self._numbers: dict[str, tuple[str, Callable[[Snapshot], Array]]] = {
            "pages": ("order", lambda rows: rows.pages),
            "gfp_flags": ("gfp_mask", lambda rows: rows["gfp_mask"]),
            "pageblock": ("pfn", lambda rows: rows["pfn"] >> order),
            "zone": ("zone", lambda rows: rows["node"].astype(np.int64) << 8 | rows["zone"]),
        }
        self._texts: dict[str, Callable[[Any], str | None]] = {
            "gfp_flags": lambda v: gfp_text(v, names),
            "migratetype": lambda v: name_at(names.migratetypes, v),
            "pageblock_migratetype": (lambda v: None if v < 0 else name_at(names.migratetypes, v)),
            "page_flags": lambda v: flags_text(v & names.page_flags_mask, names.page_flags),
            "zone": lambda v: zones.get((v >> 8, v & 0xFF), any_node.get(v & 0xFF)),
            "comm": comm_text,
            "last_migrate_reason": (
                lambda v: None if v == -1 else name_at(names.migrate_reasons, v)
            ),
            "memcg": lambda v: None if v < 0 else snapshot.memcgs[v].path,
        }

    def numbers(self, rows: Snapshot, field: str) -> Array | None:
        """The values of a field, or ``None`` if this kernel has none of them."""
        column, values = self._numbers.get(field, (field, lambda rows: rows[field]))
        return values(rows) if column in rows else None

    def text(self, field: str) -> Callable[[Any], str | None] | None:
        """What makes a text of a value of *field*; ``None`` if it is a number."""
        return self._texts.get(field)

    def lists(
        self, rows: Snapshot, field: str, change: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        """
        A field of *rows*, as Python has it.

        :param change: Applied to each distinct text.
        """
        values, text = self.numbers(rows, field), self.text(field)
        if values is None:
            return [None] * len(rows)
        if text is None:
            numbers: list[Any] = values.tolist()
            return numbers
        if change is None:
            return mapped(values, text)
        return mapped(values, lambda value: change(text(value)))


def _stack_texts(snapshot: Snapshot) -> dict[int, list[str]]:
    """The lines of every stack that is used, symbolised all at once."""
    snapshot.frames(snapshot.used_pcs().tolist())
    return {
        number: [
            line for frame in snapshot.stack_frames(number) for line in snapshot.frame_lines(frame)
        ]
        for number in np.unique(snapshot.stack).tolist()
    }


def records_json(snapshot: Snapshot) -> Iterator[str]:
    """One JSON object a line; the fields are :data:`RECORD_FIELDS`."""
    columns = RecordColumns(snapshot)
    stacks = {number: json_document(lines) for number, lines in _stack_texts(snapshot).items()}
    template = "{" + ", ".join(f'"{field}": %s' for field in RECORD_FIELDS) + "}\n"
    texts: dict[Any, str] = {None: "null", True: "true", False: "false"}

    def quoted(value: Any) -> str:
        if value not in texts:
            texts[value] = json_document(value)
        return texts[value]

    numeric = {
        "pfn", "order", "pages", "gfp_mask", "pageblock", "node", "pid", "tgid", "ts_nsec",
        "free_ts_nsec", "handle", "free_pid", "free_tgid", "free_handle",
    }  # fmt: skip
    for rows in _pieces(snapshot):
        filled: list[Any] = []
        for field in RECORD_FIELDS:
            if field == "stack":
                filled.append(mapped(rows.stack, stacks.__getitem__))
                continue
            values = columns.lists(rows, field)
            if field in numeric and (not values or values[0] is not None):
                filled.append(values)
            else:
                filled.append(map(quoted, values))
        yield "".join(map(template.__mod__, zip(*filled, strict=True)))


def records_csv(snapshot: Snapshot) -> Iterator[str]:
    """A header and a row a record; frames of the stack have ``;`` between them."""
    columns = RecordColumns(snapshot)
    stacks = {number: csv_cell(";".join(lines)) for number, lines in _stack_texts(snapshot).items()}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(RECORD_FIELDS)
    for rows in _pieces(snapshot):
        filled = [
            mapped(rows.stack, stacks.__getitem__)
            if field == "stack"
            else columns.lists(rows, field, csv_cell)
            for field in RECORD_FIELDS
        ]
        writer.writerows(zip(*filled, strict=True))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def records_table(snapshot: Snapshot) -> Iterator[str]:
    """A row a record, with the allocator instead of the whole stack."""
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
        names = ("order", "gfp_flags", "migratetype", "node", "zone", "pid", "comm", "memcg")
        return zip(
            map(hex, rows["pfn"].tolist()),
            *(map(_shown, columns.lists(rows, name)) for name in names),
            map(age, ages),
            map(str, rows["handle"].tolist()),
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
    total = int(snapshot.pages.sum())
    yield f"{len(snapshot):,} records, {total:,} pages\n"


def _shown(value: Any) -> str:
    return "-" if value is None else word(str(value))
