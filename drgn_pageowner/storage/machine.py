# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert pages, free lists, zones and inventories to tables, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, cast

import numpy as np

from drgn_pageowner.model.arrays import Array, Growing, sparse_zeros
from drgn_pageowner.model.heap import Area, FileUse, Inventory, Slabs, area_of_text, record_of_row
from drgn_pageowner.model.kernel import Facts, Names
from drgn_pageowner.model.packed import Packed, Packing
from drgn_pageowner.model.pages import (
    HEAD_COLUMNS,
    CmaArea,
    FreeLists,
    Heads,
    Memory,
    Pages,
    ZoneStats,
    row_type,
)
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.storage.check import (
    check_memory,
    check_pages,
    check_slabs,
    check_uses,
    require,
    within,
)
from drgn_pageowner.storage.container import Columns, Container, JoinedColumns
from drgn_pageowner.storage.plain import as_json, restore

__all__ = (
    "INVENTORY_PAGES",
    "PAGE_COLUMNS",
    "inventory_tables",
    "load_inventory",
    "load_memory",
    "load_slabs",
    "memory_tables",
)

PAGE_COLUMNS = ("flags", "refcount", "mapcount", "mapping", "head")
"""The columns of :class:`Pages` that are saved besides ``state``, ``zone`` and ``free_order``."""

INVENTORY_PAGES = ("mapcount", "head")
"""The columns of :class:`Pages` that an inventory needs."""
_SLABS = ("cache", "row", "pages", "first", "stride", "size", "objects")


class _Distances:
    """The distance from its head to each page, in rows; takes slices as an array does."""

    def __init__(self, head: Array) -> None:
        """
        :param head: Row of each page's head.
        """
        self._head = head

    def __len__(self) -> int:
        return len(self._head)

    def __getitem__(self, rows: slice) -> Array:
        """Return some rows: ``int64``."""
        result: Array = np.arange(*rows.indices(len(self)), dtype=np.int64) - self._head[rows]
        return result


def memory_tables(memory: Memory) -> tuple[dict[str, Columns], dict[str, Any]]:
    """
    Convert all pages, free lists and zones to tables and documents.

    :param memory: Pages with all of :data:`PAGE_COLUMNS`.
    """
    pages = memory.pages
    columns = dict(pages.columns)
    # The head is stored as a distance in rows, which is usually 0.
    columns["head"] = cast(Array, _Distances(columns["head"]))
    free = memory.free
    tables: dict[str, Columns] = {
        "page_ranges": {"start_pfn": pages.starts, "pages": np.diff(pages.offsets)},
        "pages": {name: columns[name] for name in sorted(columns)},
        "pageblocks": {"migratetype": memory.pageblocks},
        "free_blocks": {
            "row": free.row, "order": free.order, "zone": free.zone,
            "migratetype": free.migratetype, "pcp": free.pcp,
        },
        "cma_pages": {
            "allocated": np.concatenate([np.zeros(0, bool), *(a.allocated for a in memory.cma)])
        },
    }  # fmt: skip
    document = {
        "missing": pages.missing,
        "zones": as_json(memory.zones),
        "shared_pageblocks": as_json(memory.shared_pageblocks),
        "cma": [
            [area.name, area.start_pfn, area.pages, area.order_per_bit, len(area.allocated)]
            for area in memory.cma
        ],
        "zonelists": as_json(memory.zonelists),
        "extfrag_threshold": memory.extfrag_threshold,
        "defrag_mode": memory.defrag_mode,
        "extfrag_format": memory.extfrag_format,
        "problems": memory.problems,
    }
    return tables, {"memory": document}


