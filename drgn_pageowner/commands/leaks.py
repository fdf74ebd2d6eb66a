# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find allocated pages that nothing can reach, and who allocated them.

  leaks                            by allocation stack, most pages first
  leaks --all                      reachable allocations as well
  leaks --slab                     unreachable slab objects as well
  leaks --no-types                 take every word for a pointer that can be one
  leaks --suspects                 stacks that look like a leak: growing, owner gone, ...

Without page_owner, allocations are told by the pages themselves, and groups are made by allocation
tag (v6.10), or else by what is in the lost memory: addresses of symbols and objects, text, numbers.

A verdict is one of: unreachable; only reachable from unreachable; held by nothing but itself
(a ring); known only by PFN (reachable memory holds its number, but no address); reachable.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TextIO

from drgn_pageowner.analysis.leaks.leaks import (
    Leaks,
    find_leaks,
    fingerprints_of,
    leak_search,
    lost_objects,
)
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.analysis.leaks.suspects import suspects
from drgn_pageowner.commands.arguments import (
    add_limit,
    add_output,
    add_types,
    limit_of,
    report_problems,
)
from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.model.heap import LeakSearch
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.leaks import leaks_text, suspects_text

_LIMIT = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="show reachable allocations as well")
    parser.add_argument("--slab", action="store_true", help="find unreachable slab objects as well")
    parser.add_argument(
        "--suspects", action="store_true", help="show what looks like a leak, without a search"
    )
    add_types(parser)
    add_limit(parser, "groups", f"{_LIMIT}, or all in json")
    add_output(parser, "table", "json")


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    limit = limit_of(args, None if args.format == "json" else _LIMIT)
    if args.suspects:
        return _suspects(args, session, out, limit)
    found = search(session, slab=args.slab, types=not args.no_types)
    report_problems(found.inventory.problems)
    result = find_leaks(found, everything=args.all)
    if args.format == "json":
        out.writelines(json_text(_first(result, limit)))
    else:
        out.writelines(leaks_text(result, found.records.facts, limit))
    return 0


def _first(result: Leaks, limit: int | None) -> Leaks:
    """Return *result* with only the first *limit* groups of pages and of slab objects."""
    slab = result.slab[:limit] if result.slab is not None else None
    return replace(result, groups=result.groups[:limit], slab=slab)


def search(session: Session, *, slab: bool, types: bool = True) -> LeakSearch:
    """
    Search for memory that nothing reaches, or return what a saved search found.

    :param slab: Whether to search for slab objects, too.
    :param types: Whether to infer types, and take no number of what has a type for a pointer.
    """
    saved = session.saved_search(slab=slab)
    if saved is not None:
        return saved
    marked = reach(session.heap(types=types))
    lost = lost_objects(marked, session.slab_objects, session) if slab else None
    return leak_search(marked, lost, fingerprints_of(marked, session))


def _suspects(args: argparse.Namespace, session: Session, out: TextIO, limit: int | None) -> int:
    inventory = session.inventory()
    report_problems(inventory.problems)
    facts = inventory.memory.pages.facts
    if facts.page_owner in NO_RECORDS:
        raise PageOwnerError(NO_RECORDS[facts.page_owner])
    if inventory.records is None:
        raise PageOwnerError("there are no records to find suspects in")
    found = suspects(inventory)
    if args.format == "json":
        out.writelines(json_text({"suspects": found[:limit]}))
    else:
        out.writelines(suspects_text(found, facts, limit))
    return 0
