# SPDX-License-Identifier: LGPL-2.1-or-later
"""Group records by any of their properties, and count the pages of each group."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.stack_table import (
    allocator_names,
    kinds_of_stacks,
    modules_of_stacks,
    per_stack,
)
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.arrays import Array, distinct, sums, widen
from drgn_pageowner.model.columns import STORED, Form, comm_text, name_at
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame

__all__ = (
    "AGES",
    "GROUP_KEYS",
    "SORT_KEYS",
    "Group",
    "Tally",
    "Top",
    "age_bands",
    "columns_for",
    "tally",
    "top",
)

_KEYS = {column.key: column for column in STORED.values() if column.key}
"""The columns that records can be grouped by, by the name of the key."""

GROUP_KEYS: Mapping[str, Sequence[str]] = {
    "stack": ("handle",),
    "allocator": ("handle",),
    **{key: (column.name,) for key, column in _KEYS.items()},
    "module": ("handle",),
    "age": ("ts_nsec",),
    "kind": ("handle", "pageblock_migratetype"),
}
"""The keys that records can be grouped by, and the columns that each needs."""

SORT_KEYS = ("pages", "allocations", "oldest", "newest")
"""The names that groups can be sorted by, besides the keys that they are grouped by."""

AGES = (
    (1, "< 1 s"),
    (10, "1-10 s"),
    (60, "10-60 s"),
    (600, "1-10 min"),
    (3600, "10-60 min"),
    (86400, "1-24 h"),
    (None, "> 1 day"),
)
"""Age bands: the end of each in seconds, and its name."""


@dataclass(frozen=True)
class Group:
    """Records that have all their keys in common."""

    key: dict[str, Any]
    """Key -> value; for ``stack``, the value is the handle, or ``None`` if there are several."""
    allocations: int | None
    """``None`` if a text was read that does not say."""
    pages: int
    """Number of base pages."""
    bytes: int
    oldest_ns: int | None
    """``ts_nsec`` of the oldest record; ``None`` where the kernel has none."""
    newest_ns: int | None
    stack: list[Frame]
    """The stack with the most pages."""
    handle: int
    """The ``depot_stack_handle_t`` of :attr:`stack`."""


@dataclass(frozen=True)
class Top:
    """The largest groups of a snapshot."""

    by: list[str]
    groups: list[Group]
    number_of_groups: int
    allocations: int | None
    """Number of all records, shown or not; ``None`` if a text was read that does not say."""
    pages: int
    bytes: int
    now_ns: int | None


@dataclass(frozen=True)
class Tally:
    """Pages of every group; the keys are comparable across snapshots of the same boot."""

    keys: list[tuple[Any, ...]]
    """Values of the keys of each group, as in :attr:`Group.key`."""
    pages: Array
    """``int64``, shape ``(n,)``: base pages."""
    allocations: Array
    """``int64``, shape ``(n,)``."""
    handles: Array
    """``uint32``, shape ``(n,)``: handle of the stack with the most pages; 0 for none."""


@dataclass(frozen=True)
class _Grouping:
    """The group of every record, and the keys of every group."""

    by: list[str]
    group: Array
    """Number of every record's group."""
    keys: Array
    """One row per group, one column per key: an index in :attr:`values` of that key."""
    values: dict[str, Array]
    stacks: Array
    """Number of every record's stack."""
    pages: Array
    allocations: Array
    """Allocations of each group; all 0 if :attr:`counted` is false."""
    counted: bool

    def labels(
        self, snapshot: Snapshot, number: int, handle: int, depth: int | None
    ) -> dict[str, Any]:
        """Return the key of the group *number*."""
        return {
            name: _label(snapshot, name, self.values[name][self.keys[number][index]], handle, depth)
            for index, name in enumerate(self.by)
        }


