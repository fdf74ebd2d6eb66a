# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find allocated pages that nothing can reach, and who allocated them.

  leaks                            one line per owner, most lost memory first
  leaks 1 2                        the first two in full: stacks, tasks, PFNs (--stacks: all)
  leaks --by module                also stack, allocator, task or tag
  leaks --confidence high --module e1000e --min-size 1M
  leaks --all                      reachable allocations as well
  leaks --slab                     unreachable slab objects as well
  leaks --no-types                 treat every word that may be a pointer as one
  leaks --suspects                 stacks that look like a leak: growing, owner gone, ...

Without page_owner, allocations are found from the struct pages, and grouped by allocation tag
(since v6.10) or by the contents of the lost memory: addresses of symbols and objects, text,
numbers.

A verdict is one of: unreachable; only reachable from unreachable (in the table: behind
unreachable); held by nothing but itself (ring); known only by PFN (PFN only: reachable memory
contains the page's number, but not its address); reachable. "+1" means that the owner's groups have
one more verdict.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TextIO

from drgn_pageowner.analysis.leaks.leaks import (
    Leaks,
    find_leaks,
    fingerprints_of,
    leak_search,
    lost_objects,
)
from drgn_pageowner.analysis.leaks.owners import (
    CONFIDENCES,
    LEAK_KEYS,
    LeakFilter,
    LeakOwner,
    leak_owners,
)
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.analysis.leaks.suspects import suspects
from drgn_pageowner.commands.arguments import (
    add_least,
    add_limit,
    add_output,
    add_types,
    duration,
    integer,
    least_pages,
    limit_of,
    listed,
    refuse_option,
    report_problems,
)
from drgn_pageowner.commands.drgn_lines import add_drgn, constructor, print_lines, refuse
from drgn_pageowner.errors import NO_RECORDS, PageOwnerError, UsageError
from drgn_pageowner.model.heap import LeakSearch
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.leaks import leaks_text, suspects_text

_LIMIT = 20
# Other words for keys that people look for.
_KEYS = {"function": "allocator", "func": "allocator", "comm": "task", "process": "task",
         "driver": "module", "stacktrace": "stack"}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="show reachable allocations as well")
    parser.add_argument("--slab", action="store_true", help="find unreachable slab objects as well")
    parser.add_argument(
        "--suspects", action="store_true",
        help="show stacks that look like a leak, without a search",
    )  # fmt: skip
    parser.add_argument(
        "group",
        nargs="*",
        metavar="N",
        help="describe these lines of the table, or the owners with this in their name, in full",
    )
    parser.add_argument(
        "--by",
        type=lambda text: _KEYS.get(text, text),
        choices=tuple(LEAK_KEYS),
        default="allocator",
        help="what to sum up by (default: %(default)s; the groups of json are by stack)",
    )
    parser.add_argument("--stacks", action="store_true", help="describe every owner in full")
    chosen = parser.add_argument_group("filters", "LISTs are comma-separated.")

    def add_list(option: str, convert: Callable[[str], object], help_: str) -> None:
        chosen.add_argument(
            option, type=convert, metavar="LIST", help=help_, action="extend", default=[]
        )

    names = listed(str)
    add_list("--module", names, "with a frame in one of these modules (* ? [] match)")
    add_list("--comm", names, "allocated by tasks of these names (* ? [] match)")
    add_list("--pid", listed(integer), "allocated by these tasks")
    chosen.add_argument(
        "--stack-contains", metavar="FUNC", action="append", default=[],
        help="with this in the name of a function in the stack; repeated: with all of them",
    )  # fmt: skip
    add_list("--confidence", listed(_confidence), f"of {', '.join(CONFIDENCES)}")
    chosen.add_argument("--min-age", type=duration, metavar="TIME", help="all at least this old")
    chosen.add_argument("--max-age", type=duration, metavar="TIME", help="all at most this old")
    add_least(chosen, "owners")
    add_types(parser)
    refuse_option(parser, "--sort", "leaks are always sorted by pages")
    add_limit(parser, "owners", f"{_LIMIT}, or all groups in json")
    add_drgn(parser)
    add_output(parser, "table", "json")


