# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare two snapshots: which groups of records grew or shrank, and how fast."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from drgn_pageowner.analysis.account.account import Account
from drgn_pageowner.analysis.account.page_class import (
    UNACCOUNTED,
    UNACCOUNTED_COLUMNS,
    unaccounted_records,
)
from drgn_pageowner.analysis.compare.kinship import Relation, stack_identities
from drgn_pageowner.analysis.owners.allocator import plain_name
from drgn_pageowner.analysis.owners.group import columns_for, tally
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.arrays import Array, among, slices
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.pages import Pages
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.model.threads import in_threads

__all__ = (
    "OF_NOBODY",
    "SORT_KEYS",
    "Amount",
    "Change",
    "Diff",
    "Side",
    "check_sort",
    "columns_for_diff",
    "diff",
    "diff_accounts",
    "of_nobody",
)

OF_NOBODY = "of_nobody"
"""A column that can be added to records: the result of :func:`of_nobody`."""

SORT_KEYS = ("growth", "change", "before", "after", "allocations")
"""
Sort keys of changes, largest first: growth in bytes, its absolute value, bytes before, bytes after,
growth in allocations.
"""


@dataclass(frozen=True)
class Amount:
    """An amount of memory, or the difference of two."""

    allocations: int | None
    """``None`` for a class of pages, which has no allocations."""
    pages: int
    """Number of base pages."""
    bytes: int

    def __add__(self, other: Amount) -> Amount:
        both = self.allocations is not None and other.allocations is not None
        return Amount(
            (self.allocations or 0) + (other.allocations or 0) if both else None,
            self.pages + other.pages,
            self.bytes + other.bytes,
        )

    def __neg__(self) -> Amount:
        allocations = -self.allocations if self.allocations is not None else None
        return Amount(allocations, -self.pages, -self.bytes)


_NOTHING = Amount(0, 0, 0)


@dataclass(frozen=True)
class Change:
    """The change of one group."""

    key: dict[str, Any]
    """Key -> value, as in :class:`~drgn_pageowner.analysis.owners.group.Group`; for the key
    ``stack`` the value is ``None``."""
    state: str
    """``"new"``, ``"gone"``, ``"grown"``, ``"shrunk"`` or ``"changed"`` (as many bytes, in
    another number of allocations)."""
    before: Amount
    after: Amount
    growth: Amount
    """After minus before."""
    pages_per_hour: float | None
    """``None`` if the time between the two is not known."""
    handles: tuple[int | None, int | None]
    """``depot_stack_handle_t`` before and after of the stack with most pages."""
    stack: list[Frame]
    """The frames of that stack."""


@dataclass(frozen=True)
class Side:
    """One of the two snapshots."""

    release: str
    hostname: str
    now_ns: int | None
    total: Amount


@dataclass(frozen=True)
class Diff:
    """All changes between two snapshots."""

    by: list[str]
    before: Side
    after: Side
    relation: Relation
    growth: Amount
    """The growth of all groups together."""
    leak: Change | None
    """The stack that grew most in memory of drivers and other kernel code; ``None`` if none did."""
    states: dict[str, int]
    """State -> number of groups, and ``"same"``: those that did not change."""
    changes: list[Change]


def columns_for_diff(by: Sequence[str]) -> frozenset[str]:
    """
    Return the columns that a comparison by *by* needs.

    :raises UsageError: if one of *by* is no key
    """
    return columns_for(by) | UNACCOUNTED_COLUMNS


def check_sort(sort: Sequence[str], by: Sequence[str]) -> None:
    """
    Check that changes by the keys *by* can be sorted by *sort*.

    :raises UsageError: if they cannot
    """
    for word in sort:
        name = word.lstrip("+-")
        if name not in (*SORT_KEYS, *by):
            known = ", ".join((*SORT_KEYS, *by))
            raise UsageError(f"cannot sort by {name!r}: known here are {known}")


