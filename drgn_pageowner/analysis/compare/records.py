# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the records of a machine that is compared with another, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from drgn_pageowner.analysis.account.page_class import UNACCOUNTED_COLUMNS
from drgn_pageowner.analysis.compare.diff import OF_NOBODY, of_nobody
from drgn_pageowner.analysis.compare.kinship import Common, common_records, is_text
from drgn_pageowner.analysis.owners.group import columns_for
from drgn_pageowner.analysis.owners.select import Filter
from drgn_pageowner.analysis.owners.sums import summed, summed_by
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.arrays import Array, Growing, values_of
from drgn_pageowner.model.pages import Pages
from drgn_pageowner.model.records import Snapshot, pfn_order
from drgn_pageowner.model.session import Session

__all__ = ("Compared", "read_compared")

# Keys and columns whose values are not the same in all parts of the records, or need the time of
# the dump.
_NOT_IN_PARTS = frozenset(("tag", "age", "ts_nsec"))
_OF_BOOT = ("pfn", "ts_nsec", "handle")


class Compared(NamedTuple):
    """The records of one machine."""

    sums: Snapshot
    """The records that were asked for, or their sums if there are many."""
    every: Snapshot
    """All allocated records, with the columns that tell one boot from another; if :attr:`common` is
    known, one record of each stack."""
    common: Common | None
    """The records that the other machine has, too, if they were counted."""
    refused: UsageError | None = None
    """The reason why no records could be selected; :attr:`sums` are all then."""

    def selected(self) -> Snapshot:
        """
        Return :attr:`sums`.

        :raises UsageError: if a key or a value of the filter is unknown, or this kernel does not
            record it
        """
        if self.refused is not None:
            raise self.refused
        return self.sums


def read_compared(
    session: Session,
    by: Sequence[str],
    wanted: Filter,
    classes: tuple[Pages, Array] | None,
    other: Compared | None = None,
) -> Compared:
    """
    Read the records of a machine.

    :param by: Keys of :data:`~drgn_pageowner.analysis.owners.group.GROUP_KEYS`.
    :param wanted: Selects the records.
    :param classes: All pages of the machine, and the class of each, for the column
        :data:`~drgn_pageowner.analysis.compare.diff.OF_NOBODY`; without them, the records have
        :data:`~drgn_pageowner.analysis.account.page_class.UNACCOUNTED_COLUMNS`.
    :param other: The records of the other machine, if they were read before.
    :raises PageOwnerError: if there are no records
    """
    needed = columns_for(by) | wanted.columns()
    keys = columns_for(by) | (UNACCOUNTED_COLUMNS if classes is None else {OF_NOBODY})

    def with_classes(records: Snapshot) -> Snapshot:
        if classes is None:
            return records
        rest = {
            name: column
            for name, column in records.columns.items()
            if name not in UNACCOUNTED_COLUMNS or name in needed
        }
        return replace(records, columns={**rest, OF_NOBODY: of_nobody(records, *classes)})

    if _NOT_IN_PARTS & {*by, *wanted.columns()}:
        every = with_classes(session.snapshot(needed | UNACCOUNTED_COLUMNS))
        try:
            return Compared(summed_by(every, by, wanted, keys), every, None)
        except UsageError as error:
            return Compared(every, every, None, error)
    seen = _Seen() if other is None or not _in_order(other.every) else _Counted(other.every)
    parts = seen.noted(map(with_classes, session.record_parts(needed | UNACCOUNTED_COLUMNS)))
    try:
        return Compared(summed(parts, wanted, keys), *seen.all())
    except UsageError as error:
        # What is wrong with the dump is known when all parts were read.
        for _ in parts:
            pass
        every, common = seen.all()
        return Compared(every, every, common, error)


def _in_order(records: Snapshot) -> bool:
    """Return whether other records can be compared with these one part after the other."""
    known = not is_text(records) and len(records) and "ts_nsec" in records
    return bool(known) and isinstance(pfn_order(records), slice)


class _Seen:
    """What :func:`~drgn_pageowner.analysis.compare.kinship.relate` needs of all records."""

    def __init__(self) -> None:
        self._columns: dict[str, Growing] = {}
        self._last: Snapshot | None = None

    def noted(self, parts: Iterable[Snapshot]) -> Iterator[Snapshot]:
        """Yield *parts*, without times, and note them."""
        for part in parts:
            self._last = part
            self._note(part)
            rest = {name: part[name] for name in part.columns if name != "ts_nsec"}
            yield replace(part, columns=rest)

    def _note(self, part: Snapshot) -> None:
        for name in _OF_BOOT:
            if name in part:
                if name not in self._columns:
                    small = name == "pfn" and 0 < part.facts.max_pfn <= np.iinfo(np.uint32).max
                    self._columns[name] = Growing(np.uint32 if small else part[name].dtype)
                self._columns[name].add(part[name])

    def all(self) -> tuple[Snapshot, Common | None]:
        """Return :attr:`Compared.every` and :attr:`Compared.common`."""
        assert self._last is not None
        columns = {name: column.take() for name, column in self._columns.items()}
        return replace(self._last, columns=columns), None


class _Counted(_Seen):
    """The records that another machine has, too."""

    def __init__(self, other: Snapshot) -> None:
        """
        :param other: All records of the other machine, in the order of PFNs.
        """
        super().__init__()
        self._other = other
        self._common = self._number = 0
        self._handles = np.zeros(0, np.uint32)

    def _note(self, part: Snapshot) -> None:
        if is_text(part) or "ts_nsec" not in part:
            # This is the only part.
            super()._note(part)
            return
        self._common += common_records(part, self._other)
        self._number += len(part)
        self._handles = np.union1d(self._handles, values_of([part["handle"]]))

    def all(self) -> tuple[Snapshot, Common | None]:
        every, _ = super().all()
        if every.columns:
            return every, None
        nothing = {name: np.zeros(len(self._handles), np.uint64) for name in _OF_BOOT}
        every = replace(every, columns={**nothing, "handle": self._handles})
        return every, Common(self._common, min(self._number, len(self._other)))
