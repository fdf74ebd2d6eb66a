# SPDX-License-Identifier: LGPL-2.1-or-later
"""Allocation tags: the kernel's own text of /proc/allocinfo, a table, JSON, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import fields

from drgn_pageowner.analysis.owners.tags import TagGroup, TagTop
from drgn_pageowner.escape import word
from drgn_pageowner.model.tags import Tags
from drgn_pageowner.render.table import counted, csv_row, pages_size, table

__all__ = ("allocinfo_text", "tags_csv", "tags_table")

_HEADER = "allocinfo - version: {}\n#     <size>  <calls> <tag info>\n"
# Version 1.0 of the text never has this mark.
_INACCURATE = " accurate:no"
_UNSIGNED = 1 << 64


def allocinfo_text(tags: Tags) -> Iterator[str]:
    """Yield the text as ``allocinfo_show()`` of lib/alloc_tag.c prints it."""
    rows = tags.shown().tolist()
    # The kernel prints the header together with the first tag, so not if there are no tags.
    if not rows:
        return
    yield _HEADER.format(tags.version)
    counts, calls = tags.bytes.tolist(), tags.calls.tolist()
    marks = tags.inaccurate.tolist() if tags.version != "1.0" else [False] * len(tags)
    for row in rows:
        mark = _INACCURATE if marks[row] else ""
        # The kernel's format is "%12lli %8llu ".
        yield f"{counts[row]:12} {calls[row] % _UNSIGNED:8} {tags.places[row]}{mark} \n"


def tags_table(result: TagTop) -> Iterator[str]:
    """Yield the share of the whole that is shown, and one row per group."""
    known = result.found_bytes is not None
    headers = ["size", "calls"]
    if known:
        headers += ["found", "pages", "objects", "difference"]
    if result.by != ["tag"]:
        headers.append("tags")
    headers += result.by
    rows = []
    for group in result.groups:
        row = [pages_size(group.bytes), f"{group.calls:,}"]
        if known:
            row += [
                pages_size(group.found_bytes or 0),
                f"{group.pages:,}",
                f"{group.objects:,}",
                _difference(group),
            ]
        if result.by != ["tag"]:
            row.append(f"{group.tags:,}")
        row += [_shown(group.key[key]) for key in result.by]
        if group.why is not None:
            row[-1] += f"\n  ({group.why})"
        rows.append(row)
    shown = sum(group.bytes for group in result.groups)
    found = f", {pages_size(result.found_bytes or 0)} found" if known else ""
    yield (
        f"{len(result.groups):,} of {counted(result.number_of_groups, 'group')} shown: "
        f"{pages_size(shown)} of {pages_size(result.bytes)} "
        f"in {counted(result.calls, 'allocation')}{found}\n"
    )
    if rows:
        yield "\n" + table(rows, headers, right=range(len(headers) - len(result.by)))


def _difference(group: TagGroup) -> str:
    if not group.difference:
        return ""
    return ("+" if group.difference > 0 else "-") + pages_size(abs(group.difference))


def _shown(value: str | None) -> str:
    return "-" if value is None else word(value)


def tags_csv(result: TagTop) -> Iterator[str]:
    """Yield a header and one row per group."""
    names = [field.name for field in fields(TagGroup) if field.name != "key"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*result.by, *names])
    for group in result.groups:
        keys = [group.key[key] for key in result.by]
        writer.writerow(csv_row([*keys, *(getattr(group, name) for name in names)]))
    yield text.getvalue()
