# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compare two dumps: who has more memory, who has less, and how fast it grows.

  diff BEFORE AFTER                by allocation stack, most growth first
  diff BEFORE                      against the dump (or kernel) of -c, -k or --qemu
  diff BEFORE AFTER --by class     by what pages are used for
  diff BEFORE AFTER --by allocator,comm --sort change
  diff BEFORE AFTER --module nf_tables

The first line names the stack that has grown most in memory of drivers and other kernel code:
pages outside processes, files, slabs, page tables, stacks and the like. If both dumps are of one
boot, growth is also given per hour. Stacks of two boots are matched by the names and offsets of
their frames, stacks of two kernels by the names. If -s is given several times, each dump uses the
file that fits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TextIO, TypeVar

from drgn_pageowner.analysis.account.account import account
from drgn_pageowner.analysis.account.page_class import page_classes
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
from drgn_pageowner.analysis.compare.records import Compared, read_compared
from drgn_pageowner.analysis.owners.group import columns_for
from drgn_pageowner.analysis.owners.select import Filter
from drgn_pageowner.commands.arguments import (
    add_by,
    add_filters,
    add_limit,
    add_output,
    filter_of,
    limit_of,
    listed,
    report_problems,
)
from drgn_pageowner.commands.drgn_lines import add_drgn, constructor, print_lines
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.pages import Pages
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.diff import diff_text
from drgn_pageowner.render.jsonable import json_text

T = TypeVar("T")

_LIMIT = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="BEFORE", help="a dump")
    parser.add_argument(
        "after", metavar="AFTER", nargs="?", help="another dump (default: that of -c, -k or --qemu)"
    )
    add_by(parser, "; or by class")
    parser.add_argument(
        "--sort",
        type=listed(str),
        default=["growth"],
        metavar="LIST",
        help="sort by these (default: growth): "
        + ", ".join(SORT_KEYS)
        + ", or keys of --by; - in front reverses (write --sort=-growth)",
    )
    add_limit(parser, "changes", str(_LIMIT))
    add_drgn(parser)
    add_output(parser, "table", "json")
    add_filters(parser)


_DRGN = """\
from drgn_pageowner.analysis.compare.diff import diff
from drgn_pageowner.analysis.compare.kinship import relate, share_names
from drgn_pageowner.analysis.owners.select import Filter, select
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.sources import opener_beside
open_session, wanted = opener_beside(prog), {wanted}
columns = {columns}
before = open_session({before!r}).snapshot(columns)
after = {after}.snapshot(columns)
relation = relate(before, after)
before, after = share_names(before, after, relation)
before, after = select(before, wanted), select(after, wanted)
for change in diff(before, after, relation, {by}, sort={sort}, limit={limit}).changes:
    print(change.growth.pages, change.growth.bytes, change.state, change.key)
"""


_DRGN_CLASS = """\
from drgn_pageowner.analysis.account.account import account
from drgn_pageowner.analysis.compare.diff import columns_for_diff, diff_accounts
from drgn_pageowner.analysis.compare.kinship import relate
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.sources import opener_beside
open_session, columns = opener_beside(prog), columns_for_diff(["stack"])
both = [open_session({before!r}), {after}]
relation = relate(*(one.snapshot(columns) for one in both))
accounts = [account(one.inventory()) for one in both]
facts = [one.facts() for one in both]
result = diff_accounts(accounts, facts, relation, sort={sort}, limit={limit})
for change in result.changes:
    print(change.growth.pages, change.growth.bytes, change.state, change.key)
"""