def load_memory(
    file: Container,
    facts: Facts,
    names: Names,
    columns: Iterable[str],
    *,
    narrow: bool = False,
    packing: Packing | None = None,
) -> Memory:
    """
    Load pages, free lists and zones from the tables of :func:`memory_tables`.

    :param narrow: Whether to keep less of the pages: not ``free_order``, ``mapcount`` only as -1 or
        0 (``int8``), and ``head`` as :class:`~drgn_pageowner.model.pages.Heads`.
    :param packing: Compresses ``flags``, ``refcount`` and ``mapping``, which are
        :class:`~drgn_pageowner.model.packed.Packed` then; and ``head`` is
        :class:`~drgn_pageowner.model.pages.Heads`.
    """
    with file.checked():
        known, ranges = file.document("memory"), file.table("page_ranges")
        offsets = np.concatenate([[0], np.cumsum(ranges["pages"])]).astype(np.int64)
        wanted = {"state", "zone", *columns, *(() if narrow else ("free_order",))}
        pages = Pages(
            facts=facts,
            names=names,
            starts=ranges["start_pfn"],
            offsets=offsets,
            columns=_page_columns(file, int(offsets[-1]), wanted, facts, narrow, packing),
            missing=restore(int, known["missing"]),
        )
        memory = _memory(file, known, pages)
        check_memory(memory, names)
        return memory


def _page_columns(
    file: Container,
    rows: int,
    wanted: Collection[str],
    facts: Facts,
    narrow: bool,
    packing: Packing | None,
) -> dict[str, Array]:
    """
    Load columns of all pages.

    :param rows: Number of pages.
    """
    found, pieces = file.pieces("pages", wanted)
    require(found == rows, "pages")
    dtype = row_type(rows)
    joined, packed = JoinedColumns(rows), dict[str, Packed]()
    tails, heads = Growing(dtype), Growing(dtype)
    for piece in pieces:
        check_pages(piece, facts)
        if "head" in piece:
            distance = piece.pop("head")
            tail = np.flatnonzero(distance)
            head = tail + joined.rows - distance[tail]
            within(head, 0, rows, "head")
            tails.add(tail + joined.rows)
            heads.add(head)
        if narrow and "mapcount" in piece:
            piece["mapcount"] = np.negative((piece["mapcount"] < 0).view(np.int8))
        if packing is not None:
            for name in piece.keys() & HEAD_COLUMNS:
                values = piece.pop(name)
                column = packed.setdefault(name, Packed(values.dtype, packing))
                column.add(column.blocks(values))
        joined.add(piece)
    result = {**joined.columns, **packed}
    if "head" in wanted and (narrow or packing is not None):
        result["head"] = Heads.of(rows, tails.take(), heads.take())
    elif "head" in wanted:
        result["head"] = np.arange(rows, dtype=dtype)
        result["head"][tails.take()] = heads.take()
    return result


def _memory(file: Container, known: dict[str, Any], pages: Pages) -> Memory:
    return Memory(
        pages=pages,
        free=FreeLists(**file.table("free_blocks")),
        zones=restore(tuple[ZoneStats, ...], known["zones"]),
        pageblocks=file.table("pageblocks")["migratetype"],
        shared_pageblocks=restore(
            tuple[tuple[int, int, int], ...], known.get("shared_pageblocks", [])
        ),
        cma=_cma_areas(known["cma"], file.table("cma_pages")["allocated"]),
        zonelists=restore(dict[int, tuple[int, ...]], known["zonelists"]),
        extfrag_threshold=restore(int, known["extfrag_threshold"]),
        defrag_mode=restore(bool, known.get("defrag_mode", False)),
        extfrag_format=restore(str, known["extfrag_format"]),
        problems=restore(list[str], known["problems"]),
    )


def _cma_areas(rows: list[list[Any]], allocated: Array) -> tuple[CmaArea, ...]:
    areas, position = [], 0
    for row in rows:
        name, start, pages, order, length = restore(tuple[str, int, int, int, int], row)
        require(length >= 0, "cma")
        areas.append(CmaArea(name, start, pages, order, allocated[position : position + length]))
        position += length
    return tuple(areas)


