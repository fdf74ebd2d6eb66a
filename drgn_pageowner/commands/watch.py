# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show what grows: read a running kernel's records every few seconds, and print the groups that have
gained pages since the previous reading, and their growth since the first; largest growth first.

  watch                            by allocation stack, every 5 seconds, until Ctrl-C
  watch --interval 1m --by allocator --limit 3
  watch --count 2 --format json    the first reading and two more, one object per line

The last table, or the last JSON object, is a summary that compares the last reading with the first.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import TextIO

from drgn_pageowner.analysis.owners.group import columns_for
from drgn_pageowner.analysis.owners.growth import Round, Watch
from drgn_pageowner.analysis.owners.select import select
from drgn_pageowner.commands.arguments import (
    add_by,
    add_filters,
    add_limit,
    add_output,
    count,
    duration,
    filter_of,
    limit_of,
    report_problems,
)
from drgn_pageowner.commands.drgn_lines import add_drgn, constructor, print_lines, refuse
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.watch import watch_json, watch_table

_LIMIT = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval",
        type=duration,
        default=duration("5"),
        metavar="TIME",
        help="time from one reading to the next (default: 5 s; 500ms, 2m)",
    )
    parser.add_argument(
        "--count",
        type=count,
        default=0,
        metavar="N",
        help="end after N rounds (default: 0, until Ctrl-C)",
    )
    add_by(parser)
    add_limit(parser, "groups of a round", str(_LIMIT))
    add_drgn(parser)
    add_output(parser, "table", "json")
    add_filters(parser)


_DRGN = """\
import time
from drgn_pageowner import snapshot
from drgn_pageowner.analysis.owners.growth import Watch
from drgn_pageowner.analysis.owners.select import Filter, select
watch, wanted = Watch({by}, limit={limit}), {wanted}
while watch.rounds < {count}:
    for group in watch.add(select(snapshot(prog, columns={columns}), wanted)).groups:
        print(group.grown_pages, group.rounds_grown, group.key)
    time.sleep({seconds})
"""


def _drgn(args: argparse.Namespace, out: TextIO) -> int:
    refuse(args, {"freed": False})
    wanted = filter_of(args)
    lines = _DRGN.format(
        by=args.by,
        limit=limit_of(args, _LIMIT),
        wanted=constructor(wanted),
        count=args.count or 'float("inf")',
        columns=sorted(columns_for(args.by) | wanted.columns()),
        seconds=args.interval / 10**9,
    )
    return print_lines(lines, args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        return _drgn(args, out)
    if not session.is_live():
        raise UsageError(
            "a dump does not change: watch reads a running kernel (-k) or guest (--qemu)"
        )
    watch = Watch(args.by, limit=limit_of(args, _LIMIT))
    render = watch_json if args.format == "json" else watch_table
    page_size = session.facts().page_size

    def show(result: Round) -> None:
        out.writelines(render(result, page_size))
        out.flush()

    # Ctrl-C ends a watch; the summary of the readings so far follows.
    with contextlib.suppress(KeyboardInterrupt):
        _rounds(args, session, watch, show)
    summary = watch.summary()
    if summary is not None:
        show(summary)
    return 0


def _rounds(
    args: argparse.Namespace, session: Session, watch: Watch, show: Callable[[Round], None]
) -> None:
    wanted = filter_of(args)
    columns = columns_for(args.by) | wanted.columns()
    due = time.monotonic()
    while True:
        snapshot = session.snapshot(columns, freed=args.freed)
        report_problems(snapshot.problems)
        show(watch.add(select(snapshot, wanted)))
        if 0 < args.count <= watch.rounds:
            return
        # Keep a fixed period; skip missed readings.
        due = max(due + args.interval / 10**9, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0))
