# SPDX-License-Identifier: LGPL-2.1-or-later
"""Select records with filters that combine."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.stack_table import StackTable, replaced, with_stack
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.model.arrays import Array, distinct, values_of
from drgn_pageowner.model.columns import STORED, Column, Form, Match, comm_text
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame

__all__ = ("CRITERIA", "Filter", "absent", "contained", "select")

# Maximum number of similar names to suggest for an unknown name.
_NEAR = 4

CRITERIA: Mapping[str, Column] = {
    column.criterion.name: column for column in STORED.values() if column.criterion is not None
}
"""The columns that records can be selected by, by the name of the criterion."""


@dataclass(frozen=True)
class Filter:
    """
    Criteria that select records. A record must match every criterion that is given. If a criterion
    has several values, one must match; but all gfp flags and all functions must.
    """

    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """
    Name from :data:`CRITERIA` -> values: numbers, names or patterns, or the first and the last of
    a range (:class:`~drgn_pageowner.model.columns.Match`).
    """
    module: Sequence[str] = ()
    """Names of modules, one of which has a frame in the stack; patterns allowed."""
    stack_contains: Sequence[str] = ()
    """Parts of the names of functions, all of which must be in the stack; patterns allowed."""
    min_age_ns: int | None = None
    max_age_ns: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    freed: bool = False
    """Whether to select records of freed pages instead of allocated ones."""

    def __post_init__(self) -> None:
        """
        Check that all criteria in :attr:`where` exist.

        :raises UsageError: if one does not
        """
        for name in self.where:
            if name not in CRITERIA:
                raise UsageError(f"cannot select by {name!r}: known are {', '.join(CRITERIA)}")

    def columns(self) -> frozenset[str]:
        """Return the columns that this filter needs."""
        columns = {CRITERIA[name].name for name in self.where}
        if self.module or self.stack_contains:
            columns.add("handle")
        ages = (self.min_age_ns, self.max_age_ns, self.since_ns, self.until_ns)
        if any(age is not None for age in ages):
            columns.add("ts_nsec")
        return frozenset(columns)


def select(snapshot: Snapshot, wanted: Filter) -> Snapshot:
    """
    Return the records that match *wanted*.

    :raises UsageError: if a name is not one of this kernel's, or this kernel does not record
        what is asked for
    :raises PageOwnerError: if a PFN is beyond memory
    """
    for name in sorted(wanted.columns() - snapshot.columns.keys()):
        raise UsageError(snapshot.lacks(name.removesuffix("_nsec")))
    mask = snapshot["allocated"] != wanted.freed
    for name, values in wanted.where.items():
        column, criterion = CRITERIA[name], CRITERIA[name].criterion
        assert criterion is not None
        mask &= _MATCHES[criterion.match](snapshot, column, values)
    if wanted.columns() & {"ts_nsec"}:
        mask &= _by_time(snapshot, wanted)
    if wanted.module or wanted.stack_contains:
        mask &= with_stack(snapshot, mask, _stack_test(wanted))
    return snapshot.select(slice(None) if mask.all() else mask)


def _numbers(snapshot: Snapshot, column: Column, values: Sequence[int]) -> Array:
    result: Array = np.isin(snapshot[column.name], values)
    return result


def _nodes(snapshot: Snapshot, column: Column, values: Sequence[int]) -> Array:
    """
    Return which records are on one of the given nodes: ``bool``, a row per record.

    :raises UsageError: if a node does not exist
    """
    zones = snapshot.facts.zones
    # A text has the numbers of nodes, but no list of nodes.
    nodes = sorted({zone.node for zone in zones} or np.unique(snapshot[column.name]).tolist())
    for node in values:
        if node not in nodes:
            raise UsageError(f"unknown node {node}: this kernel has {', '.join(map(str, nodes))}")
    return _numbers(snapshot, column, values)


def _range(snapshot: Snapshot, column: Column, values: Sequence[int]) -> Array:
    first, last = values
    result: Array = (snapshot[column.name] >= first) & (snapshot[column.name] <= last)
    return result


def _pfns(snapshot: Snapshot, column: Column, values: Sequence[int]) -> Array:
    """
    Return which records overlap the given PFN range: ``bool``, a row per record.

    :raises PageOwnerError: if the range begins beyond memory
    """
    first, last = values
    # A text does not say where memory ends.
    if 0 < snapshot.facts.max_pfn <= first:
        raise PageOwnerError(
            f"PFN {first:#x} is beyond memory, which ends at PFN {snapshot.facts.max_pfn - 1:#x}"
        )
    starts = snapshot[column.name]
    result: Array = (starts <= last) & (starts + snapshot.pages > first)
    return result


def _names(snapshot: Snapshot, column: Column, values: Sequence[str]) -> Array:
    """
    Return which records have one of the given names: ``bool``, a row per record.

    :raises UsageError: if a name is unknown to this kernel
    """
    names, zones = snapshot.names, snapshot.facts.zones
    if column.form is Form.ZONE and not zones:
        raise UsageError(snapshot.lacks("the names of zones"))
    known: Mapping[str, int] = {
        Form.MIGRATETYPE: lambda: {name: n for n, name in enumerate(names.migratetypes)},
        Form.MIGRATE_REASON: lambda: {name: n for n, name in enumerate(names.migrate_reasons)},
        Form.ZONE: lambda: {zone.name: zone.type for zone in zones},
    }[column.form]()
    return _numbers(snapshot, column, [known[_known(name, known, column.name)] for name in values])


def _flags(snapshot: Snapshot, column: Column, values: Sequence[str]) -> Array:
    """
    Return which records have all of the given gfp flags: ``bool``, a row per record.

    :raises UsageError: if a flag is unknown to this kernel
    """
    by_name = {name: flag for flag, name in snapshot.names.gfp_flags}
    flags = np.uint32(0)
    for name in values:
        flags |= np.uint32(by_name[_known(name, by_name, "gfp flag")])
    result: Array = (snapshot[column.name] & flags) == flags
    return result


def _known(name: str, names: Mapping[str, int], what: str) -> str:
    """
    Return the kernel's spelling of *name*.

    :raises UsageError: if it is not in *names*, ignoring case
    """
    for known in names:
        if known.lower() == name.lower():
            return known
    raise UsageError(f"unknown {what} {name!r}: this kernel has {', '.join(names)}")


def _texts_of(snapshot: Snapshot, column: Column, value: Any) -> Sequence[str]:
    """
    Return the texts of *value*, a value of *column*.

    A pattern selects the value if it matches one of them.
    """
    if column.form is Form.COMM:
        return (comm_text(value),)
    if column.form is Form.TAG:
        return (snapshot.tag_text(value) or "",)
    memcg = snapshot.memcgs[value]
    return memcg.name, memcg.path


def _patterns(snapshot: Snapshot, column: Column, values: Sequence[str]) -> Array:
    found, inverse = distinct(snapshot[column.name])
    right = [
        value != column.none
        and any(
            fnmatch.fnmatchcase(text, pattern)
            for text in _texts_of(snapshot, column, value)
            for pattern in values
        )
        for value in found.tolist()
    ]
    result: Array = np.array(right, bool)[inverse]
    return result


_MATCHES: Mapping[Match, Callable[[Snapshot, Column, Sequence[Any]], Array]] = {
    Match.NUMBERS: _numbers,
    Match.NODES: _nodes,
    Match.RANGE: _range,
    Match.PFNS: _pfns,
    Match.NAMES: _names,
    Match.FLAGS: _flags,
    Match.PATTERNS: _patterns,
}
"""Functions that return which records match the values of a criterion: ``bool``, a row per
record."""


def _by_time(snapshot: Snapshot, wanted: Filter) -> Array:
    mask = np.ones(len(snapshot), bool)
    since, until = wanted.since_ns, wanted.until_ns
    now = snapshot.facts.now_ns
    if wanted.min_age_ns is not None or wanted.max_age_ns is not None:
        if now is None:
            raise UsageError("ages are not known: the dump does not say when it was taken")
        if wanted.min_age_ns is not None:
            oldest = now - wanted.min_age_ns
            until = oldest if until is None else min(until, oldest)
        if wanted.max_age_ns is not None:
            youngest = now - wanted.max_age_ns
            since = youngest if since is None else max(since, youngest)
    if until is not None and until < 0:
        return ~mask
    if since is not None:
        mask &= snapshot["ts_nsec"] >= np.uint64(max(since, 0))
    if until is not None:
        mask &= snapshot["ts_nsec"] <= np.uint64(until)
    return mask


def _stack_test(wanted: Filter) -> Callable[[StackTable], Array]:
    """Return a function that finds stacks that have the modules and functions of *wanted*."""
    functions = [re.compile(fnmatch.translate(contained(n))) for n in wanted.stack_contains]
    modules = [re.compile(fnmatch.translate(name)) for name in wanted.module]

    def test(table: StackTable) -> Array:
        result = np.ones(len(table), bool)
        for function in functions:
            result &= table.any(table.marks(partial(_is_named, function)))
        if modules:
            result &= table.any(table.marks(partial(_is_of_module, modules)) & ~replaced(table))
        return result

    return test


def _is_named(function: re.Pattern[str], frame: Frame) -> bool:
    return frame.name is not None and function.match(frame.name) is not None


def _is_of_module(modules: Sequence[re.Pattern[str]], frame: Frame) -> bool:
    owner = frame.module
    return owner is not None and any(module.match(owner) for module in modules)


def contained(text: str) -> str:
    """Return the pattern for names that contain *text*, unless it is a pattern itself."""
    return text if any(c in text for c in "*?[") else f"*{text}*"


def absent(snapshot: Snapshot, wanted: Filter, chosen: Snapshot) -> Iterator[str]:
    """
    Yield a line for every value of a filter that no record of *snapshot* has.

    :param chosen: The records that were selected. Only if there are none, modules and functions
        are looked for in all stacks.
    """
    for name, values in wanted.where.items():
        if CRITERIA[name].name in snapshot:
            yield from _absent_values(snapshot, name, values)
    if len(chosen) or not (wanted.module or wanted.stack_contains):
        return
    frames = list(snapshot.frames(snapshot.used_pcs().tolist()))
    modules = {frame.module for frame in frames if frame.module is not None}
    yield from _absent_names("module", wanted.module, modules)
    functions = {frame.name for frame in frames if frame.name is not None}
    yield from _absent_names("a stack with", list(map(contained, wanted.stack_contains)), functions)


def _absent_values(snapshot: Snapshot, name: str, values: Sequence[Any]) -> Iterator[str]:
    column = CRITERIA[name]
    match = column.criterion.match if column.criterion is not None else None
    if match is Match.PATTERNS:
        yield from _absent_names(name, values, _all_texts(snapshot, column))
    elif match is Match.NUMBERS:
        known = np.unique(snapshot[column.name])
        yield from (f"no record has {name} {value}" for value in values if value not in known)


def _absent_names(what: str, patterns: Sequence[str], names: Collection[str]) -> Iterator[str]:
    """Yield a line for every pattern that none of *names* matches, with names that are like it."""
    for pattern in patterns:
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            continue
        value = pattern.strip("*?")
        some = sorted(name for name in names if value and value.lower() in name.lower())
        near = [*some, *difflib.get_close_matches(value, list(names), _NEAR, 0.5)]
        hint = f"; near: {', '.join(list(dict.fromkeys(near))[:_NEAR])}" if near else ""
        yield f"no record has {what} {value!r}{hint}"


def _all_texts(snapshot: Snapshot, column: Column) -> set[str]:
    """Return every text that the values of *column* have."""
    found = values_of([snapshot[column.name]])
    return {
        text
        for value in found.tolist()
        if value != column.none
        for text in _texts_of(snapshot, column, value)
    }