def diff(
    before: Snapshot,
    after: Snapshot,
    relation: Relation,
    by: Sequence[str] = ("stack",),
    *,
    sort: Sequence[str] = ("growth",),
    limit: int | None = None,
) -> Diff:
    """
    Compare the records of two snapshots, group by group.

    :param before: With :func:`columns_for_diff`; only records that are allocated. To find
        :attr:`Diff.leak`, the column :data:`OF_NOBODY` is used if both have it; otherwise, classes
        are derived from the stacks.
    :param after: The same.
    :param relation: Of :func:`~drgn_pageowner.analysis.compare.kinship.relate`.
    :param by: Keys, of :data:`~drgn_pageowner.analysis.owners.group.GROUP_KEYS`.
    :param sort: Of :data:`SORT_KEYS` and *by*; ``-`` in front reverses.
    :param limit: Maximum number of changes to return.
    :raises UsageError: if a key is unknown, or one of the kernels does not record it
    """
    changes, same = _changes(before, after, relation, by)
    return _result(
        by,
        (_side(before), _side(after)),
        relation,
        _leak(before, after, relation),
        _sorted(changes, sort, by)[:limit],
        _states(changes, same),
    )


def diff_accounts(
    accounts: tuple[Account, Account],
    facts: tuple[Facts, Facts],
    relation: Relation,
    *,
    leak: Change | None = None,
    sort: Sequence[str] = ("growth",),
    limit: int | None = None,
) -> Diff:
    """
    Compare two machines class by class; every page counts.

    :param accounts: Accounts of both machines; *facts* likewise.
    :param leak: The leak that the comparison of records found, if any.
    """
    sides: list[Side] = []
    classes: list[dict[str, Amount]] = []
    for account, known in zip(accounts, facts, strict=True):
        total = Amount(None, account.accounted, account.accounted * known.page_size)
        sides.append(Side(known.release, known.hostname, known.now_ns, total))
        classes.append({row.name: Amount(None, row.pages, row.bytes) for row in account.classes})
    changes, same = [], 0
    nothing = Amount(None, 0, 0)
    for name in dict.fromkeys((*classes[0], *classes[1])):
        pair = classes[0].get(name, nothing), classes[1].get(name, nothing)
        if pair[0] == pair[1]:
            same += 1
            continue
        changes.append(_change({"class": name}, pair, relation, (None, None), []))
    return _result(
        ["class"],
        (sides[0], sides[1]),
        relation,
        leak,
        _sorted(changes, sort, ["class"])[:limit],
        _states(changes, same),
    )


def _result(
    by: Sequence[str],
    sides: tuple[Side, Side],
    relation: Relation,
    leak: Change | None,
    changes: list[Change],
    states: dict[str, int],
) -> Diff:
    growth = sides[1].total + -sides[0].total
    return Diff(list(by), *sides, relation, growth, leak, states, changes)


def _side(snapshot: Snapshot) -> Side:
    pages, facts = int(snapshot.pages.sum()), snapshot.facts
    total = Amount(snapshot.count(), pages, pages * facts.page_size)
    return Side(facts.release, facts.hostname, facts.now_ns, total)


def _leak(before: Snapshot, after: Snapshot, relation: Relation) -> Change | None:
    both = before, after
    by_class = all(OF_NOBODY in records for records in both)
    one, two = (
        records.select(records[OF_NOBODY] if by_class else unaccounted_records(records))
        for records in both
    )
    changes, _ = _changes(one, two, relation, ["stack"])
    first = _sorted(changes, ["growth"], ["stack"])[:1]
    return first[0] if first and first[0].growth.bytes > 0 else None


def of_nobody(records: Snapshot, pages: Pages, classes: Array) -> Array:
    """
    Find the records of drivers and other kernel code, by the class of their first page.

    :param pages: All pages of the machine.
    :param classes: The class of each:
        :func:`~drgn_pageowner.analysis.account.page_class.page_classes`.
    :return: ``bool``, a row per record.
    """
    result = np.empty(len(records), bool)

    def find(piece: slice) -> None:
        rows = pages.rows(records["pfn"][piece])
        result[piece] = (rows >= 0) & among(classes[np.maximum(rows, 0)], UNACCOUNTED)

    in_threads(find, slices(len(records)))
    return result


