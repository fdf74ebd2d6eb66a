# SPDX-License-Identifier: LGPL-2.1-or-later
"""Slab objects by type: tables, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from drgn_pageowner.analysis.types.shares import TypeShares
from drgn_pageowner.escape import word
from drgn_pageowner.render.table import counted, csv_row, have, pages_size, share, table

__all__ = ("cache_types_text", "type_groups_csv", "type_groups_text")


def cache_types_text(result: TypeShares) -> Iterator[str]:
    """Yield one row per cache: the share with a type, and the largest types."""
    rows = [
        [
            pages_size(cache.bytes),
            f"{cache.objects:,}",
            share(cache.typed_objects, cache.objects),
            share(cache.typed_bytes, cache.bytes),
            f"{cache.exact_objects:,}",
            f"{cache.contradicted_objects:,}",
            word(cache.cache),
            ", ".join(cache.types) or "-",
        ]
        for cache in result.caches
    ]
    headers = ["size", "objects", "typed", "bytes", "sure", "unclear", "cache", "types"]
    if rows:
        yield table(rows, headers, right=range(6), spare=("sure", "bytes", "unclear")) + "\n"
    yield f"{len(result.caches):,} of {counted(result.number_of_caches, 'cache')} shown\n"
    yield from _totals(result)


def type_groups_text(result: TypeShares) -> Iterator[str]:
    """Yield one row for each type of each cache."""
    rows = [
        [
            pages_size(group.bytes),
            share(group.bytes, result.bytes),
            f"{group.objects:,}",
            f"{group.votes:,}",
            f"{group.against:,}",
            word(group.cache),
            word(group.type) if group.type is not None else "(unknown)",
            ", ".join(kind for kind in group.by if group.type is not None) or "-",
        ]
        for group in result.groups
    ]
    headers = ["size", "share", "objects", "for", "against", "cache", "type", "known by"]
    if rows:
        spare = ("known by", "for", "against")
        yield table(rows, headers, right=range(5), spare=spare) + "\n"
    yield f"{len(result.groups):,} of {counted(result.number_of_groups, 'group')} shown\n"
    yield from _totals(result)


def _totals(result: TypeShares) -> Iterator[str]:
    conflicts = ""
    if result.conflicts:
        conflicts = (
            f"; {counted(result.conflicts, 'node')} {have(result.conflicts)} none because "
            "pointers disagree"
        )
    yield (
        f"{result.typed_objects:,} of {counted(result.objects, 'allocated object')} "
        f"{have(result.typed_objects)} a type "
        f"({share(result.typed_objects, result.objects)}), {pages_size(result.typed_bytes)} of "
        f"{pages_size(result.bytes)} ({share(result.typed_bytes, result.bytes)}); "
        f"{result.exact_objects:,} for sure{conflicts}\n"
    )
    checked = result.accuracy
    if checked is None:
        return
    yield (
        f"without the names of caches, {checked.named_objects:,} of {checked.certain_objects:,} "
        f"objects whose cache tells the type have one, and {checked.right_objects:,} of these the "
        f"right one ({share(checked.right_objects, checked.named_objects)})\n"
    )
    for cache, name, objects in checked.wrong:
        yield f"  wrong: {objects:,} of {word(cache)} as {word(name)}\n"


def type_groups_csv(result: TypeShares) -> Iterator[str]:
    """Yield a header, and one row for each type of each cache."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = ("type", "cache", "objects", "bytes", "votes", "against", "exact")
    writer.writerow(names)
    for group in result.groups:
        writer.writerow(csv_row([getattr(group, name) for name in names]))
    yield text.getvalue()
