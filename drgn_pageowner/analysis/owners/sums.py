# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sum up records by columns, a part of them at a time, so that few are in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from drgn_pageowner.analysis.owners.group import age_bands
from drgn_pageowner.analysis.owners.select import Filter, select
from drgn_pageowner.model.arrays import Array, begins, distinct, sums
from drgn_pageowner.model.later import selected
from drgn_pageowner.model.records import SeenMemcgs, Snapshot, Summing
from drgn_pageowner.model.session import Session

__all__ = ("read_sums", "summed", "summed_by", "summing")

# Number of records that are summed up together.
_ROWS = 1 << 19
# Number of rows from which on sums of several parts are summed up again.
_MANY = 1 << 21
# Columns whose values are known when a part of the records has been read.
_OF_PARTS = frozenset(("memcg", "memcg_kind"))
# Column of the age of records, in words.
_AGE = "age"


def read_sums(session: Session, wanted: Filter, columns: frozenset[str]) -> Snapshot:
    """
    Read records, and sum them up: where they are read, if that is possible.

    :param wanted: Filter that needs no columns.
    :param columns: See :func:`summed`; not ``tag``.
    """
    early = None if columns & _OF_PARTS else summing(wanted, columns)
    parts = session.record_parts(columns, freed=wanted.freed, summing=early)
    return summed(parts, wanted, columns)


def summed(parts: Iterator[Snapshot], wanted: Filter, columns: Collection[str]) -> Snapshot:
    """
    Select records from *parts*, and sum them up.

    :param parts: All records, of one or more parts.
    :param columns: Names of the columns to keep, ``ts_nsec`` among them if ages are needed.
    :return: The records as they are, if there is but one part. Otherwise, rows with ``pages``,
        ``allocations`` and ``allocated``: one or two for each combination of values, of which one
        has the lowest and the other the highest ``ts_nsec``, and only the first of them counts.
    """
    last = next(parts)
    chosen = select(last, wanted)
    ahead = next(parts, None)
    if ahead is None:
        return chosen
    # What this kernel does not record is missed when the sums are used.
    keys = [name for name in sorted(set(columns) - {"ts_nsec"}) if name in chosen]
    memcgs = SeenMemcgs()
    rows = [_sums(_renumbered(chosen, memcgs, keys), keys)]
    while ahead is not None:
        last, ahead = ahead, None
        rows.append(_sums(_renumbered(select(last, wanted), memcgs, keys), keys))
        if sum(map(_length, rows)) > _MANY:
            rows = [_sums(replace(last, columns=_joined(rows)), keys)]
        ahead = next(parts, None)
    # Most combinations are in many parts.
    result = _sums(replace(last, columns=_joined(rows)), keys)
    result["allocated"] = np.full(_length(result), not wanted.freed)
    if "memcg" not in keys:
        return replace(last, columns=result)
    found, result["memcg"] = memcgs.by_path(result["memcg"])
    return replace(last, columns=result, memcgs=found)


def _renumbered(records: Snapshot, memcgs: SeenMemcgs, keys: Collection[str]) -> Snapshot:
    """Return *records* with indices of memory cgroups that hold in all parts."""
    if "memcg" not in keys:
        return records
    return replace(records, columns={**records.columns, "memcg": memcgs.indices(records)})


def summed_by(
    records: Snapshot, by: Collection[str], wanted: Filter, columns: Collection[str]
) -> Snapshot:
    """
    Select from *records*, and sum up what was selected if these are many.

    :param by: Keys of :data:`~drgn_pageowner.analysis.owners.group.GROUP_KEYS` by which the rows
        can be grouped.
    :param columns: See :func:`summed`.
    :return: See :func:`summed`.
    """
    if len(records) <= _ROWS or records.allocations is None:
        return select(records, wanted)
    parts = records.pieces(_ROWS)
    if "age" not in by or "ts_nsec" not in records:
        return summed(parts, wanted, columns)
    # The oldest and the newest of a row must have the same age, in words.
    aged = (
        replace(part, columns={**part.columns, _AGE: age_bands(part).astype(np.uint8)})
        for part in parts
    )
    result = summed(aged, wanted, {*columns, _AGE})
    del result.columns[_AGE]
    return result


