# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Check the contents of a saved file before anything is computed from it.

Checksums only show that a file was not changed since it was written. Its values are used as indices
and array sizes, so each value is checked to be in range; a file that is damaged, or was crafted to
do harm, is rejected with one line. Unknown tables and columns are ignored, because a later version
may have written them.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.columns import STORED
from drgn_pageowner.model.fingerprint import CLUE_KINDS, Fingerprint
from drgn_pageowner.model.heap import Evidence, Metadata, Reachability, Role
from drgn_pageowner.model.kernel import Facts, Names
from drgn_pageowner.model.pages import NO_ZONE, Memory, PageState
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.tags import TagSums

__all__ = (
    "MalformedError",
    "check_facts",
    "check_json",
    "check_memory",
    "check_names",
    "check_pages",
    "check_records",
    "check_search",
    "check_slabs",
    "check_uses",
    "columns_of_table",
    "record_columns",
    "require",
    "rows_of_stream",
    "within",
)

TEXT = "text"
_PLACES = {"filename": TEXT, "module": TEXT, "function": TEXT, "lineno": "i8"}
_FRAMES = {
    "pc": "u8", "name": TEXT, "offset": "i8", "size": "u8", "module": TEXT, "called": "b1",
}  # fmt: skip
TABLES: dict[str, dict[str, str]] = {
    "stacks": {"handle": "u4", "depth": "i4", "used_by": "u1", "kernel_pages": "i8"},
    "stack_frames": {"frame": "i4"},
    "pcs": {"pc": "u8"},
    "frames": _FRAMES,
    "page_ranges": {"start_pfn": "i8", "pages": "i8"},
    "pages": {
        "flags": "u8", "free_order": "i1", "head": "i8", "mapcount": "i4", "mapping": "u8",
        "refcount": "i4", "state": "u1", "zone": "u1",
    },
    "pageblocks": {"migratetype": "i1"},
    "free_blocks": {"row": "i8", "order": "i1", "zone": "u1", "migratetype": "i1", "pcp": "b1"},
    "cma_pages": {"allocated": "b1"},
    "page_uses": {"metadata": "u1", "buffers": "b1"},
    "slabs": {
        "cache": "i4", "row": "i8", "pages": "i8", "first": "i8", "stride": "i8", "size": "i8",
        "objects": "i8",
    },
    "slab_objects": {"allocated": "b1"},
    "slab_sheaves": {"address": "u8"},
    "slab_owners": {"tag": "i4", "handle": "u4", "pid": "i4", "memcg": "i4"},
    "slab_stacks": {"handle": "u4", "depth": "i4"},
    "slab_pcs": {"pc": "u8"},
    "slab_frames": _FRAMES,
    "slab_tags": _PLACES,
    "areas": {"start": "u8", "size": "u8", "pages": "i8", "kind": TEXT},
    "area_pages": {"row": "i8"},
    "leaks": {
        "pfn": "i8", "distance": "i4", "role": "u1", "verdict": "u1", "evidence": "u1",
        "fingerprint": "i4", "order": "u1", "tag": "i4",
    },
    "leak_tags": _PLACES,
    "lost_objects": {
        "cache": "i4", "size": "i8", "verdict": "u1", "address": "u8", "stack": "i4", "pid": "i8",
        "tag": TEXT, "memcg": TEXT, "fingerprint": "i4",
    },
    "lost_stacks": {"depth": "i4"},
    "lost_frames": _FRAMES,
    "record_tags": _PLACES,
    "tags": {
        **_PLACES, "bytes": "i8", "calls": "i8", "inaccurate": "b1", "listed": "b1",
        "counted": "b1", "page_allocations": "i8", "pages": "i8", "objects": "i8",
        "object_bytes": "i8", "percpu_allocations": "i8", "percpu_bytes": "i8",
    },
    "stack_list": {"handle": "u4", "pages": "i8", "depth": "i4"},
    "stack_list_frames": {"frame": "i4"},
    "stack_list_pcs": {"pc": "u8"},
    "stack_list_names": _FRAMES,
}  # fmt: skip
"""The columns of every table, and the types to which they are converted."""

