# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the page_owner records some sections at a time, so that few are in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from drgn import FaultError

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.live import Changes, is_live
from drgn_pageowner.kernel.dump.parallel import in_order
from drgn_pageowner.kernel.linux.formats import read_text_formats
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms
from drgn_pageowner.kernel.linux.names import read_names
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout, page_owner_state
from drgn_pageowner.kernel.linux.page_owner import (
    OwnerCounts,
    owner_dtype,
)
from drgn_pageowner.kernel.linux.sections import (
    Section,
    find_sections,
    page_ext_stride,
    section_problems,
)
from drgn_pageowner.kernel.linux.stackdepot import depot_layout, depot_use, read_stacks
from drgn_pageowner.kernel.read.kernel import read_facts
from drgn_pageowner.kernel.read.passed import PassedColumns
from drgn_pageowner.kernel.read.records import (
    ALL_COLUMNS,
    PageColumns,
    SectionRecords,
    bad_handles,
    check_found,
    joined,
    no_rows,
    owner_columns,
    problems_of,
    read_records,
    read_section,
    read_sections,
    record_layout,
    size_of,
)
from drgn_pageowner.model.arrays import Array, values_of
from drgn_pageowner.model.columns import STORED, Form
from drgn_pageowner.model.records import Snapshot, Summing, Times
from drgn_pageowner.model.stacks import Stacks
from drgn_pageowner.progress import progress

__all__ = ("read_record_parts", "read_rows_of_records")

_ROWS = 1 << 19
"""Number of records from which on a part is large enough."""

_PAGES = 1 << 18
"""Number of pages whose records are summed up together."""


def read_record_parts(
    kernel: Kernel,
    *,
    columns: Iterable[str] | None = None,
    freed: bool = False,
    summing: Summing | None = None,
) -> Iterator[Snapshot]:
    """
    Decode the page_owner records as :func:`~drgn_pageowner.kernel.read.records.read_records` does,
    in parts.

    All parts have the same ``facts``, ``coverage`` and ``problems``, which are not complete before
    the last part is returned. Indices of memory cgroups, tags and stacks hold in one part only.

    :param columns: Columns to decode; all by default.
    :param freed: Also keep the records of freed pages.
    :param summing: Function that the process that reads records calls for those of some sections
        together, if there are many: the parts then consist of the rows that it returned. *columns*
        must not be of memory cgroups or tags.
    :return: At least one snapshot, in PFN order. A running kernel, records of tags, and records
        that contain their stacks (before Linux kernel commit f2ca0b557107 ("mm/page_owner: use
        stackdepot to store stacktrace") (in v4.8)) are one part.
    :raises PageOwnerError: as by :func:`~drgn_pageowner.kernel.read.records.read_records`; if all
        page_ext arrays are missing, when the last part is asked for
    """
    if is_live(kernel.prog) or page_owner_state(kernel) in NO_RECORDS:
        yield read_records(kernel, columns=columns, freed=freed)
        return
    page_ext_layout(kernel)
    if "trace_entries" in (owner_dtype(kernel).names or ()):
        yield read_records(kernel, columns=columns, freed=freed)
        return
    yield from _Parts(kernel, columns, freed, summing).read()


