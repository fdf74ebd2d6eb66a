# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert allocation tags to a table, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from drgn_pageowner.model.tags import Tag, Tags, TagSums, TagUse
from drgn_pageowner.storage.check import require
from drgn_pageowner.storage.container import Columns, Container
from drgn_pageowner.storage.plain import restore

__all__ = ("load_tag_use", "place_table", "tag_places", "tag_tables")

_OF_TAGS = ("bytes", "calls", "inaccurate", "listed", "counted")
_OF_SUMS = tuple(field.name for field in fields(TagSums))


def place_table(places: Sequence[Tag]) -> Columns:
    """Convert the source locations of tags to a table with a row per tag."""
    table: Columns = {
        name: [getattr(tag, name) for tag in places] for name in ("filename", "module", "function")
    }
    table["lineno"] = np.array([tag.lineno for tag in places], np.int64)
    return table


def tag_places(table: Columns) -> list[Tag]:
    """Load source locations of tags from the table of :func:`place_table`."""
    for name in ("filename", "function"):
        require(None not in table[name], "tags")
    return [
        Tag(filename, lineno, module, function)
        for filename, lineno, module, function in zip(
            table["filename"],
            table["lineno"].tolist(),
            table["module"],
            table["function"],
            strict=True,
        )
    ]


def tag_tables(use: TagUse) -> dict[str, Columns]:
    """
    Convert tags to a table with a row per tag: source location, counters, and sums of the memory
    that refers to the tag.
    """
    table = place_table(use.tags.places)
    table |= {name: getattr(use.tags, name) for name in _OF_TAGS}
    if use.found is not None:
        table |= {name: getattr(use.found, name) for name in _OF_SUMS}
    return {"tags": table}


def load_tag_use(file: Container, page_size: int) -> TagUse:
    """Load tags, counters and sums from the table of :func:`tag_tables`."""
    with file.checked():
        return _tag_use(file, page_size)


def _tag_use(file: Container, page_size: int) -> TagUse:
    table = file.table("tags")
    places = tag_places(table)
    problems = restore(list[str], file.head["tags_problems"])
    tags = Tags(
        places,
        version=restore(str, file.head["tags_version"]),
        problems=problems,
        **{name: table[name] for name in _OF_TAGS},
    )
    found = None
    if _OF_SUMS[0] in table:
        found = TagSums(**{name: table[name] for name in _OF_SUMS})
    return TagUse(tags, found, page_size, problems)