# Columns that not every kernel has, and columns that files of earlier versions lack.
_OPTIONAL = {
    ("stacks", "kernel_pages"),
    *((name, "called") for name, table in TABLES.items() if table is _FRAMES),
    *(("lost_objects", name) for name in ("tag", "memcg", "fingerprint")),
    *(("leaks", name) for name in ("evidence", "fingerprint", "order", "tag")),
    *(("tags", field.name) for field in fields(TagSums)),
}
# Maximum number of values in a JSON document; each takes up to 100 bytes of memory. The largest
# documents (source lines of every stack of a machine with 8 GiB) have about 100,000.
_MOST_VALUES = 4 << 20
_MOST_TEXT = 128 << 20
# Memory per row in addition to the values of its columns: validity bits, offsets, padding, texts.
_BYTES_PER_ROW = 64
_BYTES_PER_TABLE = 16 << 20
# Physical addresses have at most 52 bits on all architectures, and pages at least 2^12 bytes.
_MOST_PAGES = 1 << 40


class MalformedError(ValueError):
    """Raised if a file contains values that a snapshot cannot have."""


def require(condition: Any, what: str) -> None:
    """
    Check a condition.

    :param what: Name of the data, for the error message.
    :raises MalformedError: if *condition* is false
    """
    if not condition:
        raise MalformedError(what)


def within(values: Array, low: int, end: int, what: str) -> None:
    """
    Check that all *values* are at least *low* and less than *end*.

    :param what: Name of the data, for the error message.
    :raises MalformedError: otherwise
    """
    if len(values):
        require(low <= int(values.min()) and int(values.max()) < end, what)


def check_json(text: bytes | memoryview, size: int | None = None) -> None:
    """
    Check that parsing a JSON document takes a bounded amount of memory.

    :param size: Uncompressed size of the document according to the file.
    :raises MalformedError: if it is too large
    """
    require((len(text) if size is None else size) <= _MOST_TEXT, "a document is too long")
    if size is None:
        data = bytes(text)
        values = data.count(b",") + data.count(b"[") + data.count(b"{")
        require(values <= _MOST_VALUES, "a document has too many values")


def columns_of_table(
    name: str, table: Mapping[str, Any], wanted: Collection[str]
) -> dict[str, Any]:
    """
    Return the known columns of *table*, converted to the types that they must have.

    :param table: Arrays, and lists of text.
    :param wanted: Names of the columns that were read.
    """
    known = TABLES.get(name)
    require(known is not None, f"there is no table {name}")
    assert known is not None
    result: dict[str, Any] = {}
    for column, kind in known.items():
        if column not in wanted:
            continue
        if column not in table:
            require((name, column) in _OPTIONAL, f"{name} has no column {column}")
            continue
        values = table[column]
        if kind == TEXT:
            good = isinstance(values, list) and all(
                value is None or isinstance(value, str) for value in values
            )
            require(good, f"{name}.{column} is not a text")
            result[column] = values
        else:
            result[column] = _as(np.dtype(kind), values, f"{name}.{column}")
    return result


def _as(dtype: np.dtype[Any], values: Any, what: str) -> Array:
    """Convert *values* to *dtype*; raise MalformedError if they do not fit."""
    require(
        isinstance(values, np.ndarray) and values.ndim == 1, f"{what} is not a column of numbers"
    )
    array: Array = values
    if array.dtype == dtype:
        return array
    require(array.dtype.kind in "iub" and dtype.kind in "iu", f"{what} is of type {array.dtype}")
    if len(array):
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        require(limits.min <= low and high <= limits.max, f"{what} is of type {array.dtype}")
    return array.astype(dtype)


def record_columns(columns: Mapping[str, Array]) -> dict[str, Array]:
    """Return the columns of records, converted to the types that they must have."""
    result = {}
    for name, values in columns.items():
        if STORED[name].dtype.startswith("S"):
            require(values.dtype.kind == "S", f"{name} is of type {values.dtype}")
            result[name] = values
        else:
            result[name] = _as(np.dtype(STORED[name].dtype), values, name)
    return result


def check_facts(facts: Facts) -> None:
    """
    Check that page size, orders, PFNs and zones are possible for a kernel.
    """
    size = facts.page_size
    require(4096 <= size <= 1 << 20 and size & (size - 1) == 0, "page_size")
    require(0 <= facts.max_page_order < 32, "max_page_order")
    require(0 <= facts.pageblock_order < 32, "pageblock_order")
    require(facts.min_low_pfn >= 0 and 0 <= facts.max_pfn <= _MOST_PAGES, "max_pfn")
    require(facts.now_ns is None or 0 <= facts.now_ns < 1 << 63, "now_ns")
    require(facts.page_owner in ("absent", "off", "on"), "page_owner")
    require(len(facts.zones) < 255, "zones")
    for zone in facts.zones:
        pages = (zone.start_pfn, zone.spanned, zone.present, zone.managed)
        require(all(0 <= number <= 1 << 62 for number in pages), "zones")
        require(0 <= zone.node < 1 << 16 and 0 <= zone.type < 256, "zones")