def read_rows_of_records(
    kernel: Kernel, pfn: Array, names: Sequence[str], rows: Array | None
) -> dict[str, Array]:
    """
    Read some columns of some allocated records of a dump: a
    :class:`~drgn_pageowner.model.later.RowReader`.

    :param pfn: The first PFN of all allocated records, ascending: ``int64``, or
        :class:`~drgn_pageowner.model.arrays.Narrow`.
    :param names: Names of members of the records that this kernel has.
    :param rows: Indices of the records: ``int64``, shape ``(n,)``; ``None`` for all.
    :return: Each column: shape ``(n,)``.
    :raises PageOwnerError: if the records cannot be read again
    """
    wanted, order = np.asarray(pfn if rows is None else pfn[rows]), None
    if (wanted[1:] < wanted[:-1]).any():
        order = np.argsort(wanted, kind="stable")
        wanted = wanted[order]
    sections = [
        (section, low, high)
        for section in find_sections(kernel)
        for low, high in [np.searchsorted(wanted, [section.start_pfn, section.end_pfn])]
        if low < high
    ]
    if sum(high - low for _, low, high in sections) != len(wanted):
        raise PageOwnerError("the sections of some records are not there any more")
    columns, pages = frozenset(names), PageColumns(kernel, frozenset())

    def read(place: tuple[Section, int, int]) -> dict[str, Array]:
        section, low, high = place
        found = read_section(kernel, section, columns | {"order"}, pages, freed=False).columns
        mine = wanted[low:high]
        known = found.get("pfn", mine[:0])
        index = np.searchsorted(known, mine)
        if not np.isin(mine, known).all():
            raise PageOwnerError(f"records from PFN {mine[0]:#x} on are not there any more")
        return PassedColumns((name, found[name][index]) for name in names)

    size = page_ext_stride(kernel) * sum(s.end_pfn - s.start_pfn for s, _, _ in sections)
    parts = in_order(kernel, read, sections, size=size)
    parts = progress(parts, description="page_ext", total=len(sections), unit=" section")
    result = {name: np.empty(len(wanted), STORED[name].dtype) for name in names}
    for (_, low, high), part in zip(sections, parts, strict=True):
        place = slice(low, high) if order is None else order[low:high]
        for name in names:
            result[name][place] = part[name]
    return result


class _Parts:
    """Reader of the records that keeps what the parts have in common."""

    def __init__(
        self,
        kernel: Kernel,
        columns: Iterable[str] | None,
        freed: bool,
        summing: Summing | None,
    ) -> None:
        self._kernel, self._summing = kernel, summing
        self._wanted = ALL_COLUMNS if columns is None else frozenset(columns)
        self._freed = freed
        self._dtype = owner_dtype(kernel)
        self._facts = read_facts(kernel)
        self._now = self._facts.now_ns
        self._facts.formats = (
            read_text_formats(kernel, self._dtype.names or ()) if columns is None else None
        )
        self._counts, self._changes = OwnerCounts(), Changes()
        self._pages = PageColumns(kernel, self._wanted)
        self._stacks = _StacksSeen(kernel)
        self._times = Times()
        self._coverage: dict[str, Any] = {}
        self._problems: list[str] = []

    def read(self) -> Iterator[Snapshot]:
        """Yield the parts."""
        kernel, columns = self._kernel, owner_columns(self._wanted)
        parts: list[dict[str, Array]] = []
        number = 0
        groups = _groups(find_sections(kernel)) if self._summing is not None else []
        if self._summing is not None and len(groups) > 2:
            read = self._sums(groups, columns, self._summing)
        else:
            read = read_sections(
                kernel, columns, self._counts, self._changes, self._pages, freed=self._freed
            )
        for part in read:
            # Another section with records follows, so this is not the last part.
            if number >= _ROWS:
                yield self._snapshot(joined(parts))
                parts, number = [], 0
            parts.append(part)
            number += len(part["allocated"])
        check_found(self._counts)
        last = self._snapshot(joined(parts) if parts else no_rows(self._dtype, columns))
        self._finish()
        yield last

    def _sums(
        self, groups: Sequence[Sequence[Section]], columns: frozenset[str], summing: Summing
    ) -> Iterator[dict[str, Array]]:
        """
        Yield the sums of the records of each group of sections that has some.

        :param columns: See :func:`~drgn_pageowner.kernel.linux.page_owner.read_owner_records`.
        """
        kernel, pages, freed = self._kernel, self._pages, self._freed

        def read(group: Sequence[Section]) -> SectionRecords:
            every = [read_section(kernel, s, columns, pages, freed=freed) for s in group]
            found = every[0]._replace(columns={})
            for other in every[1:]:
                other.add_to(found.counts, found.changes, found.pages)
            parts = [other.columns for other in every if other.columns]
            return found._replace(columns=summing(joined(parts))) if parts else found

        results = in_order(kernel, read, groups, size=size_of(kernel, pages))
        for found in progress(results, description="page_ext", total=len(groups), unit=" part"):
            found.add_to(self._counts, self._changes, pages.counts)
            if found.columns:
                yield found.columns

    def _snapshot(self, result: dict[str, Array]) -> Snapshot:
        kernel = self._kernel
        memcgs = self._pages.finish(result)
        self._pages.finish_migratetype(result)
        self._times.add(result)
        stacks = self._stacks.of(result)
        return Snapshot(
            facts=self._facts,
            names=read_names(kernel),
            columns=result,
            stacks=stacks,
            symbolizer=load_kallsyms(kernel),
            memcgs=memcgs,
            coverage=self._coverage,
            problems=self._problems,
            tags=self._pages.take_tags(result),
        )

    def _finish(self) -> None:
        """Fill in what is known when all parts have been read."""
        kernel = self._kernel
        problems = [*self._facts.problems, *section_problems(kernel)]
        problems += [
            *problems_of(self._counts, self._pages),
            *self._changes.problems("records"),
            *self._stacks.problems(),
        ]
        self._coverage.update(asdict(self._counts), live=None)
        if self._stacks.depot is not None:
            self._coverage["stack_depot"] = depot_use(kernel)
        self._facts.now_ns = self._times.latest(self._now)
        self._facts.layout = record_layout(kernel, self._stacks.depot)
        self._problems += kernel.problems(problems)


