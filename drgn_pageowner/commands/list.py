# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every record: one allocation each.

  list --format debugfs            the text of /sys/kernel/debug/page_owner
  list --format json               one JSON object a line
  list --comm 'kworker*' --order 2- --stack-contains alloc_skb
  list --freed --pfn 0x1000-0x1fff who had these pages last
"""

from __future__ import annotations

import argparse
from typing import TextIO

from drgn_pageowner.analysis.owners.select import select
from drgn_pageowner.commands.arguments import add_filters, add_format, filter_of, report_problems
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.debugfs import debugfs_text
from drgn_pageowner.render.records import records_csv, records_json, records_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_format(parser, "table", "debugfs", "json", "csv")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N records")
    parser.add_argument(
        "--source",
        action="store_true",
        help="inlined functions and source lines in the stacks (json)",
    )
    add_filters(parser)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    snapshot = session.snapshot(None, freed=args.freed)
    report_problems(snapshot.problems)
    chosen = select(snapshot, filter_of(args))
    if args.limit is not None:
        chosen = chosen.first(args.limit)
    if args.source:
        session.add_source_lines(chosen, chosen.used_pcs())
    renderers = {
        "table": records_table,
        "debugfs": debugfs_text,
        "json": records_json,
        "csv": records_csv,
    }
    for piece in renderers[args.format](chosen):
        out.write(piece)
    return 0