def summing(wanted: Filter, columns: Collection[str]) -> Summing:
    """
    Return a function that sums up records before they are stored, for :func:`summed`.

    :param wanted: Filter that needs no columns.
    :param columns: See :func:`summed`.
    """
    names = sorted(set(columns) - {"ts_nsec"})

    def sums_of(part: Mapping[str, Array]) -> dict[str, Array]:
        mine = part["allocated"] != wanted.freed
        chosen = selected(part, slice(None) if mine.all() else mine)
        number = len(chosen["allocated"])
        counted = {
            **chosen,
            "pages": np.int64(1) << chosen["order"].astype(np.int64),
            "allocations": np.ones(number, np.int64),
        }
        result, _ = _sums_of(counted, [name for name in names if name in part], {})
        result["allocated"] = np.full(len(result["pages"]), not wanted.freed)
        return result

    return sums_of


def _length(columns: Mapping[str, Array]) -> int:
    return len(columns["pages"])


def _joined(parts: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _sums(records: Snapshot, keys: list[str]) -> dict[str, Array]:
    """
    Sum up records that have the columns *keys* in common.

    :return: Columns: *keys*, ``pages``, ``allocations``, and ``ts_nsec`` if there are times.
    """
    counts = records.allocations
    if counts is None:
        counts = np.zeros(len(records), np.int64)
    columns = {**records.columns, "pages": records.pages, "allocations": counts}
    codes = {}
    if "handle" in keys:
        # Handles without a stack count as one.
        codes["handle"] = records.stack + 1, len(records.stacks) + 1
    result, example = _sums_of(columns, keys, codes)
    if "handle" in result:
        handles = np.append(records.stacks.handles, np.uint32(0))
        result["handle"] = handles[codes["handle"][0][example] - 1]
    return result


def _sums_of(
    columns: Mapping[str, Array], keys: list[str], codes: Mapping[str, tuple[Array, int]]
) -> tuple[dict[str, Array], Array]:
    """
    Sum up rows that have the columns *keys* in common.

    :param columns: With ``pages`` and ``allocations`` of each row.
    :param codes: Numbers to compare instead of the values of a column, and how many there may be.
    :return: The columns that :func:`_sums` returns; and the index of a row that has the *keys* of
        each.
    """
    keyed = [codes.get(name, (columns[name], None)) for name in keys]
    # Pages that were allocated one after another, or together, are often neighbours. Every row of a
    # run is in the group of its first row.
    alike = [values for values, _ in keyed] or [np.zeros(len(columns["pages"]), bool)]
    first = np.flatnonzero(begins(*alike))
    group, number = _grouped([(values[first], size) for values, size in keyed], len(first))
    example = np.zeros(number, np.int64)
    example[group] = first
    result = {name: columns[name][example] for name in keys}
    for name in ("pages", "allocations"):
        result[name] = sums(group, _reduced(np.add, columns[name], first), number)
    if "ts_nsec" not in columns:
        return result, example
    stamps = columns["ts_nsec"]
    oldest = np.full(number, np.iinfo(np.uint64).max, np.uint64)
    newest = np.zeros(number, np.uint64)
    np.minimum.at(oldest, group, _reduced(np.minimum, stamps, first))
    np.maximum.at(newest, group, _reduced(np.maximum, stamps, first))
    several = np.flatnonzero(newest > oldest)
    nothing = np.zeros(len(several), np.int64)
    more = {**{name: result[name][several] for name in keys}, "pages": nothing,
            "allocations": nothing, "ts_nsec": newest[several]}  # fmt: skip
    joined = _joined([{**result, "ts_nsec": oldest}, more])
    return joined, np.concatenate([example, example[several]])


def _reduced(function: np.ufunc, values: Array, first: Array) -> Array:
    """Apply *function* to each run of *values*: shape ``(len(first),)``."""
    if len(first) == len(values):
        return values
    result: Array = function.reduceat(values, first)
    return result


def _grouped(keys: Sequence[tuple[Array, int | None]], rows: int) -> tuple[Array, int]:
    """
    Group rows that have the same *keys*.

    :param keys: Numbers from 0 on, and how many there may be; or any values and ``None``.
    :return: The group of each row: ``int64``, shape ``(rows,)``; and the number of groups, which
        are in the order of their keys.
    """
    code, number = np.zeros(rows, np.int64), 1
    for values, size in keys:
        inverse = values
        if size is None:
            found, inverse = distinct(values)
            size = len(found)
            if len(keys) == 1:
                return inverse, size
        code = code * size + inverse if number > 1 else inverse
        number *= size
        if number > 1 << 40:
            found, code = distinct(code)
            number = len(found)
    found, group = distinct(code)
    return group, len(found)
