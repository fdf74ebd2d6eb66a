# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render the accounting of every page as text."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_pageowner.analysis.account.account import Account, ClassCount
from drgn_pageowner.escape import word
from drgn_pageowner.render.table import are, counted, pages_size, share, table

__all__ = ("account_text",)

# Number of classes in the first line.
_LARGEST = 3


def account_text(result: Account, *, zones: bool, caches: bool) -> Iterator[str]:
    """
    Yield a line that names the largest classes, one row per class, and notes on differences from
    the kernel's counters.
    """
    if result.classes:
        size = result.classes[0].bytes // result.classes[0].pages
        largest = ", ".join(
            f"{row.name} {pages_size(row.bytes)} ({share(row.pages, result.present)})"
            for row in result.classes[:_LARGEST]
        )
        yield f"{pages_size(result.present * size)} of memory; the largest classes: {largest}\n\n"
    rows: list[list[str]] = []
    notes: list[str] = []
    for row in result.classes:
        counter = row.counter
        mark = ""
        if counter is not None and (counter.uncounted or counter.others):
            notes.append(_note(row, len(notes) + 1))
            mark = f" [{len(notes)}]"
        rows.append(
            [
                row.name,
                f"{row.pages:,}",
                pages_size(row.bytes),
                share(row.pages, result.present),
                f"{counter.pages:,}" if counter is not None else "-",
                f"{counter.difference:+,}" if counter is not None else "-",
                f"{counter.name}{mark}" if counter is not None else "-",
            ]
        )
    headers = ["class", "pages", "size", "share", "the kernel's", "off by", "counter"]
    yield table(rows, headers, right=(1, 2, 3, 4, 5), spare=("share",)) + "\n"
    yield from notes
    whole = "every one of them" if result.accounted == result.present else f"{result.accounted:,}"
    yield f"{counted(result.present, 'page')} present, {whole} in one class"
    yield f"; of {result.unknown:,} the dump has no struct page\n" if result.unknown else "\n"
    if caches:
        yield from _caches(result)
    if zones:
        yield from _zones(result)


def _note(row: ClassCount, number: int) -> str:
    counter = row.counter
    assert counter is not None
    parts = []
    if counter.uncounted:
        parts.append(f"{counter.uncounted:,} of these pages {are(counter.uncounted)} not in it")
    if counter.others:
        parts.append(f"{counted(counter.others, 'page')} of other classes {are(counter.others)}")
    return f"[{number}] {counter.name}: {counter.note}: {', '.join(parts)}\n"


def _caches(result: Account) -> Iterator[str]:
    for row in result.classes:
        if row.slab_caches is not None:
            yield "\n" + table(
                [[word(name), f"{pages:,}"] for name, pages in row.slab_caches],
                ["slab cache", "pages"],
                right=(1,),
            )


def _zones(result: Account) -> Iterator[str]:
    names = [row.name for row in result.classes]
    headers = ["class", *(f"{zone.zone} of node {zone.node}" for zone in result.zones)]
    rows = [[name, *(f"{zone.classes.get(name, 0):,}" for zone in result.zones)] for name in names]
    rows.append(["present", *(f"{zone.present:,}" for zone in result.zones)])
    yield "\n" + table(rows, headers, right=range(1, len(headers)))
