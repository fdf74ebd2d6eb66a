# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show who owns the memory: records in groups, largest first.

  top                              by allocation stack
  top --by allocator               by the function that asked for the memory
  top --by comm,order --sort allocations
  top --by process                 each process with all its threads, in all classes of memory
  top --by driver                  each module, in all classes of memory
  top --module nf_tables --min-age 1h
  top --module nf_tables --drgn    the lines that print this in drgn's shell
  top --slab                       slab objects by cache and owner
  top --slab --by type             slab objects by cache and C type, inferred from pointers
  top --format folded | flamegraph.pl > owners.svg
  top --format pprof -o owners.pb.gz --by stack,comm

folded, speedscope and pprof are for programs that draw stacks: they have every stack unless --limit
is given, because a stack that is left out would be missing from every sum.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TextIO

from drgn_pageowner.analysis.account.holders import HOLDERS, columns_for_holders, holders
from drgn_pageowner.analysis.account.page_class import page_classes
from drgn_pageowner.analysis.owners.group import SORT_KEYS, columns_for, top
from drgn_pageowner.analysis.owners.select import Filter, absent, select
from drgn_pageowner.analysis.owners.slab import top_slab
from drgn_pageowner.analysis.owners.sums import read_sums, summed_by
from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.analysis.types.shares import type_shares
from drgn_pageowner.commands.arguments import (
    add_by,
    add_filters,
    add_least,
    add_limit,
    add_output,
    count,
    filter_of,
    least_pages,
    limit_of,
    report_problems,
    sort_keys,
)
from drgn_pageowner.commands.drgn_lines import add_drgn, constructor, print_lines
from drgn_pageowner.commands.output import write_bytes
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.kept import kept_as
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.holders import holders_csv, holders_table
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.pprof import pprof
from drgn_pageowner.render.slab import slab_csv, slab_table
from drgn_pageowner.render.stacks import WEIGHTS, folded, speedscope
from drgn_pageowner.render.top import top_csv, top_json, top_table
from drgn_pageowner.render.types import type_groups_csv, type_groups_text

_LIMIT = 20
# Keys whose values are not the same in all parts of the records, or need the time of the dump.
_NOT_IN_PARTS = frozenset(("tag", "age"))
# Columns whose values the sums of several records do not have.
_OF_ONE_RECORD = frozenset(("tag", "pfn", "ts_nsec"))
_RENDERERS = {"table": top_table, "json": top_json, "csv": top_csv}
_SLAB_RENDERERS = {"table": slab_table, "json": json_text, "csv": slab_csv}
_TYPE_RENDERERS = {"table": type_groups_text, "json": json_text, "csv": type_groups_csv}
# Formats for programs that draw stacks.
_EXPORTS = {"folded": folded, "speedscope": speedscope}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_by(parser, "; or by process, or by driver")
    parser.add_argument(
        "--sort",
        type=sort_keys,
        default=["pages"],
        metavar="LIST",
        help="sort by these (default: pages): "
        + ", ".join(SORT_KEYS)
        + ", or keys of --by; - in front reverses (write --sort=-pid)",
    )
    add_limit(parser, "groups", f"{_LIMIT}, or all in folded, speedscope and pprof")
    parser.add_argument(
        "--depth", type=count, metavar="N", help="compare only the first N frames of a stack"
    )
    parser.add_argument(
        "--skip",
        type=count,
        default=0,
        metavar="N",
        help="leave out the innermost N frames of every stack",
    )
    add_least(parser, "groups")
    parser.add_argument(
        "--source", action="store_true", help="show inlined functions and source lines"
    )
    add_output(parser, *_RENDERERS, *_EXPORTS, "pprof")
    parser.add_argument(
        "--weight",
        choices=WEIGHTS,
        default="pages",
        help="weight of a stack in folded, speedscope and pprof (default: %(default)s)",
    )
    parser.add_argument(
        "--slab",
        action="store_true",
        help="show the owners of slab objects instead, by cache and owner, or by cache and C type "
        "with --by type (table, json, csv)",
    )
    add_drgn(parser)
    add_filters(parser)


