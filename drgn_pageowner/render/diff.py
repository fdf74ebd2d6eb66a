# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render the comparison of two dumps as text."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_pageowner.analysis.compare.diff import Change, Diff, Side
from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.escape import word
from drgn_pageowner.render.table import age, counted, pages_size, seconds, table
from drgn_pageowner.render.text import kernel_text

__all__ = ("diff_text",)

_WHOSE = "drivers and other kernel code"


def diff_text(result: Diff) -> Iterator[str]:
    """Yield the largest growth in one line, the two sides, then one row per change."""
    yield _headline(result)
    yield f"{_side('before', result.before)}{_side('after', result.after)}"
    relation = result.relation
    if relation.elapsed_ns is not None:
        order = "" if relation.elapsed_ns >= 0 else ": the first is the later one"
        yield (f"one boot ({relation.why}), {age(abs(relation.elapsed_ns))} between them{order}\n")
    else:
        boot = "one boot, but the time between them is not known" if relation.same_boot else ""
        yield f"{boot or 'no rates'}: {relation.why}\n"
    yield from _table(result)
    yield _summary(result)


def _headline(result: Diff) -> str:
    change = result.leak
    if not result.relation.records:
        return "growth by stack is not known: one of them has no records\n"
    if change is None:
        return f"no memory of {_WHOSE} has grown\n"
    allocator = allocator_of(change.stack)
    return (
        f"largest growth in memory of {_WHOSE}: {_grown(change.growth.pages, 'page')} "
        f"({_size(change.growth.bytes)}) in {_grown(change.growth.allocations, 'allocation')} of "
        f"{allocator or '(no stack)'}{_rate(change)}\n"
    )


def _grown(number: int | None, noun: str) -> str:
    return f"{_signed(number)} {noun}{'' if number in (1, -1) else 's'}"


def _rate(change: Change) -> str:
    if change.pages_per_hour is None:
        return ""
    return f", {change.pages_per_hour:+,.0f} pages an hour"


def _side(name: str, side: Side) -> str:
    total = side.total
    records = ""
    if total.allocations is not None:
        records = f" in {counted(total.allocations, 'allocation')}"
    return (
        f"{name + ':':8} {kernel_text(side.release)} {side.hostname}".rstrip()
        + (f", up {seconds(side.now_ns)} s, " if side.release or side.now_ns is not None else ", ")
        + f"{counted(total.pages, 'page')} ({pages_size(total.bytes)}){records}\n"
    )


def _table(result: Diff) -> Iterator[str]:
    keys = [key for key in result.by if key != "stack"]
    by_stack, by_class = "stack" in result.by, result.by == ["class"]
    headers = ["growth", "size", "an hour", "before", "after", "allocations", "state", *keys]
    if not by_class:
        headers.append("stack" if by_stack else "largest owner")
    rows = []
    for change in result.changes:
        rate = change.pages_per_hour
        row = [
            _signed(change.growth.pages),
            _size(change.growth.bytes),
            f"{rate:+,.0f}" if rate is not None else "-",
            f"{change.before.pages:,}",
            f"{change.after.pages:,}",
            _signed(change.growth.allocations),
            change.state,
            *("-" if change.key[key] is None else word(str(change.key[key])) for key in keys),
        ]
        if not by_class:
            frames = change.stack if by_stack else [allocator_of(change.stack) or "-"]
            row.append("\n".join(map(str, frames)) or "(no stack)")
        rows.append(row)
    if rows:
        yield "\n" + table(rows, headers, right=range(6), spare=("size",))


def _summary(result: Diff) -> str:
    states = ", ".join(f"{number:,} {state}" for state, number in result.states.items() if number)
    changed = sum(result.states.values()) - result.states["same"]
    return (
        f"\n{len(result.changes):,} of {changed:,} changes shown ({states or 'no groups'}): "
        f"{_grown(result.growth.pages, 'page')} ({_size(result.growth.bytes)}) in all\n"
    )


def _signed(number: int | None) -> str:
    return "-" if number is None else f"{number:+,}"


def _size(size: int) -> str:
    return f"{'+' if size > 0 else ''}{pages_size(size)}"
