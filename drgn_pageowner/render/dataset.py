# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make the tables of a dataset for one snapshot: decoded data, and results of analyses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drgn_pageowner.analysis.account.page_class import PageClass, page_classes
from drgn_pageowner.analysis.frag.alloc_check import COSTLY_ORDER
from drgn_pageowner.analysis.frag.buddy import fragmentation_index
from drgn_pageowner.analysis.owners.allocator import allocator_name
from drgn_pageowner.analysis.report import Report
from drgn_pageowner.analysis.verdicts import Verdict, judge
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.escape import without_surrogates
from drgn_pageowner.extras import extra
from drgn_pageowner.model.dataset import DATASET, DATASET_SCHEMA
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.relations import (
    EVERYTHING,
    relation,
    relation_parts,
    stack_id_of,
)

__all__ = (
    "Origins",
    "RecordTable",
    "arrow_schema",
    "conform",
    "dataset_tables",
    "pages_by_class",
    "rows_table",
    "schema_of",
    "with_verdicts",
)

Row = dict[str, Any]


class RecordTable:
    """
    The table ``records`` of a snapshot, which takes much memory if there are many: its rows are
    made when they are read, some at a time.
    """

    def __init__(self, session: Session, id_: str) -> None:
        """
        :param id_: ID of the snapshot.
        :raises PageOwnerError: if there are no records
        """
        self._session, self._id = session, id_
        self.schema = arrow_schema("records")
        """``pyarrow.Schema``"""
        self.number: int | None = None
        """Number of rows, once all were read."""
        self.allocated = self.pages = 0
        """Number of records of allocated pages, and of their base pages."""
        for part in session.record_parts(("order",)):
            self.allocated += len(part)
            self.pages += int(part.pages.sum()) if part.says_pages() else 0

    def parts(self, wanted: Container[str] = EVERYTHING) -> Iterator[Any]:
        """
        Yield the rows.

        :param wanted: Names of the columns that are needed; others may be null.
        :return: ``pyarrow.Table``, at least one.
        """
        number = 0
        for part in relation_parts("records", self._session, self._id, wanted):
            number += len(part)
            yield conform(part, self.schema)
        self.number = number


@dataclass(frozen=True)
class Origins:
    """Facts about the origin of a snapshot that are not in the kernel's memory."""

    id: str
    """ID of the snapshot."""
    tool: str
    """Version of this program."""
    source: str | None = None
    """Path of the dump."""
    size: int | None = None
    """Size of the dump's file, in bytes."""
    build_id: str | None = None
    """Build ID of the kernel, in hexadecimal."""


def arrow_schema(table: str) -> Any:
    """Return the ``pyarrow.Schema`` of a table of :data:`DATASET`."""
    return schema_of({field.name: field.type for field in DATASET[table]})


def schema_of(columns: Mapping[str, str]) -> Any:
    """Return the ``pyarrow.Schema`` of columns whose types are named as in :data:`DATASET`."""
    pa = extra("pyarrow", "parquet", "a dataset")
    types = {
        "bool": pa.bool_(),
        "int64": pa.int64(),
        "uint64": pa.uint64(),
        "double": pa.float64(),
        "string": pa.string(),
        "time": pa.timestamp("ms", "UTC"),
        "list<string>": pa.list_(pa.string()),
        "list<int64>": pa.list_(pa.int64()),
    }
    return pa.schema([(name, types[type_]) for name, type_ in columns.items()])


