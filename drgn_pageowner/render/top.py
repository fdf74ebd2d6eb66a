# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render groups of records as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

from drgn_pageowner.analysis.owners.allocator import allocator_of, without_offset
from drgn_pageowner.analysis.owners.group import Group, Top
from drgn_pageowner.escape import word
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.table import ages, counted, csv_row, pages_size, share, shown_of, table
from drgn_pageowner.render.text import gfp_text

__all__ = ("key_text", "top_csv", "top_json", "top_object", "top_table")


def top_table(result: Top, snapshot: Snapshot) -> Iterator[str]:
    """
    Yield the share of the whole that is shown, one row per group, and the stacks of the groups if
    these are made by stack.
    """
    keys = [key for key in result.by if key != "stack"]
    by_stack = "stack" in result.by
    # The number of a row is repeated above its stack.
    number = ["#"] if by_stack else []
    # Two columns of this name would be confusing.
    span = "age" not in keys
    headers = [*number, "pages", "size", "share", "allocations", *["age"] * span, *keys, "handle"]
    # The owner of one allocator is that.
    owned = by_stack or "allocator" not in keys
    headers += [*["owner" if by_stack else "largest owner"] * owned]
    rows = [
        [
            *([str(place)] if by_stack else []),
            f"{group.pages:,}",
            pages_size(group.bytes),
            share(group.pages, result.pages),
            f"{group.allocations:,}" if group.allocations is not None else "-",
            *[ages(group.oldest_ns, group.newest_ns, result.now_ns)] * span,
            *(key_text(group, key, snapshot) for key in keys),
            str(group.handle) if group.handle else "-",
            *[_owner(group)] * owned,
        ]
        for place, group in enumerate(result.groups, 1)
    ]
    shown = sum(group.pages for group in result.groups)
    size = snapshot.facts.page_size
    yield (
        shown_of(len(result.groups), result.number_of_groups, "group", shown, result.pages, size)
        + ("" if result.allocations is None else f" in {counted(result.allocations, 'allocation')}")
        + "\n"
    )
    if rows:
        spare = ("handle", "share", "allocations", "age")
        yield "\n" + table(rows, headers, right=range(4 + by_stack), spare=spare)
    if by_stack:
        yield from _stacks(result, snapshot)


def _owner(group: Group) -> str:
    allocator = allocator_of(group.stack)
    if allocator is None:
        return "-" if group.stack else "(no stack)"
    return without_offset(str(allocator))


def _stacks(result: Top, snapshot: Snapshot) -> Iterator[str]:
    """Yield the stack of every group, below the number of its row."""
    for place, group in enumerate(result.groups, 1):
        handle = f" (handle {group.handle})" if group.handle else ""
        yield f"\n#{place} {counted(group.pages, 'page')}, {pages_size(group.bytes)}{handle}\n"
        lines = [line for frame in group.stack for line in snapshot.frame_lines(frame)]
        yield from (f"    {line}\n" for line in lines or ["(no stack)"])


def key_text(group: Group, key: str, snapshot: Snapshot) -> str:
    """Return the value of *key* in a group, for people."""
    value = group.key[key]
    if key == "gfp":
        return f"{value:#x} ({gfp_text(value, snapshot.names)})"
    return "-" if value is None else word(str(value))


def _object(group: Group, lines: Callable[[Frame], list[str]]) -> dict[str, Any]:
    return {
        "key": group.key,
        "allocations": group.allocations,
        "pages": group.pages,
        "bytes": group.bytes,
        "oldest_ns": group.oldest_ns,
        "newest_ns": group.newest_ns,
        "handle": group.handle or None,
        "stack": [line for frame in group.stack for line in lines(frame)],
    }


def top_object(result: Top, lines: Callable[[Frame], list[str]]) -> dict[str, Any]:
    """
    Return the object that ``top --format json`` prints; docs/formats.md documents its members.

    :param lines: Renders a frame as text.
    """
    return {
        "by": result.by,
        "total": {
            "allocations": result.allocations,
            "pages": result.pages,
            "bytes": result.bytes,
        },
        "number_of_groups": result.number_of_groups,
        "groups": [_object(group, lines) for group in result.groups],
    }


def top_json(result: Top, snapshot: Snapshot) -> Iterator[str]:
    """Yield one JSON object."""
    yield json_document(top_object(result, snapshot.frame_lines), indent=1) + "\n"


def top_csv(result: Top, snapshot: Snapshot) -> Iterator[str]:
    """Yield one row per group: its keys, numbers, and the stack with ``;`` between frames."""
    text = io.StringIO()
    writer = csv.writer(text)
    numbers = ["allocations", "pages", "bytes", "oldest_ns", "newest_ns", "handle"]
    writer.writerow([*result.by, *numbers, "frames"])
    for group in result.groups:
        row = _object(group, snapshot.frame_lines)
        keys = [group.key[key] for key in result.by]
        cells = [*keys, *(row[name] for name in numbers), ";".join(row["stack"])]
        writer.writerow(csv_row(cells))
    yield text.getvalue()