def columns_for(by: Sequence[str]) -> frozenset[str]:
    """
    Return the columns that are needed to group by *by*.

    :raises UsageError: if one of *by* is no key
    """
    columns = {"handle", "ts_nsec"}
    for key in by:
        if key not in GROUP_KEYS:
            near = difflib.get_close_matches(key, GROUP_KEYS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            known = ", ".join(GROUP_KEYS)
            raise UsageError(
                f"cannot group by {key!r}: known are {known}; top alone knows process and driver, "
                f"too{hint}"
            )
        columns.update(GROUP_KEYS[key])
    return frozenset(columns)


def top(
    snapshot: Snapshot,
    by: Sequence[str] = ("stack",),
    *,
    sort: Sequence[str] = ("pages",),
    limit: int | None = None,
    depth: int | None = None,
    skip: int = 0,
    min_pages: int = 0,
) -> Top:
    """
    Group the records of *snapshot*.

    :param by: Keys, of :data:`GROUP_KEYS`.
    :param sort: Names from :data:`SORT_KEYS` and *by*; ``-`` in front reverses. Numbers of pages
        and allocations sort largest first, everything else smallest first.
    :param limit: Maximum number of groups to return.
    :param depth: Compare only that many frames of each stack, counted from the innermost.
    :param skip: Leave out that many of the innermost frames first.
    :param min_pages: Base pages that a group must have to be returned.
    :raises UsageError: if a key is unknown, or this kernel does not record it
    """
    found = _grouping(snapshot, by, depth, skip)
    group, keys, pages, allocations = found.group, found.keys, found.pages, found.allocations
    oldest, newest = _extremes(snapshot, group, len(keys))
    order = _order(sort, by, keys, pages, allocations, oldest, newest, found.values)
    shown = order[pages[order] >= min_pages][:limit]
    stack_of = _largest_stacks(group, found.stacks, snapshot.pages, shown)
    cut = depth if depth is not None else skip or None
    groups = []
    for position, number in enumerate(shown.tolist()):
        stack = stack_of[position]
        frames = snapshot.stack_frames(stack)
        frames = frames[skip : None if depth is None else skip + depth]
        handle = int(snapshot.stacks.handles[stack]) if stack >= 0 else 0
        groups.append(
            Group(
                found.labels(snapshot, number, handle, cut),
                int(allocations[number]) if found.counted else None,
                int(pages[number]),
                int(pages[number]) * snapshot.facts.page_size,
                int(oldest[number]) if oldest is not None else None,
                int(newest[number]) if newest is not None else None,
                frames,
                handle,
            )
        )
    total = int(pages.sum())
    return Top(
        list(by),
        groups,
        len(keys),
        snapshot.count(),
        total,
        total * snapshot.facts.page_size,
        snapshot.facts.now_ns,
    )


def tally(snapshot: Snapshot, by: Sequence[str] = ("stack",)) -> Tally:
    """
    Count the records of *snapshot* by group, unsorted, without symbolizing anything.

    :param by: Keys, of :data:`GROUP_KEYS`.
    :raises UsageError: if a key is unknown, or this kernel does not record it
    """
    found = _grouping(snapshot, by, None)
    numbers = np.arange(len(found.keys))
    largest = _largest_stacks(found.group, found.stacks, snapshot.pages, numbers)
    handles = np.append(snapshot.stacks.handles, 0).astype(np.uint32)[largest]
    keys = [
        tuple(found.labels(snapshot, number, handle, None).values())
        for number, handle in enumerate(handles.tolist())
    ]
    return Tally(keys, found.pages, found.allocations, handles)


def _grouping(snapshot: Snapshot, by: Sequence[str], depth: int | None, skip: int = 0) -> _Grouping:
    needed = frozenset(column for key in by for column in GROUP_KEYS[key])
    for column in sorted(needed - snapshot.columns.keys() - {"ts_nsec"}):
        raise UsageError(snapshot.lacks(column))
    if "age" in by and ("ts_nsec" not in snapshot or snapshot.facts.now_ns is None):
        raise UsageError(snapshot.lacks("when a page was allocated"))
    stacks = _cut(snapshot, depth, skip) if depth is not None or skip else snapshot.stack
    codes = []
    values: dict[str, Array] = {}
    for key in by:
        values[key], code = distinct(_key_column(snapshot, key, stacks))
        codes.append(code)
    keys, group = _combine(codes, [len(values[key]) for key in by], len(snapshot))
    pages = sums(group, snapshot.pages, len(keys))
    numbers = snapshot.allocations
    allocations = np.zeros(len(keys), np.int64)
    if numbers is not None:
        allocations = sums(group, numbers, len(keys))
    counted = numbers is not None
    return _Grouping(list(by), group, keys, values, stacks, pages, allocations, counted)


def _cut(snapshot: Snapshot, depth: int | None, skip: int) -> Array:
    """
    Return every record's stack number, the same for stacks with the same frames.

    :param depth: The number of frames to compare; ``None`` for all.
    :param skip: Number of innermost frames to leave out first.
    """
    end = None if depth is None else skip + depth
    stacks = snapshot.stack
    numbers, inverse = distinct(stacks)
    first: dict[bytes, int] = {}
    same = [
        first.setdefault(snapshot.stacks[number][skip:end].tobytes(), number)
        for number in numbers.tolist()
    ]
    result: Array = np.array(same, np.int64)[inverse] if len(stacks) else stacks
    return result


def _key_column(snapshot: Snapshot, key: str, stacks: Array) -> Array:
    """Return a column whose distinct values are the groups of *key*."""
    if key == "stack":
        return stacks
    if key == "allocator":
        return _texts(per_stack(snapshot, stacks, allocator_names))
    if key == "module":
        return _texts(per_stack(snapshot, stacks, modules_of_stacks))
    if key == "kind":
        return _texts(_kind(snapshot, stacks))
    if key == "age":
        return age_bands(snapshot)
    return snapshot[_KEYS[key].name]


def _texts(values: Array) -> Array:
    return values.astype(str) if len(values) else np.zeros(0, "U1")


def age_bands(snapshot: Snapshot) -> Array:
    """
    Return the age band of every record.

    :return: ``int64``, shape ``(n,)``: index in :data:`AGES`.
    """
    now = np.uint64(snapshot.facts.now_ns or 0)
    seconds = (now - np.minimum(snapshot["ts_nsec"], now)) // np.uint64(10**9)
    bounds = np.array([bound for bound, _ in AGES if bound is not None], np.uint64)
    return np.searchsorted(bounds, seconds, "right")


def _kind(snapshot: Snapshot, stacks: Array) -> Array:
    """Return the allocator type of every record, as ``page_owner_sort`` defines it."""
    kinds = per_stack(snapshot, stacks, kinds_of_stacks)
    migratetypes = list(snapshot.names.migratetypes)
    if "CMA" in migratetypes:
        cma = snapshot["pageblock_migratetype"] == migratetypes.index("CMA")
        kinds[cma & (kinds == "others")] = "cma"
        for kind in ("slab", "vmalloc"):
            kinds[cma & (kinds == kind)] = "cma|" + kind
    return kinds


def _combine(codes: list[Array], sizes: list[int], rows: int) -> tuple[Array, Array]:
    """
    Combine the groupings by several keys.

    :param codes: For every key, a number per row.
    :param sizes: For every key, how many numbers there are.
    :return: One row per group with its number of every key, and every row's group.
    """
    combined = np.zeros(rows, np.int64)
    for code, size in zip(codes, sizes, strict=True):
        combined = combined * max(size, 1) + code
    found, group = distinct(combined)
    columns = []
    for size in reversed(sizes):
        columns.append(found % max(size, 1))
        found = found // max(size, 1)
    keys = np.stack(columns[::-1], axis=1) if columns else np.zeros((len(found), 0), np.int64)
    return keys, group


def _extremes(snapshot: Snapshot, group: Array, number: int) -> tuple[Array | None, Array | None]:
    if "ts_nsec" not in snapshot:
        return None, None
    stamps = snapshot["ts_nsec"]
    oldest = np.full(number, np.iinfo(np.uint64).max, np.uint64)
    newest = np.zeros(number, np.uint64)
    widen(oldest, newest, group, stamps)
    return oldest, newest


def _order(
    sort: Sequence[str],
    by: Sequence[str],
    keys: Array,
    pages: Array,
    allocations: Array,
    oldest: Array | None,
    newest: Array | None,
    values: dict[str, Array],
) -> Array:
    """Return the group numbers in the order in which to show them."""
    columns: list[Array] = []
    for name in sort:
        reverse, name = name.startswith("-"), name.lstrip("+-")
        column: Array
        if name == "pages":
            column = -pages
        elif name == "allocations":
            column = -allocations
        elif name in ("oldest", "newest"):
            stamps = oldest if name == "oldest" else newest
            if stamps is None:
                raise UsageError("this kernel's page_owner does not record when: cannot sort by it")
            column = stamps.astype(np.int64)
            column = -column if name == "newest" else column
        elif name in by:
            column = keys[:, list(by).index(name)]
        else:
            known = ", ".join((*SORT_KEYS, *by))
            raise UsageError(f"cannot sort by {name!r}: known here are {known}")
        columns.append(-column if reverse else column)
    # Break ties by pages, then by key, so that the order is always the same.
    columns += [-pages, -allocations, *(keys[:, index] for index in range(keys.shape[1]))]
    return np.lexsort(columns[::-1])


def _largest_stacks(group: Array, stacks: Array, pages: Array, shown: Array) -> list[int]:
    """Return the number of the stack that has the most pages in each of the groups *shown*."""
    wanted = np.zeros(int(group.max(initial=-1)) + 1, bool)
    wanted[shown] = True
    rows = np.flatnonzero(wanted[group])
    low, number = int(stacks.min(initial=0)), int(stacks.max(initial=0))
    span = number - low + 1
    pairs, pair_of = distinct(group[rows] * span + (stacks[rows] - low))
    pair_pages = sums(pair_of, pages[rows], len(pairs))
    best: dict[int, int] = {}
    for pair in np.argsort(pair_pages, kind="stable").tolist():
        best[int(pairs[pair]) // span] = int(pairs[pair]) % span + low
    return [best[number] for number in shown.tolist()]


def _label(snapshot: Snapshot, key: str, value: Any, handle: int, depth: int | None) -> Any:
    """Return a group's value of *key* as it is printed."""
    if key == "stack":
        return handle if depth is None and handle else None
    if key in ("allocator", "module"):
        return str(value) or None
    if key == "kind":
        return str(value)
    if key == "age":
        return AGES[value][1]
    column = _KEYS[key]
    if value == column.none:
        return None
    label = _LABELS.get(column.form)
    return int(value) if label is None else label(snapshot, value)


_LABELS: Mapping[Form, Callable[[Snapshot, Any], Any]] = {
    Form.COMM: lambda snapshot, comm: comm_text(comm),
    Form.MEMCG: lambda snapshot, number: snapshot.memcgs[number].path,
    Form.TAG: lambda snapshot, number: snapshot.tag_text(int(number)),
    Form.MIGRATETYPE: lambda snapshot, number: name_at(snapshot.names.migratetypes, int(number)),
    Form.MIGRATE_REASON: lambda snapshot, number: name_at(
        snapshot.names.migrate_reasons, int(number)
    ),
    Form.ZONE: lambda snapshot, number: next(
        (zone.name for zone in snapshot.facts.zones if zone.type == number), int(number)
    ),
}
"""Functions that format the key of a group, by form; keys of other forms remain numbers."""