_DRGN = """\
from drgn_pageowner import snapshot
from drgn_pageowner.analysis.owners.group import top
from drgn_pageowner.analysis.owners.select import Filter, select
wanted = {wanted}
records = select(snapshot(prog, columns={columns}{freed}), wanted)
for group in top(records, {by}, sort={sort}, limit={limit}).groups:
    print(group.pages, group.bytes, group.key)
"""
"""The lines of ``--drgn``."""


_DRGN_SLAB = """\
from drgn_pageowner.analysis.owners.slab import top_slab
from drgn_pageowner.kernel.session import ProgramSession
for group in top_slab(ProgramSession.of(prog).object_owners(), limit={limit}).groups:
    print(group.objects, group.bytes, group.cache, group.owner)
"""
_DRGN_HOLDERS = """\
from drgn_pageowner import read_inventory, snapshot
from drgn_pageowner.analysis.account.holders import holders
from drgn_pageowner.analysis.account.page_class import page_classes
from drgn_pageowner.analysis.owners.select import Filter, select
wanted = {wanted}
inventory = read_inventory(prog)
records = select(snapshot(prog, columns={columns}), wanted)
result = holders(records, inventory, page_classes(inventory), {by!r}, limit={limit})
for holder in result.holders:
    print(holder.pages, holder.bytes, holder.name)
"""


