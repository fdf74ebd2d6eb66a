# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show why a page is not free: the shortest chain of pointers from a root to it, with the types and
members that contain the pointers.

  why pfn:0x1234                   a page frame number
  why 0xffff888001234560           an address: also of a slab object, or in a vmalloc area
  why task:123                     the task_struct of a process
  why --all pfn:0x1234             every chain of this length

Above each word is the drgn expression for its target, to paste into drgn's shell. More DWARF gives
more types: pass the modules' files with -s, too. For a page mapped into a process, the page table
entry is shown; for a page of a file or a pipe, the word that points to its struct page.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TextIO

import numpy as np

from drgn_pageowner.analysis.leaks.fingerprint import fingerprints
from drgn_pageowner.analysis.leaks.links import explain_node
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.commands.arguments import WHAT, add_output, add_types, targets_of
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines, refuse
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.fingerprint import Fingerprint
from drgn_pageowner.model.heap import HeapTarget
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.links import why_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="WHAT", help=WHAT)
    parser.add_argument("--all", action="store_true", help="show every chain of the same length")
    add_types(parser)
    add_drgn(parser)
    add_output(parser, "table", "json")


_DRGN = """\
from drgn_pageowner.analysis.leaks.links import explain_node
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.kernel.session import ProgramSession
session = ProgramSession.of(prog)
marked = reach(session.heap(types={types}))
target = session.target({what!r})
result = explain_node(marked, target, session.words, mappings=session.mappings)
print(result.verdict)
for hop in result.chain:
    print(hop.expression, hop.kind)
"""


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        refuse(args, {"all": False})
        if len(args.what) > 1:
            raise UsageError("--drgn: only for one page or object")
        lines = _DRGN.format(types=not args.no_types, what=args.what[0])
        return print_lines(lines, args, out)
    heap = session.heap(types=not args.no_types)
    targets, status = targets_of(args.what, session)
    if not targets:
        return status
    marked = reach(heap)
    for target in targets:
        result = explain_node(
            marked, target, session.words, mappings=session.mappings, everything=args.all
        )
        result = replace(result, fingerprint=_fingerprint(session, target))
        out.writelines(json_text(result) if args.format == "json" else why_text(result))
    return status


def _fingerprint(session: Session, target: HeapTarget) -> Fingerprint | None:
    """Read the contents of a page, slab object or per-CPU allocation."""
    if target.node is None:
        return None
    kinds = np.zeros(1, np.int64)
    _, found = fingerprints(session.contents(np.array([target.node])), kinds, session.memory_at)
    return found[0] if found else None
