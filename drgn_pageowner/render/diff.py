# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render the comparison of two dumps as text."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_pageowner.analysis.compare.diff import Change, Diff, Side
from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.escape import word
from drgn_pageowner.render.owner import indented_stack, owner_text
from drgn_pageowner.render.table import age, counted, pages_size, seconds, table
from drgn_pageowner.render.text import kernel_text

__all__ = ("diff_text",)

_WHOSE = "drivers and other kernel code"


def diff_text(result: Diff) -> Iterator[str]:
    """
    Yield the largest growth in one line, the two sides, one row per change, and the stacks of the
    changes if these are made by stack.
    """
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
    if "stack" in result.by:
        yield from _stacks(result)


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
    by_stack = "stack" in result.by
    # The owner of one allocator is that, and a class has many.
    owned = by_stack or not {"allocator", "class"} & set(keys)
    # Two boots have no rates, and classes have no allocations.
    rates = any(change.pages_per_hour is not None for change in result.changes)
    allocations = any(change.growth.allocations is not None for change in result.changes)
    headers = [*["#"] * by_stack, "growth", "size", *["an hour"] * rates, "before", "after"]
    headers += ["allocations"] * allocations
    numbers = range(len(headers))
    headers += ["state", *keys, *["owner" if by_stack else "largest owner"] * owned]
    rows = []
    for place, change in enumerate(result.changes, 1):
        rate = change.pages_per_hour
        row = [
            *[str(place)] * by_stack,
            _signed(change.growth.pages),
            _size(change.growth.bytes),
            *[f"{rate:+,.0f}" if rate is not None else "-"] * rates,
            f"{change.before.pages:,}",
            f"{change.after.pages:,}",
            *[_signed(change.growth.allocations)] * allocations,
            change.state,
            *("-" if change.key[key] is None else word(str(change.key[key])) for key in keys),
            *[owner_text(change.stack)] * owned,
        ]
        rows.append(row)
    if rows:
        spare = ("size", "allocations", "state")
        yield "\n" + table(rows, headers, right=numbers, spare=spare)


def _stacks(result: Diff) -> Iterator[str]:
    """Yield the stack of every change, below the number of its row."""
    for place, change in enumerate(result.changes, 1):
        yield f"\n#{place} {_grown(change.growth.pages, 'page')} ({_size(change.growth.bytes)})\n"
        yield from indented_stack(change.stack)


def _summary(result: Diff) -> str:
    states = ", ".join(f"{number:,} {state}" for state, number in result.states.items() if number)
    changed = sum(result.states.values()) - result.states["same"]
    if not changed:
        return f"\nno changes: {states or 'no groups'}\n"
    return (
        f"\n{len(result.changes):,} of {changed:,} changes shown ({states or 'no groups'}): "
        f"{_grown(result.growth.pages, 'page')} ({_size(result.growth.bytes)}) in all\n"
    )


def _signed(number: int | None) -> str:
    return "-" if number is None else f"{number:+,}"


def _size(size: int) -> str:
    return f"{'+' if size > 0 else ''}{pages_size(size)}"