def _drgn(args: argparse.Namespace, out: TextIO) -> int:
    """
    Print the Python lines that compute the same result in drgn's shell.

    :return: Exit status.
    :raises UsageError: if the options have no equivalent in these lines
    """
    least = any(getattr(args, name, None) for name in ("min_pages", "min_size"))
    if args.skip or args.depth is not None or least or (args.slab and args.by != ["stack"]):
        raise UsageError("--drgn: only for records, with --by, --sort, --limit and filters")
    wanted = filter_of(args)
    if args.slab:
        return print_lines(_DRGN_SLAB.format(limit=limit_of(args, _LIMIT)), args, out)
    if set(args.by) & set(HOLDERS):
        by = args.by[0]
        columns = sorted(columns_for_holders(by) | wanted.columns())
        lines = _DRGN_HOLDERS.format(
            wanted=constructor(wanted), columns=columns, by=by, limit=limit_of(args, _LIMIT)
        )
        return print_lines(lines, args, out)
    lines = _DRGN.format(
        wanted=constructor(wanted),
        columns=sorted(columns_for(args.by) | wanted.columns()),
        freed=", freed=True" * args.freed,
        by=args.by,
        sort=args.sort,
        limit=limit_of(args, _LIMIT),
    )
    return print_lines(lines, args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        return _drgn(args, out)
    if args.slab:
        return _slab(args, session, out)
    if any(key in HOLDERS for key in args.by):
        return _holders(args, session, out)
    exported = args.format not in _RENDERERS
    if exported and "stack" not in args.by:
        raise UsageError(f"{args.format} is made of stacks: --by must have stack in it")
    wanted = filter_of(args)
    columns = columns_for(args.by) | wanted.columns()
    if (
        _NOT_IN_PARTS & set(args.by)
        or _OF_ONE_RECORD & wanted.columns()
        or (wanted.columns() and args.freed)
    ):
        snapshot = session.snapshot(columns, freed=args.freed)
        chosen = summed_by(snapshot, args.by, wanted, columns_for(args.by))
    else:
        snapshot = kept_as(
            ("records of top", id(session), tuple(sorted(columns)), args.freed),
            session,
            lambda: read_sums(session, Filter(freed=args.freed), columns),
        )
        chosen = select(snapshot, wanted)
    report_problems(snapshot.problems)
    report_problems(absent(snapshot, wanted, chosen))
    result = top(
        chosen,
        args.by,
        sort=args.sort,
        limit=limit_of(args, None if exported else _LIMIT),
        depth=args.depth,
        skip=args.skip,
        min_pages=least_pages(args, snapshot.facts.page_size),
    )
    if args.source:
        session.add_source_lines(
            snapshot, [frame.pc for group in result.groups for frame in group.stack]
        )
    if args.format == "pprof":
        write_bytes(pprof(result, snapshot, args.weight), out)
    elif exported:
        out.writelines(_EXPORTS[args.format](result, snapshot, args.weight))
    else:
        out.writelines(_RENDERERS[args.format](result, snapshot))
    return 0


def _holders(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    by = args.by[0]
    if len(args.by) > 1:
        raise UsageError(f"--by {by}: goes with no other key; try --by tgid or --by module")
    if args.format not in _RENDERERS:
        raise UsageError(f"--by {by} has no stacks to draw: {', '.join(_RENDERERS)}")
    if args.freed or args.sort != ["pages"] or args.depth is not None or args.skip:
        raise UsageError(f"--by {by}: of allocated pages, most first: no --sort, --freed, --depth")
    wanted = filter_of(args)
    try:
        inventory = session.inventory(owners=False)
    except PageOwnerError as error:
        # The session has no pages: it is a text of page_owner, for example.
        inventory = None
        warn(f"what the pages are used for is not known: {error}")
    classes = None if inventory is None else page_classes(inventory)
    columns = columns_for_holders(by) | wanted.columns()
    # The records of an inventory have no memory cgroups, so read the records again.
    limit = limit_of(args, _LIMIT if args.format == "table" else None)
    last: list[Snapshot] = []
    if inventory is None or session.is_live() or _OF_ONE_RECORD & wanted.columns():
        last.append(session.snapshot(columns))
        report_problems(last[0].problems)
        chosen = select(last[0], wanted)
        report_problems(absent(last[0], wanted, chosen))
        result = holders(chosen, inventory, classes, by, limit=limit)
    else:
        inventory = _with_states(inventory)
        parts = session.record_parts(columns)
        try:
            selected = _selected(parts, wanted, last)
            result = holders(selected, inventory, classes, by, limit=limit)
        except UsageError:
            # The problems are known when all parts were read.
            for part in parts:
                last[:] = [part]
            report_problems(last[0].problems)
            raise
        report_problems(last[0].problems)
        if wanted.columns():
            values = read_sums(session, Filter(), wanted.columns())
            report_problems(absent(values, wanted, select(values, wanted)))
    size = last[0].facts.page_size
    if args.format == "json":
        out.writelines(json_text(result))
    else:
        out.writelines((holders_csv if args.format == "csv" else holders_table)(result, size))
    return 0


def _selected(
    parts: Iterable[Snapshot], wanted: Filter, last: list[Snapshot]
) -> Iterator[Snapshot]:
    """
    Yield the records of each of *parts* that *wanted* selects.

    :param last: Its only element becomes the part whose records were yielded.
    """
    for part in parts:
        last[:] = [part]
        yield select(part, wanted)


def _with_states(inventory: Inventory) -> Inventory:
    """Return *inventory* without the columns that are only needed to find classes of pages."""
    memory, records = inventory.memory, inventory.records
    pages = replace(memory.pages, columns={"state": memory.pages.state})
    number = {"allocated": records["allocated"]} if records is not None else {}
    return replace(
        inventory,
        memory=replace(memory, pages=pages),
        records=replace(records, columns=number) if records is not None else None,
    )


def _slab(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.format not in _SLAB_RENDERERS:
        raise UsageError(f"--slab has no stacks to draw: {', '.join(_SLAB_RENDERERS)}")
    by_type = args.by == ["type"]
    if any(vars(filter_of(args)).values()) or not (by_type or args.by == ["stack"]):
        raise UsageError(
            "--slab groups by cache and owner, or --by type; other keys and filters are for records"
        )
    limit = limit_of(args, _LIMIT if args.format == "table" else None)
    if by_type:
        heap = session.heap(types=True)
        report_problems(heap.inventory.problems)
        shares = type_shares(heap, infer_types(heap), limit=limit)
        out.writelines(_TYPE_RENDERERS[args.format](shares))
        return 0
    owners = session.object_owners()
    report_problems(owners.problems)
    result = top_slab(owners, limit=limit)
    out.writelines(_SLAB_RENDERERS[args.format](result))
    return 0