def rows_table(table: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Convert *rows* to a ``pyarrow.Table``; missing columns become null."""
    pa, schema = extra("pyarrow", "parquet", "a dataset"), arrow_schema(table)
    columns = [
        pa.array([_clean(row.get(name)) for row in rows], schema.field(name).type)
        for name in schema.names
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _clean(value: Any) -> Any:
    """Return *value* with bytes that are not valid UTF-8 escaped, also in names inside lists."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def dataset_tables(
    session: Session,
    found: Report,
    inventory: Inventory | None,
    origins: Origins,
    only: Collection[str] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """
    Make all tables of a snapshot, except ``runs``.

    :param found: Report on the same dump.
    :param inventory: The use of every page; ``None`` if it could not be read.
    :param only: Names of the tables to make, besides ``meta``; ``None`` for all.
    :return: Tables by name: ``pyarrow.Table``, or :class:`RecordTable`; and, for tables that could
        not be made, the reason by name.
    """

    def of_session(name: str) -> Callable[[], Any]:
        return lambda: conform(relation(name, session, origins.id), arrow_schema(name))

    makers: dict[str, Callable[[], Any]] = {
        "records": lambda: RecordTable(session, origins.id),
        **{name: of_session(name) for name in ("stacks", "zones", "tags")},
        "leaks": lambda: _rows("leaks", _leaks(found), origins),
        "suspects": lambda: _rows("suspects", _suspects(found), origins),
        "frag": lambda: _rows("frag", _frag(found), origins),
        "pages": lambda: rows_table("pages", pages_by_class(inventory, origins.id)),
        "verdicts": lambda: _verdict_rows(judge(found), origins.id),
    }
    tables: dict[str, Any] = {}
    lacking: dict[str, str] = {}
    for name, make in makers.items():
        if only is not None and name not in only:
            continue
        try:
            tables[name] = make()
        except PageOwnerError as error:
            lacking[name] = str(error)
    tables["meta"] = _rows("meta", [_meta(session, found, tables.get("records"), origins)], origins)
    return tables, lacking


def _rows(table: str, rows: Sequence[Row], origins: Origins) -> Any:
    return rows_table(table, [{"snapshot": origins.id, **row} for row in rows])


def conform(made: Any, schema: Any) -> Any:
    """Return *made* as a ``pyarrow.Table`` with the columns of *schema*; missing ones become
    null."""
    pa = extra("pyarrow", "parquet", "a dataset")
    columns = [
        made.column(name).cast(schema.field(name).type)
        if name in made.column_names
        else pa.nulls(len(made), schema.field(name).type)
        for name in schema.names
    ]
    return pa.table(columns, schema=schema)


def _meta(session: Session, found: Report, records: RecordTable | None, origins: Origins) -> Row:
    facts, crash = found.facts, found.crash
    held: Row = {}
    if records is not None:
        held = {"records": records.allocated, "allocated_pages": records.pages}
    names = ("release", "version", "hostname", "arch", "page_size", "now_ns", "live",
             "panic_message", "page_owner")  # fmt: skip
    seconds = crash.crash_time if crash is not None else None
    return {
        **{name: getattr(facts, name) for name in names},
        **held,
        "schema": DATASET_SCHEMA,
        "tool": origins.tool,
        "build_id": origins.build_id,
        "present": sum(zone.present for zone in facts.zones),
        "crash_time": _milliseconds(seconds),
        "modules": list(found.modules),
        "cpus": crash.cpus if crash is not None else None,
        "hardware": crash.hardware if crash is not None else None,
        "command_line": crash.command_line if crash is not None else None,
        "source": origins.source,
        "dump_bytes": origins.size,
        "problems": list(dict.fromkeys((*found.problems, *session.losses()))),
    }


def _milliseconds(seconds: int | None) -> int | None:
    """Convert *seconds* since 1970 to milliseconds; ``None`` if the time is impossible."""
    return seconds * 1000 if seconds is not None and 0 <= seconds < 1 << 40 else None


def pages_by_class(inventory: Inventory | None, snapshot: str) -> list[Row]:
    """
    Count the base pages of every class in every zone.

    :param snapshot: ID of the snapshot.
    :raises PageOwnerError: if there is no inventory
    """
    if inventory is None:
        raise PageOwnerError("the use of pages could not be read")
    pages = inventory.memory.pages
    facts = pages.facts
    classes = page_classes(inventory).astype(np.int64)
    numbers = np.bincount(pages["zone"].astype(np.int64) << 8 | classes)
    rows = []
    for cell in np.flatnonzero(numbers).tolist():
        zone = facts.zones[cell >> 8] if cell >> 8 < len(facts.zones) else None
        count = int(numbers[cell])
        rows.append(
            {
                "snapshot": snapshot,
                "node": zone.node if zone is not None else None,
                "zone": zone.name if zone is not None else None,
                "class": PageClass.label_of(cell & 0xFF),
                "pages": count,
                "bytes": count * facts.page_size,
            }
        )
    return rows


def _leaks(found: Report) -> list[Row]:
    if found.leaks is None:
        raise PageOwnerError("leaks were not searched for")
    rows: list[Row] = [
        {
            "kind": "pages",
            **{name: getattr(group, name) for name in (
                "verdict", "confidence", "pages", "bytes", "allocations", "handle", "reasons",
            )},
            "allocator": allocator_name(group.stack) or None,
            "stack_id": stack_id_of(group.stack) or None,
        }
        for group in found.leaks.lost_groups
    ]  # fmt: skip
    for leak in found.leaks.slab or ():
        rows.append(
            {
                "kind": "slab",
                "verdict": leak.verdict,
                "cache": leak.cache,
                "bytes": leak.bytes,
                "allocations": leak.objects,
                "allocator": allocator_name(leak.stack) if leak.stack else None,
                "tag": leak.tag,
                "stack_id": stack_id_of(leak.stack) if leak.stack else None,
            }
        )
    return rows


def _suspects(found: Report) -> list[Row]:
    if found.suspects is None:
        raise PageOwnerError("there are no records to find suspects in")
    names = ("handle", "score", "pages", "bytes", "allocations", "pages_per_hour",
             "reasons")  # fmt: skip
    return [
        {
            **{name: getattr(suspect, name) for name in names},
            "allocator": allocator_name(suspect.stack) or None,
            "stack_id": stack_id_of(suspect.stack) or None,
        }
        for suspect in found.suspects
    ]


def _frag(found: Report) -> list[Row]:
    if found.frag is None:
        raise PageOwnerError("fragmentation could not be judged")
    names = ("node", "zone", "managed", "free", "free_cma", "largest_free_run", "polluted",
             "healthy", "verdict")  # fmt: skip
    return [
        {
            **{name: getattr(zone, name) for name in names},
            "costly_index": fragmentation_index(zone.free_blocks, COSTLY_ORDER),
        }
        for zone in found.frag.zones
    ]


def with_verdicts(table: Any, verdicts: Sequence[Verdict], snapshot: str) -> Any:
    """
    Append *verdicts* to the table ``verdicts``.

    :param table: ``pyarrow.Table``
    :param snapshot: ID of the snapshot.
    """
    pa = extra("pyarrow", "parquet", "a dataset")
    return pa.concat_tables([table, _verdict_rows(verdicts, snapshot)])


def _verdict_rows(verdicts: Sequence[Verdict], snapshot: str) -> Any:
    names = ("area", "level", "finding", "text", "rule", "link", "pages")
    rows = [
        {
            "snapshot": snapshot,
            **{name: getattr(verdict, name, None) for name in names},
            "detail": verdict.detail or None,
        }
        for verdict in verdicts
    ]
    return rows_table("verdicts", rows)
