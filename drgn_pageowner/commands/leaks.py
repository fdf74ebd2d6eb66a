# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Allocated pages that nothing can reach, and who allocated them.

  leaks                            by allocation stack, most pages first
  leaks --all                      what is reachable, too
  leaks --slab                     unreachable slab objects as well
  leaks --suspects                 no proof, but it looks like a leak: growing, owner gone, ...

A verdict is one of: unreachable; only reachable from unreachable; held by nothing but itself
(a ring); known only by PFN (something that is held has its number); reachable.
"""

from __future__ import annotations

import argparse
from typing import TextIO

from drgn_pageowner.analysis.leaks.leaks import find_leaks, leak_search, lost_objects
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.analysis.leaks.suspects import suspects
from drgn_pageowner.commands.arguments import add_format, report_problems
from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.model.heap import LeakSearch
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.leaks import leaks_text, suspects_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="reachable allocations as well")
    parser.add_argument("--slab", action="store_true", help="unreachable slab objects as well")
    parser.add_argument(
        "--suspects", action="store_true", help="what looks like a leak, without a search"
    )
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N",
        help="how many groups to show as text (default: %(default)s; 0: all)",
    )  # fmt: skip
    add_format(parser, "text", "json")


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    limit = args.limit if args.limit > 0 else None
    if args.suspects:
        return _suspects(args, session, out, limit)
    found = search(session, slab=args.slab)
    report_problems(found.inventory.problems)
    result = find_leaks(found, everything=args.all)
    if args.format == "json":
        out.writelines(json_text(result))
    else:
        out.writelines(leaks_text(result, found.records.facts, limit))
    return 0


def search(session: Session, *, slab: bool) -> LeakSearch:
    """
    What nothing reaches: searched for, or what a search found that was saved.

    :param slab: Whether slab objects are wanted, too.
    """
    saved = session.saved_search(slab=slab)
    if saved is not None:
        return saved
    marked = reach(session.heap())
    return leak_search(marked, lost_objects(marked, session.slab_objects) if slab else None)


def _suspects(args: argparse.Namespace, session: Session, out: TextIO, limit: int | None) -> int:
    inventory = session.inventory()
    report_problems(inventory.problems)
    facts = inventory.memory.pages.facts
    if facts.page_owner in NO_RECORDS:
        raise PageOwnerError(NO_RECORDS[facts.page_owner])
    if inventory.records is None:
        raise PageOwnerError("without records nobody can be suspected")
    found = suspects(inventory)
    if args.format == "json":
        out.writelines(json_text({"suspects": found}))
    else:
        out.writelines(suspects_text(found, facts, limit))
    return 0