def check_names(names: Names) -> None:
    """Check that the bits and masks in the tables of names fit in a word."""
    masks = [mask for mask, _ in (*names.gfp_flags, *names.page_flags)]
    require(all(0 <= mask < 1 << 64 for mask in (*masks, names.page_flags_mask)), "names")
    require(all(0 <= bit < 64 for bit in names.page_flag_bits.values()), "names")
    for field in names.page_flag_fields:
        require(0 <= field.shift < 64 and 0 <= field.width <= 64, "names")


def check_records(snapshot: Snapshot) -> None:
    """Check that the values in the columns of records are in range for the machine."""
    columns, facts = snapshot.columns, snapshot.facts
    # A text does not contain the number of pages of the machine.
    within(columns["pfn"], 0, facts.max_pfn or _MOST_PAGES, "pfn")
    within(columns["order"], 0, facts.max_page_order + 1, "order")
    if snapshot.tags is not None:
        within(columns["tag"], -1, len(snapshot.tags), "tag")
    if "memcg" in columns:
        within(columns["memcg"], -1, len(snapshot.memcgs), "memcg")
    stacks = snapshot.stacks
    require(np.all(stacks.handles[1:] > stacks.handles[:-1]), "stacks are in no order")


def check_memory(memory: Memory, names: Names) -> None:
    """Check that rows, zones, orders and pageblocks are in range."""
    pages, facts = memory.pages, memory.pages.facts
    rows, starts, sizes = len(pages), pages.starts, np.diff(pages.offsets)
    within(sizes, 1, _MOST_PAGES, "page_ranges")
    within(starts, 0, _MOST_PAGES, "page_ranges")
    ends = starts + sizes
    require(np.all(starts[1:] >= ends[:-1]), "page_ranges overlap")
    require(all(len(column) == rows for column in pages.columns.values()), "pages")
    blocks = (facts.max_pfn >> facts.pageblock_order) + 1
    require(len(memory.pageblocks) == blocks, "pageblocks")
    require(not rows or int(ends[-1]) <= max(facts.max_pfn, 1), "page_ranges end behind max_pfn")
    orders = facts.max_page_order + 1
    types = len(names.migratetypes)
    require(types, "migratetypes")
    within(memory.pageblocks, -1, max(types, 8), "pageblocks")
    free = memory.free
    within(free.row, 0, rows, "free_blocks")
    within(free.order, 0, orders, "free_blocks")
    within(free.zone[free.zone != NO_ZONE], 0, len(facts.zones), "free_blocks")
    within(free.migratetype, -1, max(types, 8), "free_blocks")
    require(len(memory.zones) == len(facts.zones), "zones")
    for zone in memory.zones:
        require(len(zone.nr_free) == orders and len(zone.watermarks) == 3, "zones")
        numbers = (*zone.nr_free, *zone.watermarks, *zone.lowmem_reserve, zone.free_pages,
                   zone.free_cma, zone.pcp, *zone.vmstat.values())  # fmt: skip
        require(all(abs(number) <= 1 << 62 for number in numbers), "zones")
    for area in memory.cma:
        require(0 <= area.start_pfn <= _MOST_PAGES and 0 <= area.pages <= _MOST_PAGES, "cma")
        require(0 <= area.order_per_bit < 32, "cma")
        require(len(area.allocated) == area.pages, "cma")
    zones = len(facts.zones)
    known = [zone for list_ in memory.zonelists.values() for zone in list_]
    require(all(0 <= zone < zones for zone in known), "zonelists")


def check_pages(columns: Mapping[str, Array], facts: Facts) -> None:
    """Check the states and orders of some pages."""
    within(columns["state"], 0, max(PageState) + 1, "state")
    if "free_order" in columns:
        within(columns["free_order"], -1, facts.max_page_order + 1, "free_order")