def _changes(
    before: Snapshot, after: Snapshot, relation: Relation, by: Sequence[str]
) -> tuple[list[Change], int]:
    """Return the groups that changed, and the number of groups that did not."""
    groups = [_groups(snapshot, relation, by) for snapshot in (before, after)]
    changes, same = [], 0
    for identity in dict.fromkeys((*groups[0], *groups[1])):
        old, new = groups[0].get(identity, []), groups[1].get(identity, [])
        pair = _amount(old), _amount(new)
        if pair[0] == pair[1]:
            same += 1
            continue
        label, snapshot = (new[0], after) if new else (old[0], before)
        key = {n: None if n == "stack" else v for n, v in zip(by, label.key, strict=True)}
        handles = tuple(members[0].handle or None if members else None for members in (old, new))
        [number] = snapshot.stacks.index(np.array([label.handle], np.uint32)).tolist()
        stack = snapshot.stack_frames(number)
        changes.append(_change(key, pair, relation, (handles[0], handles[1]), stack))
    return changes, same


class _Members(NamedTuple):
    """A group of one snapshot."""

    key: tuple[Any, ...]
    amount: Amount
    handle: int
    """Handle of the stack with the most pages; 0 for none."""


def _groups(
    snapshot: Snapshot, relation: Relation, by: Sequence[str]
) -> dict[Hashable, list[_Members]]:
    """
    Return the groups of *snapshot*, largest first, with keys that are comparable across both
    snapshots.
    """
    found = tally(snapshot, by)
    counted = snapshot.allocations is not None
    handles = found.handles.tolist()
    stacks = stack_identities(snapshot, handles, relation) if "stack" in by else {}
    pages, allocations = found.pages.tolist(), found.allocations.tolist()
    result: dict[Hashable, list[_Members]] = {}
    for number in np.lexsort((-found.allocations, -found.pages)).tolist():
        key, handle = found.keys[number], handles[number]
        identity = tuple(
            stacks[handle] if name == "stack" else _identity(name, value, relation)
            for name, value in zip(by, key, strict=True)
        )
        size = pages[number] * snapshot.facts.page_size
        amount = Amount(allocations[number] if counted else None, pages[number], size)
        result.setdefault(identity, []).append(_Members(key, amount, handle))
    return result


def _identity(name: str, value: Any, relation: Relation) -> Hashable:
    if name == "allocator" and value is not None and not relation.same_build:
        function, space, module = str(value).partition(" ")
        return plain_name(function) + space + module
    return value if isinstance(value, Hashable) else str(value)


def _amount(groups: Iterable[_Members]) -> Amount:
    total = _NOTHING
    for group in groups:
        total += group.amount
    return total


def _change(
    key: dict[str, Any],
    pair: tuple[Amount, Amount],
    relation: Relation,
    handles: tuple[int | None, int | None],
    stack: list[Frame],
) -> Change:
    before, after = pair
    growth = after + -before
    if not before.pages:
        state = "new"
    elif not after.pages:
        state = "gone"
    elif growth.bytes == 0:
        state = "changed"
    else:
        state = "grown" if growth.bytes > 0 else "shrunk"
    return Change(
        key, state, before, after, growth, relation.per_hour(growth.pages), handles, stack
    )


def _states(changes: Iterable[Change], same: int) -> dict[str, int]:
    states = dict.fromkeys(("new", "grown", "changed", "shrunk", "gone"), 0)
    for change in changes:
        states[change.state] += 1
    return {**states, "same": same}


def _sorted(changes: list[Change], sort: Sequence[str], by: Sequence[str]) -> list[Change]:
    """Sort *changes* by *sort*; ties by growth, then by name."""
    check_sort(sort, by)
    keys = {
        "growth": lambda change: -change.growth.bytes,
        "change": lambda change: -abs(change.growth.bytes),
        "before": lambda change: -change.before.bytes,
        "after": lambda change: -change.after.bytes,
        "allocations": lambda change: -(change.growth.allocations or 0),
    }
    result = sorted(changes, key=lambda c: (-c.growth.bytes, str(c.key), list(map(str, c.stack))))
    for word in reversed(sort):
        name, reverse = word.lstrip("+-"), word.startswith("-")
        if name in keys:
            result.sort(key=keys[name], reverse=reverse)
        else:
            result.sort(key=lambda change: _natural(change.key[name]), reverse=reverse)
    return result


def _natural(value: Any) -> tuple[bool, Any]:
    """Return a sort key: numbers by size, texts by name, ``None`` last."""
    return value is None, value if value is not None else 0
