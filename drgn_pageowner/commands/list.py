# SPDX-License-Identifier: LGPL-2.1-or-later
"""
List the records of page_owner: each is one allocation.

  list --format debugfs            the text of /sys/kernel/debug/page_owner
  list --format stacks             the text of page_owner_stacks/show_stacks
  list --format handles            that of show_handles; stacks_handles: that of show_stacks_handles
  list --format json               one JSON object per line
  list --comm 'kworker*' --order 2- --stack-contains alloc_skb
  list --freed --pfn 0x1000-0x1fff the last owners of these pages
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TextIO

import numpy as np

from drgn_pageowner.analysis.owners.select import Filter, absent, select
from drgn_pageowner.commands.arguments import (
    add_filters,
    add_limit,
    add_output,
    filter_of,
    limit_of,
    report_problems,
)
from drgn_pageowner.commands.drgn_lines import add_drgn, constructor, print_lines, refuse
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import Session
from drgn_pageowner.model.stacks import SourceFrame
from drgn_pageowner.render.debugfs import debugfs_text
from drgn_pageowner.render.page_owner_stacks import FILES, page_owner_stacks_text
from drgn_pageowner.render.records import records_csv, records_json, records_table

_FORMATS: Mapping[str, Callable[..., Iterator[str]]] = {
    "table": records_table,
    "debugfs": debugfs_text,
    "json": records_json,
    "csv": records_csv,
}
"""``--format`` -> function of the first records and those after them, which yields the text; all
but a table while the records are read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drgn(parser)
    add_output(parser, "table", "debugfs", *FILES, "json", "csv")
    add_limit(parser, "records", "all")
    parser.add_argument(
        "--source",
        action="store_true",
        help="show inlined functions and source lines in the stacks (json, csv)",
    )
    add_filters(parser)


_DRGN = """\
from drgn_pageowner import snapshot
from drgn_pageowner.analysis.owners.select import Filter, select
wanted = {wanted}
records = select(snapshot(prog{freed}), wanted){first}
for pfn, order, stack in zip(records["pfn"], records["order"], records.stack):
    print(hex(pfn), order, *records.stack_frames(stack), sep="\\n  ")
"""


def _drgn(args: argparse.Namespace, out: TextIO) -> int:
    refuse(args, {"source": False})
    limit = limit_of(args, None)
    first = "" if limit is None else f".first({limit})"
    lines = _DRGN.format(
        wanted=constructor(filter_of(args)), freed=", freed=True" * args.freed, first=first
    )
    return print_lines(lines, args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        return _drgn(args, out)
    if args.format in FILES:
        return _list_stacks(args, session, out)
    wanted = filter_of(args)
    limit = limit_of(args, None)
    parts = _Choice(session, wanted, limit).parts()
    if args.source:
        parts = _with_source_lines(session, parts)
    out.writelines(_FORMATS[args.format](next(parts), parts))
    return 0


def _with_source_lines(session: Session, parts: Iterator[Snapshot]) -> Iterator[Snapshot]:
    """Yield *parts* with the source lines of their stacks, and of those before."""
    looked_up: set[int] = set()
    lines: dict[int, list[SourceFrame]] = {}
    for part in parts:
        # Allocation tags are source lines.
        lines.update(part.source_lines)
        sourced = replace(part, source_lines=lines)
        pcs = set(part.used_pcs().tolist()) - looked_up
        session.add_source_lines(sourced, sorted(pcs))
        looked_up |= pcs
        yield sourced


class _Choice:
    """The records that a filter selects, a part of all records at a time."""

    def __init__(self, session: Session, wanted: Filter, limit: int | None) -> None:
        """
        :param limit: Maximum number of records.
        """
        self._session = session
        self._wanted = wanted
        self._left = sys.maxsize if limit is None else max(limit, 0)

    def parts(self) -> Iterator[Snapshot]:
        """
        Yield the chosen records of every part that has some; of the first part even if it has none.

        Problems are reported when the last part was read, and before it is returned.
        """
        parts = self._session.record_parts(None, freed=self._wanted.freed)
        first = next(parts)
        later = next(parts, None)
        if later is None:
            report_problems(first.problems)
            chosen = select(first, self._wanted)
            report_problems(absent(first, self._wanted, chosen))
            yield self._limited(chosen)
            return
        marks, lacking = self._marks()
        yield self._limited(self._marked(first, marks, 0))
        row = len(first)
        part: Snapshot | None = later
        del first
        while part is not None:
            ahead = next(parts, None)
            if ahead is None:
                report_problems(part.problems)
                report_problems(lacking)
            # When there are enough, the other parts are read for their problems only.
            if self._left:
                chosen = self._limited(self._marked(part, marks, row))
                if len(chosen):
                    yield chosen
            row += len(part)
            part = ahead

    def _limited(self, chosen: Snapshot) -> Snapshot:
        """Return the first of the records, so many that no more are listed than asked for."""
        if len(chosen) > self._left:
            chosen = chosen.select(slice(0, self._left))
        self._left -= len(chosen)
        return chosen

    def _marked(self, part: Snapshot, marks: Array | None, row: int) -> Snapshot:
        """
        Return the chosen records of one part.

        :param row: Number of records in the parts before.
        """
        if marks is None:
            return select(part, self._wanted)
        mine = marks[row : row + len(part)]
        return part.select(slice(None) if mine.all() else np.flatnonzero(mine))

    def _marks(self) -> tuple[Array | None, list[str]]:
        """
        Find the records that the filter selects: read the columns that it asks for, of all records.

        :return: ``bool``, a row per record, or ``None`` if the filter has no criteria; and a line
            for each value that no record has.
        """
        wanted = self._wanted
        columns = wanted.columns()
        if not columns:
            return None, []
        snapshot = self._session.snapshot(columns, freed=wanted.freed)
        number = np.arange(len(snapshot), dtype=np.int32)
        numbered = replace(snapshot, columns={**snapshot.columns, "row": number})
        chosen = select(numbered, wanted)
        marks = np.zeros(len(snapshot), bool)
        marks[chosen["row"]] = True
        return marks, list(absent(snapshot, wanted, chosen))


def _list_stacks(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if any(vars(filter_of(args)).values()) or args.limit is not None:
        raise UsageError(f"--format {args.format}: of all stacks; filters are for records")
    listed = session.stack_list()
    report_problems(listed.problems)
    out.writelines(page_owner_stacks_text(listed, args.format))
    return 0
