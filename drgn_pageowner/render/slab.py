# SPDX-License-Identifier: LGPL-2.1-or-later
"""Slab objects by cache and owner: a table, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from drgn_pageowner.analysis.owners.slab import SlabTop
from drgn_pageowner.escape import word
from drgn_pageowner.render.table import are, counted, csv_row, have, pages_size, share, table

__all__ = ("slab_account_text", "slab_csv", "slab_table")

_OWNERS = 5


def slab_table(result: SlabTop) -> Iterator[str]:
    """
    Yield the share of the whole that is shown, and one row per group, with the owner and, if known,
    the stack. Columns that no group has a value for are left out.
    """
    stacks = any(group.stack for group in result.groups)
    pids = any(group.pids for group in result.groups)
    owners = any(group.owner for group in result.groups)
    charges = any(group.memcgs for group in result.groups)
    rows = []
    for group in result.groups:
        charged = ", ".join(f"{word(path)} ({n:,})" for path, n in [*group.memcgs.items()][:3])
        more = list(map(str, group.stack))
        if stacks and charged:
            more.append(f"charged to {charged}")
        rows.append(
            [
                pages_size(group.bytes),
                share(group.bytes, result.bytes),
                f"{group.objects:,}",
                word(group.cache),
                *[", ".join(map(str, group.pids[:3])) or "-"] * pids,
                *[word(group.owner or "(not kept)")] * owners,
                *["\n".join(more)] * stacks,
                *[charged] * (charges and not stacks),
            ]
        )
    headers = ["size", "share", "objects", "cache", *["pid"] * pids, *["owner"] * owners]
    headers += ["stack"] * stacks + ["charged to"] * (charges and not stacks)
    shown = sum(group.bytes for group in result.groups)
    everything = len(result.groups) == result.number_of_groups
    sizes = "" if everything else f"{pages_size(shown)} of "
    yield (
        ("" if everything else f"{len(result.groups):,} of ")
        + f"{counted(result.number_of_groups, 'group')}{' shown' * (not everything)}: "
        f"{sizes}{pages_size(result.bytes)} in "
        f"{counted(result.objects, 'allocated object')}, {result.with_owner:,} of which "
        f"{have(result.with_owner)} an owner; {counted(result.free_objects, 'object')} "
        f"{are(result.free_objects)} free\n"
    )
    if rows:
        yield "\n" + table(rows, headers, right=range(3), below=stacks)


def slab_csv(result: SlabTop) -> Iterator[str]:
    """Yield a header and one row per group; frames are separated by ``;``."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["cache", "owner", "objects", "bytes", "tag", "pids", "frames", "memcgs"])
    for group in result.groups:
        cells = [
            group.cache,
            group.owner,
            group.objects,
            group.bytes,
            group.tag,
            ";".join(map(str, group.pids)),
            ";".join(map(str, group.stack)),
            ";".join(group.memcgs),
        ]
        writer.writerow(csv_row(cells))
    yield text.getvalue()


def slab_account_text(caches: SlabTop, by_owner: SlabTop) -> Iterator[str]:
    """
    Yield every cache with its largest owners.

    :param caches: Objects grouped by cache alone.
    :param by_owner: Objects grouped by cache and owner; all groups.
    """
    rows = []
    for cache in caches.groups:
        owners = [group for group in by_owner.groups if group.cache == cache.cache]
        alone = word(owners[0].owner or "(not kept)") if len(owners) == 1 else ""
        rows.append(
            [
                pages_size(cache.bytes),
                share(cache.bytes, caches.bytes),
                f"{cache.objects:,}",
                word(cache.cache),
                alone,
            ]
        )
        for group in owners[:_OWNERS] if not alone else ():
            size = pages_size(group.bytes)
            rows.append([size, "", f"{group.objects:,}", "", word(group.owner or "(not kept)")])
        if len(owners) > _OWNERS:
            rest = sum(group.bytes for group in owners[_OWNERS:])
            number = sum(group.objects for group in owners[_OWNERS:])
            more = f"{len(owners) - _OWNERS} more owners"
            rows.append([pages_size(rest), "", f"{number:,}", "", more])
    headers = ["size", "share", "objects", "cache", "owner"]
    if rows:
        yield table(rows, headers, right=range(3)) + "\n"
    yield (
        f"{len(caches.groups):,} of {counted(caches.number_of_groups, 'cache')} shown; "
        f"{pages_size(caches.bytes)} in {counted(caches.objects, 'allocated object')}, "
        f"{by_owner.with_owner:,} of which {have(by_owner.with_owner)} an owner\n"
    )