def _drgn(args: argparse.Namespace, wanted: Filter, out: TextIO) -> int:
    after = "ProgramSession.of(prog)" if args.after is None else f"open_session({args.after!r})"
    limit = limit_of(args, _LIMIT)
    if args.by == ["class"]:
        lines = _DRGN_CLASS.format(before=args.before, after=after, sort=args.sort, limit=limit)
        return print_lines(lines, args, out)
    lines = _DRGN.format(
        columns=sorted(columns_for_diff(args.by) | wanted.columns()), wanted=constructor(wanted),
        before=args.before, after=after, by=args.by, sort=args.sort, limit=limit,
    )  # fmt: skip
    return print_lines(lines, args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    wanted = filter_of(args)
    _check(args, wanted)
    if args.drgn:
        return _drgn(args, wanted, out)
    by_class = args.by == ["class"]
    if not by_class:
        columns_for(args.by)
    check_sort(args.sort, args.by)
    names = args.before, args.after or "the other dump"
    sessions = (
        args.open_session(args.before),
        args.open_session(args.after) if args.after is not None else session,
    )
    limit = limit_of(args, _LIMIT)
    if by_class:
        result = _by_class(sessions, names, args.sort, limit)
    else:
        before, after, relation = _records(sessions, names, args.by, wanted)
        result = diff(before, after, relation, args.by, sort=args.sort, limit=limit)
    out.writelines(json_text(result) if args.format == "json" else diff_text(result))
    return 0


def compare(before: Session, after: Session) -> Diff:
    """
    Return all changes by stack.

    :raises PageOwnerError: if one of them has no records
    """
    names = "the earlier dump", "the dump"
    one, two, relation = _records((before, after), names, ["stack"], Filter())
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
    """Return the result of *answer*; if it raises an error, add the name of the dump to the
    message."""
    try:
        return answer()
    except PageOwnerError as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error


def _records(
    sessions: tuple[Session, Session], names: tuple[str, str], by: Sequence[str], wanted: Filter
) -> tuple[Snapshot, Snapshot, Relation]:
    """
    Read the records of both dumps, use the same symbols for both, and find out how they are
    related.

    :return: The records that *wanted* selects, or their sums, with the classes of ``account`` if
        both dumps have all pages.
    """
    classes = [_classes(session) for session in sessions]
    if None in classes:
        # The classes of one and the stacks of the other would not be comparable.
        classes = [None, None]
    found: list[Compared] = []
    for name, session, known in zip(names, sessions, classes, strict=True):
        other = found[0] if found else None
        found.append(_named(name, partial(read_compared, session, by, wanted, known, other)))
        report_problems(f"{name}: {problem}" for problem in found[-1].sums.problems)
    relation = relate(found[0].every, found[1].every, found[1].common)
    if "handle" in wanted.where and not relation.addresses:
        raise UsageError("--handle: a text has no handles of the kernel")
    if "handle" in wanted.where and not relation.same_boot:
        raise UsageError(f"--handle: handles are of one boot, but {relation.why}")
    before, after = (_named(name, one.selected) for name, one in zip(names, found, strict=True))
    return *share_names(before, after, relation), relation


def _classes(session: Session) -> tuple[Pages, Array] | None:
    """
    Return all pages without columns, and their classes; ``None`` if there are no pages, as in a
    text of page_owner.
    """
    try:
        inventory = session.inventory(owners=False)
    except PageOwnerError:
        return None
    return replace(inventory.memory.pages, columns={}), page_classes(inventory)


def _by_class(
    sessions: tuple[Session, Session], names: tuple[str, str], sort: list[str], limit: int | None
) -> Diff:
    accounts, facts = [], []
    for name, session in zip(names, sessions, strict=True):
        inventory = _named(name, partial(session.inventory, owners=False))
        report_problems(f"{name}: {problem}" for problem in inventory.problems)
        accounts.append(account(inventory))
        facts.append(inventory.memory.pages.facts)
        # The pages of one machine are enough at a time.
        del inventory
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
    """
    Return how the dumps are related, and :attr:`Diff.leak`. If one of them has no records, the
    leak is ``None``.
    """
    by = ["stack"]
    try:
        before, after, relation = _records(sessions, names, by, Filter())
    except PageOwnerError as error:
        warn(f"whether both are of one boot is not known: {error}")
        return Relation(False, False, "one of them has no records", None, records=False), None
    found = diff(before, after, relation, by, limit=0)
    return relation, found.leak
