# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Group allocation tags; compare the kernel's counters with the memory that was found, and explain
differences.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.tags import Tag, TagUse

__all__ = (
    "TAG_KEYS",
    "TAG_SORT_KEYS",
    "TagFilter",
    "TagGroup",
    "TagTop",
    "check_tag_keys",
    "top_tags",
)

TAG_KEYS = ("tag", "file", "module", "function")
"""Keys that tags can be grouped by."""

TAG_SORT_KEYS = ("bytes", "calls", "found", "difference")
"""Sort keys for groups of tags, largest first, in addition to the keys that they are grouped by."""


@dataclass(frozen=True)
class TagFilter:
    """Criteria that select tags, as patterns with ``*``, ``?`` and ``[...]``."""

    file: Sequence[str] = ()
    module: Sequence[str] = ()
    function: Sequence[str] = ()

    def takes(self, tag: Tag) -> bool:
        """Return whether *tag* is selected: at least one pattern of each criterion must match."""
        return (
            _matches(tag.filename, self.file)
            and _matches(tag.module or "", self.module)
            and _matches(tag.function, self.function)
        )


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


@dataclass(frozen=True)
class TagGroup:
    """Tags that have all their keys in common."""

    key: dict[str, str | None]
    tags: int
    bytes: int
    """Bytes according to the kernel's counters."""
    calls: int
    """Allocations that were not freed, according to the kernel's counters."""
    found_bytes: int | None
    """Bytes of pages, slab objects and per-CPU memory with this tag; ``None`` for a text."""
    found_calls: int | None
    pages: int | None
    """Base pages among :attr:`found_bytes`."""
    objects: int | None
    """Slab objects among :attr:`found_calls`."""
    object_bytes: int | None
    percpu_bytes: int | None
    difference: int | None
    """``found_bytes - bytes``."""
    why: str | None
    """Reason for the difference, or for a tag not being in /proc/allocinfo."""


@dataclass(frozen=True)
class TagTop:
    """The largest groups of tags."""

    by: list[str]
    groups: list[TagGroup]
    number_of_groups: int
    tags: int
    """Number of tags in all groups, shown or not."""
    bytes: int
    calls: int
    found_bytes: int | None
    version: str


def top_tags(
    use: TagUse,
    by: Sequence[str] = ("tag",),
    *,
    sort: Sequence[str] = ("bytes",),
    limit: int | None = None,
    wanted: TagFilter | None = None,
    unused: bool = False,
) -> TagTop:
    """
    Group the tags of *use*.

    :param by: Of :data:`TAG_KEYS`.
    :param sort: Of :data:`TAG_SORT_KEYS` and *by*; ``-`` in front reverses.
    :param unused: Include tags without any allocations.
    :raises UsageError: if a key is unknown
    """
    check_tag_keys(by, sort)
    found = _found(use)
    rows = np.array(
        [
            number
            for number, tag in enumerate(use.tags.places)
            if wanted is None or wanted.takes(tag)
        ],
        np.int64,
    )
    if not unused:
        busy = (use.tags.bytes != 0) | (use.tags.calls != 0)
        if found is not None:
            busy |= found["calls"] != 0
        rows = rows[busy[rows]]
    groups = _groups(use, found, rows, by)
    ordered = _sorted(groups, sort, by)
    return TagTop(
        list(by),
        ordered[:limit],
        len(groups),
        len(rows),
        int(use.tags.bytes[rows].sum()),
        int(use.tags.calls[rows].sum()),
        int(found["bytes"][rows].sum()) if found is not None else None,
        use.tags.version,
    )


def check_tag_keys(by: Sequence[str], sort: Sequence[str]) -> None:
    """
    Check that tags can be grouped by the keys *by*, and the groups be sorted by *sort*.

    :raises UsageError: if they cannot
    """
    for key in by:
        if key not in TAG_KEYS:
            raise UsageError(f"cannot group tags by {key!r}: known are {', '.join(TAG_KEYS)}")
    for word in sort:
        if word.lstrip("+-") not in (*TAG_SORT_KEYS, *by):
            known = ", ".join((*TAG_SORT_KEYS, *by))
            raise UsageError(f"cannot sort tags by {word!r}: known here are {known}")


