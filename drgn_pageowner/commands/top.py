"""
Who owns the memory: records grouped, largest first.

  top                              by allocation stack
  top --by allocator               by the function that asked for the memory
  top --by comm,order --sort allocations
  top --module nf_tables --min-age 1h
"""

from __future__ import annotations

import argparse
from typing import TextIO

from drgn_pageowner.analysis.group import GROUP_KEYS, SORT_KEYS, columns_for, top
from drgn_pageowner.analysis.select import select
from drgn_pageowner.commands.arguments import (
    add_filters,
    add_format,
    filter_of,
    listed,
    report_problems,
)
from drgn_pageowner.commands.session import Session
from drgn_pageowner.render.top import top_csv, top_json, top_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by",
        type=listed(str),
        default=["stack"],
        metavar="LIST",
        help="group by these, comma-separated (default: stack): " + ", ".join(GROUP_KEYS),
    )
    parser.add_argument(
        "--sort",
        type=listed(str),
        default=["pages"],
        metavar="LIST",
        help="sort by these (default: pages): "
        + ", ".join(SORT_KEYS)
        + ", or what is grouped by; - in front reverses (write --sort=-pid)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="show the first N groups (default: %(default)s; 0: all)",
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="look only at the first N frames of a stack"
    )
    parser.add_argument(
        "--source", action="store_true", help="show inlined functions and source lines"
    )
    add_format(parser, "table", "json", "csv")
    add_filters(parser)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    wanted = filter_of(args)
    columns = columns_for(args.by) | wanted.columns()
    snapshot = session.snapshot(columns, freed=args.freed)
    report_problems(snapshot.problems)
    chosen = select(snapshot, wanted)
    result = top(
        chosen,
        args.by,
        sort=args.sort,
        limit=args.limit if args.limit > 0 else None,
        depth=args.depth,
    )
    if args.source:
        session.add_source(snapshot, [frame.pc for group in result.groups for frame in group.stack])
    renderers = {"table": top_table, "json": top_json, "csv": top_csv}
    for piece in renderers[args.format](result, snapshot):
        out.write(piece)
    return 0
