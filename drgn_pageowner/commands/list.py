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
from typing import TextIO

from drgn_pageowner.analysis.owners.select import absent, select
from drgn_pageowner.commands.arguments import (
    add_filters,
    add_limit,
    add_output,
    filter_of,
    limit_of,
    report_problems,
)
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines, refuse
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.debugfs import debugfs_text
from drgn_pageowner.render.page_owner_stacks import FILES, page_owner_stacks_text
from drgn_pageowner.render.records import records_csv, records_json, records_table


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
records = select(snapshot(prog, freed={freed}), wanted){first}
for pfn, order, stack in zip(records["pfn"], records["order"], records.stack):
    print(hex(pfn), order, *records.stack_frames(stack), sep="\\n  ")
"""


def _drgn(args: argparse.Namespace, out: TextIO) -> int:
    refuse(args, {"source": False})
    limit = limit_of(args, None)
    first = "" if limit is None else f".first({limit})"
    lines = _DRGN.format(wanted=filter_of(args), freed=args.freed, first=first)
    return print_lines(lines, args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        return _drgn(args, out)
    if args.format in FILES:
        return _list_stacks(args, session, out)
    snapshot = session.snapshot(None, freed=args.freed)
    report_problems(snapshot.problems)
    wanted = filter_of(args)
    chosen = select(snapshot, wanted)
    report_problems(absent(snapshot, wanted, chosen))
    limit = limit_of(args, None)
    if limit is not None:
        chosen = chosen.first(limit)
    if args.source:
        session.add_source_lines(chosen, chosen.used_pcs())
    renderers = {
        "table": records_table,
        "debugfs": debugfs_text,
        "json": records_json,
        "csv": records_csv,
    }
    out.writelines(renderers[args.format](chosen))
    return 0


def _list_stacks(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if any(vars(filter_of(args)).values()) or args.limit is not None:
        raise UsageError(f"--format {args.format}: of all stacks; filters are for records")
    listed = session.stack_list()
    report_problems(listed.problems)
    out.writelines(page_owner_stacks_text(listed, args.format))
    return 0