def check_slabs(table: Mapping[str, Array], objects: Array, caches: int, rows: int) -> None:
    """Check that slabs refer to existing pages and caches."""
    within(table["cache"], 0, caches, "slabs")
    within(table["row"], 0, rows, "slabs")
    within(table["pages"], 1, rows + 1, "slabs")
    within(table["row"] + table["pages"], 0, rows + 1, "slabs")
    within(table["objects"], 0, len(objects) + 1, "slabs")
    within(table["first"], 0, 1 << 40, "slabs")
    within(table["stride"], 0, 1 << 40, "slabs")
    within(table["size"], 0, 1 << 40, "slabs")
    require(int(table["objects"].sum()) == len(objects), "slab_objects")


def check_uses(metadata: Array) -> None:
    """Check that the uses of some pages are valid."""
    within(metadata, 0, max(Metadata) + 1, "page_uses")


def check_search(table: Mapping[str, Array], first: int, records: Snapshot) -> None:
    """
    Check that the result of a search for leaks refers to existing records.

    :param table: Some rows, of which *first* is the index of the first record.
    """
    rows = np.arange(first, first + len(table["pfn"]), dtype=np.int64)
    require(np.array_equal(table["pfn"], records["pfn"][first : first + len(rows)]),
            "leaks are not of these records")  # fmt: skip
    within(rows - table["distance"], 0, len(records), "leaks")
    within(table["role"], 0, max(Role) + 1, "leaks")
    within(table["verdict"], 0, max(Reachability) + 1, "leaks")
    if "evidence" in table:
        within(table["evidence"], 0, max(Evidence) + 1, "leaks")


def check_fingerprints(prints: Sequence[Fingerprint]) -> None:
    """Check that the values in fingerprints are in range."""
    for one in prints:
        require(len(one.bytes) % 2 == 0 and not set(one.bytes) - set("0123456789abcdef"), "bytes")
        require(0 <= one.example < 1 << 64 and one.shared >= 0, "fingerprints")
        for clue in one.clues:
            require(0 <= clue.offset < 1 << 40 and clue.kind in CLUE_KINDS, "fingerprints")


def rows_of_stream(message: Any, columns: int, most_rows: int) -> int:
    """
    Check number of rows and uncompressed size of an Arrow IPC message, before it is decompressed.

    :param message: ``pyarrow.ipc.Message``
    :param columns: Number of columns of the table.
    :param most_rows: Maximum number of rows.
    :return: Number of rows; 0 if they are not rows of the table.
    :raises MalformedError: if it has more rows, or would take more memory than its rows can need
    """
    body, data = message.body, message.metadata.to_pybytes()
    header = _flat_field(data, _flat_root(data), 2)
    if message.type == "dictionary":
        header = _flat_field(data, _indirect(data, header), 1)
    elif message.type != "record batch":
        return 0
    batch = _indirect(data, header)
    place = _flat_field(data, batch, 0, required=False)
    rows = struct.unpack_from("<q", data, place)[0] if place else 0
    require(0 <= rows <= most_rows, "a table has too many rows")
    vector = _indirect(data, _flat_field(data, batch, 2))
    (number,) = struct.unpack_from("<I", data, vector)
    total = 0
    for index in range(number):
        offset, length = struct.unpack_from("<qq", data, vector + 4 + 16 * index)
        if length < 8:
            continue
        require(offset >= 0 and offset + length <= body.size, "a table is cut off")
        # Uncompressed size of each buffer; -1 if it is not compressed.
        (size,) = struct.unpack_from("<q", body, offset)
        total += length if size < 0 else size
    require(total <= _BYTES_PER_TABLE + rows * columns * _BYTES_PER_ROW, "a table is too large")
    return int(rows) if message.type == "record batch" else 0


def _flat_root(data: bytes) -> int:
    return _indirect(data, 0)


def _indirect(data: bytes, place: int) -> int:
    """Follow the offset at *place* of a FlatBuffer."""
    return place + int(struct.unpack_from("<I", data, place)[0])


def _flat_field(data: bytes, table: int, number: int, *, required: bool = True) -> int:
    """
    Return the position of field *number* in a FlatBuffer's *table*; 0 if it has the default value.
    """
    vtable = table - struct.unpack_from("<i", data, table)[0]
    require(0 <= vtable < len(data), "a table has no header")
    size, entry = struct.unpack_from("<H", data, vtable)[0], 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + entry)[0] if entry + 2 <= size else 0
    require(offset or not required, "a table has no header")
    return table + offset if offset else 0
