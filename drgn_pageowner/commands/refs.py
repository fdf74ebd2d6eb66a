# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show who points at a page directly: words that contain an address in the page, the address of its
struct page, or its PFN.

  refs pfn:0x1234                  a page frame number
  refs 0xffff888001234560          an address: also of a slab object
  refs task:123                    the task_struct of a process
"""

from __future__ import annotations

import argparse
import sys
from typing import TextIO

from drgn_pageowner.analysis.leaks.links import references
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.commands.arguments import (
    WHAT,
    add_limit,
    add_output,
    add_types,
    limit_of,
    targets_of,
)
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.links import refs_text

_LIMIT = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="WHAT", help=WHAT)
    add_limit(parser, "words", str(_LIMIT))
    add_types(parser)
    add_drgn(parser)
    add_output(parser, "table", "json")


_DRGN = """\
from drgn_pageowner.analysis.leaks.links import references
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.kernel.session import ProgramSession
session = ProgramSession.of(prog)
marked = reach(session.heap(types={types}))
target = session.target({what!r})
result = references(marked, target, session.words, {limit})
print(result.verdict)
for hop in result.references:
    print(hop.expression, hop.kind)
"""


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        if len(args.what) > 1:
            raise UsageError("--drgn: only for one page or object")
        lines = _DRGN.format(
            types=not args.no_types, what=args.what[0], limit=limit_of(args, _LIMIT) or sys.maxsize
        )
        return print_lines(lines, args, out)
    heap = session.heap(types=not args.no_types)
    targets, status = targets_of(args.what, session)
    if not targets:
        return status
    marked = reach(heap)
    limit = limit_of(args, _LIMIT) or sys.maxsize
    for target in targets:
        result = references(marked, target, session.words, limit)
        out.writelines(json_text(result) if args.format == "json" else refs_text(result, limit))
    return status
