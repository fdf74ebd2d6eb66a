# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who owns the memory: records grouped, largest first.

  top                              by allocation stack
  top --by allocator               by the function that asked for the memory
  top --by comm,order --sort allocations
  top --module nf_tables --min-age 1h
  top --format folded | flamegraph.pl > owners.svg
  top --format pprof -o owners.pb.gz --by stack,comm

folded, speedscope and pprof have every stack unless --limit is given.
"""

from __future__ import annotations

import argparse
from typing import TextIO

from drgn_pageowner.analysis.owners.group import GROUP_KEYS, SORT_KEYS, columns_for, top
from drgn_pageowner.analysis.owners.select import select
from drgn_pageowner.commands.arguments import (
    add_filters,
    add_format,
    filter_of,
    listed,
    report_problems,
)
from drgn_pageowner.commands.output import write_bytes, write_text
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.pprof import pprof
from drgn_pageowner.render.stacks import WEIGHTS, folded, speedscope
from drgn_pageowner.render.top import top_csv, top_json, top_table

_LIMIT = 20
_RENDERERS = {"table": top_table, "json": top_json, "csv": top_csv}
# For other programs.
_EXPORTS = {"folded": folded, "speedscope": speedscope}


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
        metavar="N",
        help=f"show the first N groups (default: {_LIMIT}, or all in a format for other programs; "
        "0: all)",
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="look only at the first N frames of a stack"
    )
    parser.add_argument(
        "--source", action="store_true", help="show inlined functions and source lines"
    )
    add_format(parser, *_RENDERERS, *_EXPORTS, "pprof")
    parser.add_argument(
        "--weight",
        choices=WEIGHTS,
        default="pages",
        help="what a stack weighs in folded, speedscope and pprof (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE")
    add_filters(parser)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    exported = args.format not in _RENDERERS
    if exported and "stack" not in args.by:
        raise UsageError(f"{args.format} is made of stacks: --by must have stack in it")
    wanted = filter_of(args)
    columns = columns_for(args.by) | wanted.columns()
    snapshot = session.snapshot(columns, freed=args.freed)
    report_problems(snapshot.problems)
    chosen = select(snapshot, wanted)
    result = top(
        chosen,
        args.by,
        sort=args.sort,
        limit=_limit(args.limit, exported),
        depth=args.depth,
    )
    if args.source:
        session.add_source_lines(
            snapshot, [frame.pc for group in result.groups for frame in group.stack]
        )
    if args.format == "pprof":
        write_bytes(pprof(result, snapshot, args.weight), args.output, out)
    elif exported:
        write_text(_EXPORTS[args.format](result, snapshot, args.weight), args.output, out)
    else:
        write_text(_RENDERERS[args.format](result, snapshot), args.output, out)
    return 0


def _limit(limit: int | None, exported: bool) -> int | None:
    """How many groups: what is left out would be missing from every sum another program makes."""
    if limit is None:
        return None if exported else _LIMIT
    return limit if limit > 0 else None