def inventory_tables(inventory: Inventory) -> tuple[dict[str, Columns], dict[str, Any]]:
    """Convert an inventory, except its pages and records, to tables and documents."""
    slabs, areas = inventory.slabs, inventory.areas
    tables: dict[str, Columns] = {
        "page_uses": {"metadata": inventory.metadata, "buffers": inventory.buffers},
        "slabs": {name: getattr(slabs, name) for name in _SLABS},
        "slab_objects": {"allocated": slabs.allocated},
        "slab_sheaves": {"address": slabs.sheaves},
        "areas": {
            "start": np.array([area.start for area in areas], np.uint64),
            "size": np.array([area.size for area in areas], np.uint64),
            "pages": np.array([len(area.rows) for area in areas], np.int64),
            "kind": [area.text for area in areas],
        },
        "area_pages": {"row": np.concatenate([np.zeros(0, np.int64), *(a.rows for a in areas)])},
    }
    document = {
        "caches": as_json(slabs.caches),
        "slab_problems": slabs.problems,
        "modules": as_json(inventory.modules),
        "tasks": as_json(inventory.tasks),
        "command_lines": as_json(inventory.command_lines),
        "files": as_json(inventory.files),
        "counters": as_json(inventory.counters),
        "problems": inventory.problems,
        "gaps": inventory.gaps,
    }
    return tables, {"inventory": document}


def load_inventory(
    file: Container,
    memory: Memory,
    records: Snapshot | None,
) -> Inventory:
    """
    Load an inventory from the tables of :func:`inventory_tables`.

    :param memory: All pages, with the columns :data:`INVENTORY_PAGES`.
    """
    with file.checked():
        return _inventory(file, memory, records)


def _inventory(file: Container, memory: Memory, records: Snapshot | None) -> Inventory:
    known, pages = file.document("inventory"), len(memory.pages)
    # Few pages have any of these uses.
    metadata, buffers = sparse_zeros(pages, np.uint8), sparse_zeros(pages, np.bool_)
    rows, pieces = file.pieces("page_uses")
    require(rows == pages, "page_uses")
    done = 0
    for piece in pieces:
        check_uses(piece["metadata"])
        for column, values in ((metadata, piece["metadata"]), (buffers, piece["buffers"])):
            some = np.flatnonzero(values)
            column[some + done] = values[some]
        done += len(piece["metadata"])
    return Inventory(
        memory=memory,
        records=records,
        record_of_row=record_of_row(memory.pages, records),
        slabs=_slabs(file, known, pages),
        areas=_areas(file, pages),
        metadata=metadata,
        buffers=buffers,
        modules=restore(list[str], known["modules"]),
        tasks=restore(dict[int, str], known["tasks"]),
        command_lines=restore(dict[int, str], known.get("command_lines", {})),
        files=restore(list[FileUse], known.get("files", [])),
        counters=restore(dict[str, int], known["counters"]),
        problems=restore(list[str], known["problems"]),
        gaps=restore(list[str], known.get("gaps", [])),
    )


def load_slabs(file: Container) -> Slabs:
    """Load the slabs from the tables of :func:`inventory_tables`."""
    with file.checked():
        rows = int(file.table("page_ranges")["pages"].sum())
        return _slabs(file, file.document("inventory"), rows)


def _slabs(file: Container, known: dict[str, Any], rows: int) -> Slabs:
    table, caches = file.table("slabs"), restore(list[str], known["caches"])
    check_slabs(table, file.table("slab_objects")["allocated"], len(caches), rows)
    start = np.zeros(len(table["objects"]) + 1, np.int64)
    np.cumsum(table["objects"], out=start[1:])
    return Slabs(
        caches=caches,
        start=start,
        allocated=file.table("slab_objects")["allocated"],
        sheaves=file.table("slab_sheaves")["address"],
        problems=restore(list[str], known["slab_problems"]),
        **table,
    )


def _areas(file: Container, pages: int) -> list[Area]:
    table, rows = file.table("areas"), file.table("area_pages")["row"]
    within(rows, -1, pages, "area_pages")
    within(table["pages"], 0, len(rows) + 1, "areas")
    require(int(table["pages"].sum()) == len(rows), "area_pages")
    require(None not in table["kind"], "areas")
    parts = np.split(rows, np.cumsum(table["pages"])[:-1]) if len(table["pages"]) else []
    return [
        area_of_text(text, start, size, part)
        for start, size, text, part in zip(
            table["start"].tolist(), table["size"].tolist(), table["kind"], parts, strict=True
        )
    ]
