# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What changed from one dump to another: who has more memory, who has less, and how fast it goes.

  diff BEFORE AFTER                by allocation stack, most growth first
  diff BEFORE                      against the dump (or kernel) of -c, -k or --qemu
  diff BEFORE AFTER --by class     what all pages are used for
  diff BEFORE AFTER --by allocator,comm --sort change
  diff BEFORE AFTER --module nf_tables

The first line names the stack that has grown most of the memory that nothing accounts for: not
of processes, files or slabs. Of one boot, growth is also given an hour. Stacks of two boots are
matched by names and offsets, of two kernels by names. Of several -s each dump takes its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import TextIO, TypeVar

from drgn_pageowner.analysis.account.account import account
from drgn_pageowner.analysis.compare.diff import (
    SORT_KEYS,
    Change,
    Diff,
    check_sort,
    columns_for_diff,
    diff,
    diff_accounts,
)
from drgn_pageowner.analysis.compare.kinship import Relation, relate, share_names
from drgn_pageowner.analysis.owners.group import GROUP_KEYS
from drgn_pageowner.analysis.owners.select import Filter, select
from drgn_pageowner.commands.arguments import (
    add_filters,
    add_format,
    filter_of,
    listed,
    report_problems,
)
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.diff import diff_text
from drgn_pageowner.render.jsonable import json_text

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="BEFORE", help="a dump")
    parser.add_argument(
        "after", metavar="AFTER", nargs="?", help="another (default: the one of -c, -k or --qemu)"
    )
    parser.add_argument(
        "--by",
        type=listed(str),
        default=["stack"],
        metavar="LIST",
        help="group by these, comma-separated (default: stack): "
        + ", ".join(GROUP_KEYS)
        + "; or by class",
    )
    parser.add_argument(
        "--sort",
        type=listed(str),
        default=["growth"],
        metavar="LIST",
        help="sort by these (default: growth): "
        + ", ".join(SORT_KEYS)
        + ", or what is grouped by; - in front reverses (write --sort=-growth)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="show the first N changes (default: %(default)s; 0: all)",
    )
    add_format(parser, "table", "json")
    add_filters(parser)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    wanted = filter_of(args)
    _check(args, wanted)
    by_class = args.by == ["class"]
    columns = frozenset() if by_class else columns_for_diff(args.by) | wanted.columns()
    check_sort(args.sort, args.by)
    names = args.before, args.after or "the other dump"
    sessions = (
        args.open_session(args.before),
        args.open_session(args.after) if args.after is not None else session,
    )
    limit = args.limit if args.limit > 0 else None
    if by_class:
        result = _by_class(sessions, names, args.sort, limit)
    else:
        before, after, relation = _records(sessions, names, columns)
        if wanted.handle and not relation.same_boot:
            raise UsageError(f"--handle: handles are of one boot, but {relation.why}")
        result = diff(
            _named(names[0], partial(select, before, wanted)),
            _named(names[1], partial(select, after, wanted)),
            relation,
            args.by,
            sort=args.sort,
            limit=limit,
        )
    out.writelines(json_text(result) if args.format == "json" else diff_text(result))
    return 0


def compare(before: Session, after: Session) -> Diff:
    """
    What has changed by stack, all of it.

    :raises PageOwnerError: if one of them has no records
    """
    columns = columns_for_diff(["stack"])
    one, two, relation = _records((before, after), ("the earlier dump", "the dump"), columns)
    return diff(one, two, relation)


def _check(args: argparse.Namespace, wanted: Filter) -> None:
    if args.freed:
        raise UsageError("--freed: only what is allocated grows")
    if "class" not in args.by:
        return
    if len(args.by) > 1:
        raise UsageError("--by class: a page's class goes with no other key")
    if any(vars(wanted).values()):
        raise UsageError("--by class: of all pages; filters are for records")


def _named(name: str, answer: Callable[[], T]) -> T:
    """*answer*, with the dump named in what goes wrong."""
    try:
        return answer()
    except PageOwnerError as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error


def _records(
    sessions: tuple[Session, Session], names: tuple[str, str], columns: frozenset[str]
) -> tuple[Snapshot, Snapshot, Relation]:
    """The records of both, with frames that are named alike, and how they are related."""
    found = []
    for name, session in zip(names, sessions, strict=True):
        snapshot = _named(name, partial(session.snapshot, columns))
        report_problems(f"{name}: {problem}" for problem in snapshot.problems)
        found.append(snapshot)
    relation = relate(found[0], found[1])
    return *share_names(found[0], found[1], relation), relation


def _by_class(
    sessions: tuple[Session, Session], names: tuple[str, str], sort: list[str], limit: int | None
) -> Diff:
    accounts, facts = [], []
    for name, session in zip(names, sessions, strict=True):
        inventory = _named(name, session.inventory)
        report_problems(f"{name}: {problem}" for problem in inventory.problems)
        accounts.append(account(inventory))
        facts.append(inventory.memory.pages.facts)
    relation, leak = _relation_and_leak(sessions, names)
    return diff_accounts(
        (accounts[0], accounts[1]),
        (facts[0], facts[1]),
        relation,
        leak=leak,
        sort=sort,
        limit=limit,
    )


def _relation_and_leak(
    sessions: tuple[Session, Session], names: tuple[str, str]
) -> tuple[Relation, Change | None]:
    """What only records tell: nothing where one of the kernels has none."""
    try:
        before, after, relation = _records(sessions, names, columns_for_diff(["stack"]))
    except PageOwnerError as error:
        warn(f"whether both are of one boot is not known: {error}")
        return Relation(False, False, "one of them has no records", None, records=False), None
    return relation, diff(before, after, relation, limit=0).leak