def _groups(sections: Sequence[Section]) -> list[list[Section]]:
    """Group neighbouring sections whose records are summed up together."""
    # The calling process reads the first group alone, so that is one section.
    groups, size = [list(sections[:1])], _PAGES
    for section in sections[1:]:
        if size >= _PAGES:
            groups.append([])
            size = 0
        groups[-1].append(section)
        size += section.end_pfn - section.start_pfn
    return groups


class _StacksSeen:
    """The stacks of all records so far; each is read from the stack depot once."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._stacks = Stacks.empty()
        self._bad = np.zeros(0, np.uint32)
        self._records = 0
        self._error: str | None = None
        self.depot: str | None = None
        """Name of the depot's layout; ``None`` before a stack was asked for."""

    def of(self, columns: dict[str, Array]) -> Stacks:
        """Return the stacks of the handles in *columns*, and of all parts before."""
        handles = [
            columns[column.name]
            for column in STORED.values()
            if column.form is Form.HANDLE and column.name in columns
        ]
        if not handles or self._error is not None:
            return self._stacks
        try:
            self.depot = depot_layout(self._kernel).name
            unique = values_of(handles)
            unknown = unique[(self._stacks.index(unique) < 0) & (unique != 0)]
            new = np.setdiff1d(unknown, self._bad, assume_unique=True)
            if len(new):
                stacks, bad = read_stacks(self._kernel, new)
                self._stacks = self._stacks.with_those_of(stacks)
                self._bad = np.union1d(self._bad, bad)
            if len(self._bad) and "handle" in columns:
                bad = np.isin(columns["handle"], self._bad)
                rows = columns.get("allocations")
                self._records += int((bad if rows is None else rows[bad]).sum())
        except (PageOwnerError, FaultError) as error:
            self._error = f"the stack depot cannot be read, so stacks are unknown: {error}"
            self._stacks, self.depot = Stacks.empty(), None
        return self._stacks

    def problems(self) -> list[str]:
        """Return a line if stacks could not be read."""
        if self._error is not None:
            return [self._error]
        return [bad_handles(len(self._bad), self._records)] if len(self._bad) else []