def _found(use: TagUse) -> dict[str, Array] | None:
    """Return the bytes and the number of allocations found with each tag."""
    if use.found is None:
        return None
    known = use.found
    of_pages = known.pages * use.page_size
    return {
        "bytes": of_pages + known.object_bytes + known.percpu_bytes,
        "calls": known.page_allocations + known.objects + known.percpu_allocations,
        "pages": known.pages,
        "objects": known.objects,
        "object_bytes": known.object_bytes,
        "percpu_bytes": known.percpu_bytes,
    }


def _keys(tag: Tag, by: Sequence[str]) -> tuple[str | None, ...]:
    values = {
        "tag": str(tag), "file": tag.filename, "module": tag.module, "function": tag.function,
    }  # fmt: skip
    return tuple(values[key] for key in by)


def _groups(
    use: TagUse, found: dict[str, Array] | None, rows: Array, by: Sequence[str]
) -> list[TagGroup]:
    numbers: dict[tuple[str | None, ...], int] = {}
    of_row = np.array(
        [
            numbers.setdefault(_keys(use.tags.places[row], by), len(numbers))
            for row in rows.tolist()
        ],
        np.int64,
    )
    size = len(numbers)

    def total(column: Array) -> list[int]:
        # Counters may be negative, and larger than what a float holds exactly.
        result = np.zeros(size, np.int64)
        np.add.at(result, of_row, column[rows])
        totals: list[int] = result.tolist()
        return totals

    counted, calls = total(use.tags.bytes), total(use.tags.calls)
    parts = {name: total(column) for name, column in found.items()} if found is not None else {}
    members: list[list[int]] = [[] for _ in range(size)]
    for row, number in zip(rows.tolist(), of_row.tolist(), strict=True):
        members[number].append(row)

    def part(name: str, number: int) -> int | None:
        return parts[name][number] if parts else None

    groups = []
    for key, number in numbers.items():
        there = part("bytes", number)
        difference = there - counted[number] if there is not None else None
        groups.append(
            TagGroup(
                key=dict(zip(by, key, strict=True)),
                tags=len(members[number]),
                bytes=counted[number],
                calls=calls[number],
                found_bytes=there,
                found_calls=part("calls", number),
                pages=part("pages", number),
                objects=part("objects", number),
                object_bytes=part("object_bytes", number),
                percpu_bytes=part("percpu_bytes", number),
                difference=difference,
                why=_why(use, members[number], difference, counted[number], calls[number]),
            )
        )
    return groups


def _why(
    use: TagUse, members: Sequence[int], difference: int | None, counted: int, calls: int
) -> str | None:
    """Explain why the counters of a group differ from the memory found with its tags."""
    tags = use.tags
    reasons = []
    if not tags.listed[members].all():
        reasons.append(
            "its module is gone, and its counters with it"
            if not tags.counted[members].all()
            else "its module is gone"
        )
    if tags.inaccurate[members].any():
        reasons.append("marked inaccurate: some of it was allocated without room for the tag")
    if difference and not reasons:
        if counted and not calls:
            reasons.append("its counter is wrong: it has bytes, but no allocations")
        else:
            reasons.append("not known: allocated or freed while the dump was taken, or damaged")
    return "; ".join(reasons) or None


def _sorted(groups: list[TagGroup], sort: Sequence[str], by: Sequence[str]) -> list[TagGroup]:
    numbers = {
        "bytes": lambda group: -group.bytes,
        "calls": lambda group: -group.calls,
        "found": lambda group: -(group.found_bytes or 0),
        "difference": lambda group: -abs(group.difference or 0),
    }
    result = sorted(groups, key=lambda group: (-group.bytes, tuple(map(str, group.key.values()))))
    for word in reversed(sort):
        name, reverse = word.lstrip("+-"), word.startswith("-")
        if name in numbers:
            result.sort(key=numbers[name], reverse=reverse)
        else:
            result.sort(key=lambda group: str(group.key[name] or ""), reverse=reverse)
    return result
