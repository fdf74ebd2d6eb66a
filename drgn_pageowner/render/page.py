# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render all facts about one page as text or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from drgn_pageowner.escape import word
from drgn_pageowner.model.columns import STORED
from drgn_pageowner.model.kernel import Names
from drgn_pageowner.model.page import PageInfo, PageRecord
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.table import age, counted, seconds
from drgn_pageowner.render.text import comm_text, gfp_text, name_at, page_flags_text, texts_of_forms

__all__ = ("page_json", "page_text")


def page_text(info: PageInfo) -> Iterator[str]:
    """Yield one line per fact, then the stacks, indented."""
    from tabulate import tabulate

    rows = [*_place(info), *_state(info)]
    if info.record is not None:
        rows += _record(info.record, info.names)
    else:
        rows.append(("record", f"none: {info.no_record}"))
    rows = [(title, word(text)) for title, text in rows]
    yield tabulate(rows, tablefmt="plain", disable_numparse=True) + "\n"
    if info.record is not None:
        yield from _stack("allocated by", info.record.stack)
        if info.record.free_handle is not None:
            when = "freed by" if not info.record.allocated else "last freed, before that, by"
            yield from _stack(when, info.record.free_stack)
    for problem in info.problems:
        yield f"problem: {problem}\n"


def _place(info: PageInfo) -> Iterator[tuple[str, str]]:
    asked = "" if info.kind == "PFN" else f" (asked for: {info.what}, a {info.kind})"
    yield "page", f"pfn:{info.pfn:#x}{asked}"
    if info.use is not None:
        yield "class", f"{info.use}: {info.area}" if info.area is not None else info.use
    yield "phys", f"{info.phys:#x}"
    if info.struct_page is not None:
        yield "struct page", f"{info.struct_page:#x}"
    if info.virtual is not None:
        yield "direct map", f"{info.virtual:#x}"
    if info.zone is not None:
        yield "zone", f"{info.zone} of node {info.node}"
    if info.pageblock is not None:
        yield "pageblock", f"{info.pageblock} ({_migratetype(info) or 'type unknown'})"


def _state(info: PageInfo) -> Iterator[tuple[str, str]]:
    if info.state:
        yield "state", info.state
    if info.flags is not None:
        yield "flags", _flags(info) or ""
    if info.refcount is not None:
        mapped = "" if info.mapcount is None else f", mapped {counted(info.mapcount, 'time')}"
        yield "references", f"{info.refcount}{mapped}"
    if info.head_pfn is not None:
        order = "unknown" if info.compound_order is None else info.compound_order
        which = "head" if info.head_pfn == info.pfn else f"tail {info.pfn - info.head_pfn}"
        yield "compound", f"{which} of a page of order {order} at pfn:{info.head_pfn:#x}"
    if info.memcg is not None:
        yield "memcg", info.memcg
    yield from _tags_and_slab(info)
    if info.file is not None:
        file = info.file
        yield "file", f"{file['path'] or 'no path'} ({file['filesystem']}, inode {file['inode']})"
        yield "file offset", f"{file.get('offset', 0):#x} (page {file['index']})"
    for user in info.anon:
        yield "mapped by", f"{user['comm']} (pid {user['pid']}) at {user['address']:#x}"


def _tags_and_slab(info: PageInfo) -> Iterator[tuple[str, str]]:
    if info.slab is not None:
        slab = info.slab
        state = {True: "allocated", False: "free", None: "of unknown state"}[slab["allocated"]]
        yield (
            "slab object",
            f"{slab['cache']}: {state} object {slab['object']:#x}"
            f"{slab['offset']:+d} of {slab['object_size']} bytes",
        )
        if slab.get("expression") is not None:
            yield "in drgn", word(slab["expression"])
        if slab.get("tag") is not None:
            yield "object's tag", word(slab["tag"])
    if info.tag is not None:
        yield "tag", word(info.tag)


def _record(record: PageRecord, names: Names) -> Iterator[tuple[str, str]]:
    yield "record", "allocated" if record.allocated else "freed: this is the last owner"
    pages = counted(1 << record.order, "page")
    base = f"order {record.order} ({pages}) at pfn:{record.head_pfn:#x}"
    yield "allocation", base
    yield "gfp mask", f"{record.gfp_mask:#x}({gfp_text(record.gfp_mask, names)})"
    yield "migratetype", name_at(names.migratetypes, record.migratetype)
    if record.ts_nsec is not None:
        yield (
            "when",
            f"{seconds(record.ts_nsec)} s after boot, {age(record.age_ns)} before the dump",
        )
    if record.pid is not None:
        tgid = "" if record.tgid is None else f" tgid {record.tgid}"
        comm = "" if record.comm is None else f" ({comm_text(record.comm)})"
        yield "by", f"pid {record.pid}{tgid}{comm}"
    if record.last_migrate_reason is not None:
        yield "migrated", f"last for {name_at(names.migrate_reasons, record.last_migrate_reason)}"
    if record.free_ts_nsec is not None:
        who = "" if record.free_pid is None else f", by pid {record.free_pid}"
        yield (
            "last free",
            f"{seconds(record.free_ts_nsec)} s after boot, "
            f"{age(record.free_age_ns)} before the dump{who}",
        )
    for name, value in _others(record, names):
        yield name, "-" if value is None else str(value)
    if record.handle is not None:
        yield "handle", f"{record.handle} (list --handle {record.handle})"


def _others(record: PageRecord, names: Names) -> Iterator[tuple[str, Any]]:
    """Yield the members of the record that are not formatted elsewhere, as in JSON."""
    texts = texts_of_forms(names)
    for name, value in record.others.items():
        column = STORED[name]
        text = texts.get(column.form)
        if value == column.none:
            yield name, None
        else:
            yield name, value if text is None else text(value)


def _stack(title: str, frames: Sequence[Frame]) -> Iterator[str]:
    yield f"{title}:\n"
    for frame in frames:
        yield f"  {frame}\n"
    if not frames:
        yield "  (no stack)\n"


def _migratetype(info: PageInfo) -> str | None:
    number = info.pageblock_migratetype
    return None if number is None else name_at(info.names.migratetypes, number)


def _flags(info: PageInfo) -> str | None:
    if info.flags is None:
        return None
    return f"{info.flags:#x}({page_flags_text(info.flags, info.names, number=False)})"


def page_json(info: PageInfo) -> Iterator[str]:
    """Yield one JSON object on one line; docs/formats.md documents its members."""
    result = {
        name: value
        for name, value in asdict(info).items()
        if name not in ("names", "record", "flags", "pageblock_migratetype", "use")
    }
    result["class"] = info.use
    result["flags"] = _flags(info)
    result["pageblock_migratetype"] = _migratetype(info)
    result["record"] = _record_json(info.record, info.names) if info.record is not None else None
    yield json_document(result) + "\n"


def _record_json(record: PageRecord, names: Names) -> dict[str, Any]:
    result = asdict(record)
    result["gfp_flags"] = gfp_text(record.gfp_mask, names)
    result["migratetype"] = name_at(names.migratetypes, record.migratetype)
    if record.comm is not None:
        result["comm"] = comm_text(record.comm)
    if record.last_migrate_reason is not None:
        result["last_migrate_reason"] = name_at(names.migrate_reasons, record.last_migrate_reason)
    for name, frames in (("stack", record.stack), ("free_stack", record.free_stack)):
        result[name] = [str(frame) for frame in frames]
    del result["others"]
    return result | dict(_others(record, names))
