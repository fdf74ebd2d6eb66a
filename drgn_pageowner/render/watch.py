# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Render growth: one table or one line of JSON per round.

A round is short, so that it does not push the one before off the screen: stacks are named by their
owners, and only the summary prints one.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn_pageowner.analysis.owners.growth import Growth, Round, RoundKind
from drgn_pageowner.escape import word
from drgn_pageowner.render.jsonable import json_document, jsonable
from drgn_pageowner.render.owner import indented_stack, owner_text
from drgn_pageowner.render.table import age, counted, pages_size, seconds, table
from drgn_pageowner.render.terminal import columns, fold

__all__ = ("watch_json", "watch_table")


def watch_json(result: Round, page_size: int) -> Iterator[str]:
    """Yield one JSON object on one line; docs/formats.md documents its members."""
    yield json_document(jsonable(result)) + "\n"


def watch_table(result: Round, page_size: int) -> Iterator[str]:
    """
    Yield one line with the totals, then one row per group. The summary also says which group has
    grown most; its stack comes before the rest, which should stay on the screen.
    """
    now = (
        f"at {seconds(result.now_ns)} s: {counted(result.pages, 'page')} in "
        f"{counted(result.allocations, 'allocation')}"
    )
    if result.kind is RoundKind.FIRST:
        yield f"first round {now}\n\n"
        return
    summary = result.kind is RoundKind.SUMMARY
    if summary and "stack" in result.by and result.groups:
        yield from _stack(result.groups[0])
    title = "summary" if summary else f"round {result.number}"
    grown = f"{result.grown_pages:+,} pages in {age(result.elapsed_ns)}"
    # The growth since the first round, where that is not the previous one.
    longer = result.number > 1 and not summary
    if longer:
        grown += f", {result.grown_pages_since_start:+,} since the start"
    yield from _lines(f"{title} {now}; {grown}")
    if summary and result.groups:
        yield from _lines(_most(result.groups[0], result, page_size))
    keys = [key for key in result.by if key != "stack"]
    # The owner of one allocator is that.
    owner = [] if "allocator" in keys else ["owner" if "stack" in result.by else "largest owner"]
    rows = [_row(group, result, page_size, longer, bool(owner)) for group in result.groups]
    if rows:
        headers = ["grown", "size", "pages/s", *["since start", "pages/s"] * longer]
        headers += ["pages", "rounds", *keys, "handle", *owner]
        numbers = range(headers.index("rounds") + 1)
        yield table(rows, headers, right=numbers, spare=("handle", "size", "pages"))
    yield f"{len(rows):,} of {counted(result.number_of_groups, 'group')} with growth shown\n"
    yield "\n"


def _lines(text: str) -> Iterator[str]:
    yield from (f"{line}\n" for line in fold(text, columns()))


def _most(group: Growth, result: Round, page_size: int) -> str:
    """Return a sentence about the group that has grown most."""
    if "stack" in result.by:
        name = owner_text(group.stack)
    else:
        name = ", ".join(f"{key} {word(str(value))}" for key, value in group.key.items())
    rate = group.pages_per_second
    return (
        f"most growth: {name}, {group.grown_pages:+,} pages "
        f"({pages_size(group.grown_pages * page_size)})"
        + ("" if rate is None else f", {_rate(rate)} pages/s")
        + f", in {group.rounds_grown:,} of {counted(result.number, 'round')}"
    )


def _stack(group: Growth) -> Iterator[str]:
    handle = f" (handle {group.handle}; list --handle prints its records)" if group.handle else ""
    yield from _lines(f"stack with most growth{handle}:")
    yield from indented_stack(group.stack)
    yield "\n"


def _row(group: Growth, result: Round, page_size: int, longer: bool, owner: bool) -> list[str]:
    since_start = [
        f"{group.grown_pages_since_start:+,}",
        _rate(group.pages_per_second_since_start),
    ]
    return [
        f"{group.grown_pages:+,}",
        pages_size(group.grown_pages * page_size),
        _rate(group.pages_per_second),
        *since_start * longer,
        f"{group.pages:,}",
        f"{group.rounds_grown}/{result.number}",
        *(word(str(value)) for key, value in group.key.items() if key != "stack"),
        str(group.handle) if group.handle else "-",
        *[owner_text(group.stack)] * owner,
    ]


def _rate(pages_per_second: float | None) -> str:
    return "-" if pages_per_second is None else f"{pages_per_second:,.1f}"
