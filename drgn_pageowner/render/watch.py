# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render growth: one table or one line of JSON per round."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.analysis.owners.growth import Growth, Round, RoundKind
from drgn_pageowner.escape import word
from drgn_pageowner.render.jsonable import json_document, jsonable
from drgn_pageowner.render.table import age, counted, pages_size, seconds, table

__all__ = ("watch_json", "watch_table")


def watch_json(result: Round, page_size: int) -> Iterator[str]:
    """Yield one JSON object on one line; docs/formats.md documents its members."""
    yield json_document(jsonable(result)) + "\n"


def watch_table(result: Round, page_size: int) -> Iterator[str]:
    """Yield one line with the totals, then one row per group."""
    now = (
        f"at {seconds(result.now_ns)} s: {counted(result.pages, 'page')} in "
        f"{counted(result.allocations, 'allocation')}"
    )
    if result.kind is RoundKind.FIRST:
        yield f"first round {now}\n\n"
        return
    title = "summary" if result.kind is RoundKind.SUMMARY else f"round {result.number}"
    grown = f"{age(result.elapsed_ns)} later {result.grown_pages:+,} pages"
    if result.kind is RoundKind.ROUND and result.number > 1:
        grown += f", since the start {result.grown_pages_since_start:+,}"
    yield f"{title} {now}; {grown}\n"
    rows = [_row(group, result, page_size) for group in result.groups]
    if rows:
        keys = [key for key in result.by if key != "stack"]
        headers = ["grown", "size", "pages/s", "since start", "pages/s", "pages", "rounds"]
        headers += [*keys, "handle", "stack" if "stack" in result.by else "largest owner"]
        yield table(rows, headers, right=range(7))
    yield f"{len(rows):,} of {counted(result.number_of_groups, 'group')} with growth shown\n\n"


def _row(group: Growth, result: Round, page_size: int) -> list[str]:
    owner = (
        "\n".join(map(str, group.stack))
        if "stack" in result.by
        else str(allocator_of(group.stack) or "-")
    )
    return [
        f"{group.grown_pages:+,}",
        pages_size(group.grown_pages * page_size),
        _rate(group.pages_per_second),
        f"{group.grown_pages_since_start:+,}",
        _rate(group.pages_per_second_since_start),
        f"{group.pages:,}",
        f"{group.rounds_grown}/{result.number}",
        *(word(str(value)) for key, value in group.key.items() if key != "stack"),
        str(group.handle) if group.handle else "-",
        owner or "(no stack)",
    ]


def _rate(pages_per_second: float | None) -> str:
    return "-" if pages_per_second is None else f"{pages_per_second:,.1f}"