_DRGN = """\
from drgn_pageowner import read_heap
from drgn_pageowner.analysis.leaks.leaks import find_leaks, leak_search
from drgn_pageowner.analysis.leaks.owners import LeakFilter, leak_owners
from drgn_pageowner.analysis.leaks.reach import reach
found = leak_search(reach(read_heap(prog, types={types})))
result = find_leaks(found, everything={everything})
wanted = {wanted}
groups = [group for group in result.groups if wanted.takes(group, result.now_ns)]
for owner in leak_owners(groups, {by!r})[:{limit}]:
    print(owner.pages, owner.allocations, owner.verdict, owner.confidence, owner.owner)
"""
_DRGN_SUSPECTS = """\
from drgn_pageowner import read_inventory
from drgn_pageowner.analysis.leaks.suspects import suspects
for suspect in suspects(read_inventory(prog))[:{limit}]:
    print(suspect.pages, suspect.allocations, suspect.allocator, "; ".join(suspect.reasons))
"""


def _drgn(args: argparse.Namespace, out: TextIO) -> int:
    refuse(args, {"slab": False, "stacks": False, "group": [], "min-pages": 0, "min-size": 0})
    limit = limit_of(args, _LIMIT)
    if args.suspects:
        return print_lines(_DRGN_SUSPECTS.format(limit=limit), args, out)
    lines = _DRGN.format(
        types=not args.no_types,
        everything=args.all,
        wanted=constructor(_wanted(args)),
        by=args.by,
        limit=limit,
    )
    return print_lines(lines, args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        return _drgn(args, out)
    limit = limit_of(args, None if args.format == "json" else _LIMIT)
    if args.suspects:
        return _suspects(args, session, out, limit)
    found = search(session, slab=args.slab, types=not args.no_types)
    report_problems(found.inventory.problems)
    if args.no_types and found.evidence is not None and found.evidence.any():
        warn("this snapshot's search inferred types: only the dump can be searched without them")
    result = find_leaks(found, everything=args.all)
    facts = found.records.facts
    wanted = _wanted(args)
    groups = [group for group in result.groups if wanted.takes(group, result.now_ns)]
    owners = leak_owners(groups, args.by, min_pages=least_pages(args, facts.page_size))
    if args.format == "json":
        members = {id(group) for owner in owners for group in owner.groups}
        chosen = replace(result, groups=[group for group in groups if id(group) in members])
        out.writelines(json_text(_first(chosen, limit)))
        return 0
    stacks = args.stacks
    if args.group:
        owners, stacks = _named(owners, args.group), True
        result = replace(result, slab=None)
    out.writelines(leaks_text(result, owners, facts, limit, stacks=stacks, by=args.by))
    return 0


def _wanted(args: argparse.Namespace) -> LeakFilter:
    return LeakFilter(
        module=args.module,
        comm=args.comm,
        pid=args.pid,
        stack_contains=args.stack_contains,
        confidence=args.confidence,
        min_age_ns=args.min_age,
        max_age_ns=args.max_age,
    )


def _confidence(text: str) -> str:
    if text.lower() not in CONFIDENCES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(CONFIDENCES)}")
    return text.lower()


def _named(owners: Sequence[LeakOwner], names: Sequence[str]) -> list[LeakOwner]:
    """
    Return the owners that the user selected.

    :param names: Number of a line in the table, or part of an owner's name.
    :raises UsageError: if a name matches no owner
    """
    found: list[LeakOwner] = []
    for name in names:
        if name.isdecimal():
            some = list(owners[int(name) - 1 : int(name)]) if int(name) else []
        else:
            some = [owner for owner in owners if name in owner.owner]
        if not some:
            near = difflib.get_close_matches(name, [owner.owner for owner in owners], 3, 0.4)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise UsageError(f"no owner {name!r}: there are {len(owners)} of leaks{hint}")
        found += [owner for owner in some if owner not in found]
    return found


def _first(result: Leaks, limit: int | None) -> Leaks:
    """Return *result* with only the first *limit* groups of pages and of slab objects."""
    slab = result.slab[:limit] if result.slab is not None else None
    return replace(result, groups=result.groups[:limit], slab=slab)


def search(session: Session, *, slab: bool, types: bool = True) -> LeakSearch:
    """
    Search for memory that nothing reaches, or return the result of a saved search.

    :param slab: Whether to search for slab objects, too.
    :param types: Whether to infer types, so that numbers in objects of a known type are not taken
        for pointers.
    """
    return _search(session, slab, types)


@kept
def _search(session: Session, slab: bool, types: bool) -> LeakSearch:
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
        out.writelines(suspects_text(found, facts, limit, stacks=args.stacks))
    return 0
