# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Explain fragmentation: who pollutes which pageblocks, and what blocks a huge page or a CMA range.

  frag                             every zone, with a verdict
  frag buddyinfo | pagetypeinfo | extfrag
                                   the kernel's own files of these names; tables if the
                                   terminal is too narrow for them
  frag contiguity                  blocks of every size: free, movable, blocked, by whom
  frag culprits --sort only        stacks by the pageblocks that they block
  frag --explain 153               one pageblock, page by page (or --explain pfn:0x13200)
  frag why --order 9 --gfp GFP_HIGHUSER_MOVABLE
                                   would this allocation succeed, and if not, why
  frag cma                         CMA areas, and the pages that cannot be migrated out
  frag map                         a cell for every pageblock
  frag all --format json           every view; the memory is read once
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TextIO

from drgn_pageowner.analysis.frag.alloc_check import alloc_check
from drgn_pageowner.analysis.frag.blockmap import block_map
from drgn_pageowner.analysis.frag.blocks import block_table, explain_block
from drgn_pageowner.analysis.frag.buddy import fragmentation_index, page_type_info, unusable_index
from drgn_pageowner.analysis.frag.cma import cma_report
from drgn_pageowner.analysis.frag.contiguity import contiguity
from drgn_pageowner.analysis.frag.culprits import culprits
from drgn_pageowner.analysis.frag.mobility import Overlay, overlay
from drgn_pageowner.analysis.frag.zone_summary import zone_summaries
from drgn_pageowner.commands.arguments import (
    add_limit,
    add_output,
    integer,
    limit_of,
    listed,
    report_problems,
)
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines
from drgn_pageowner.commands.output import escaping, unescaped
from drgn_pageowner.errors import NO_RECORDS, PageOwnerError, UsageError
from drgn_pageowner.model.kept import keeping_results, keeps_results
from drgn_pageowner.model.pages import Memory
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.blockmap import map_text
from drgn_pageowner.render.frag import (
    alloc_check_text,
    cma_text,
    contiguity_text,
    culprits_text,
    explain_text,
    summary_text,
)
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.terminal import wants_colour
from drgn_pageowner.render.vmstat import (
    buddyinfo_text,
    extfrag_text,
    fitted,
    pagetypeinfo_text,
    unusable_text,
)

# Views that print in the format of a file of the kernel.
_OF_THE_KERNEL = ("buddyinfo", "pagetypeinfo", "extfrag")
_LIMIT = 20
_MAP_CELLS = 64 * 64
# Number of PFNs from which on a machine is large.
_LARGE = 1 << 21

Answer = tuple[Any, Iterable[str]]
"""A result as an object for JSON, and as lines of text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "view", nargs="*", metavar="VIEW",
        help="one or several of " + ", ".join(VIEWS) + ", or all (default: summary)",
    )  # fmt: skip
    parser.add_argument("--explain", metavar="BLOCK|pfn:N", help="one pageblock, page by page")
    add_drgn(parser)
    add_output(parser, "table", "json")
    add_limit(parser, "culprits, allocators or blocks", str(_LIMIT))
    parser.add_argument(
        "--sort", choices=("blocks", "only", "pages"), default="blocks",
        help="culprits: by pageblocks touched, blocked alone, or pages (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--by", choices=("stack", "allocator", "tag"), default="stack",
        help="culprits: one for each stack, function or allocation tag (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--stacks", action="store_true", help="culprits: whole stacks")
    why = parser.add_argument_group("why")
    why.add_argument("--order", type=integer, metavar="N", help="order of the allocation")
    why.add_argument(
        "--gfp", type=listed(str), default=["GFP_KERNEL"], metavar="FLAGS",
        help="its gfp flags: comma-separated, or with | (default: GFP_KERNEL)",
    )  # fmt: skip
    why.add_argument("--node", type=integer, metavar="N", help="its preferred node")


_DRGN = """\
from drgn_pageowner import read_memory, snapshot
from drgn_pageowner.analysis.frag.mobility import overlay
{imports}
memory = read_memory(prog, columns={columns})
records = snapshot(prog, columns=["handle", "migratetype", "ts_nsec", "last_migrate_reason"])
joined = overlay(memory, records)
{loop}
"""
_BLOCKS = "from drgn_pageowner.analysis.frag.blocks import block_table"
_VIEW_LINES = {
    "summary": (
        f"{_BLOCKS}\nfrom drgn_pageowner.analysis.frag.zone_summary import zone_summaries",
        """\
for zone in zone_summaries(joined, block_table(joined)):
    print(zone.node, zone.zone, zone.free, zone.largest_free_run, zone.polluted, zone.verdict)""",
    ),
    "contiguity": (
        f"{_BLOCKS}\nfrom drgn_pageowner.analysis.frag.contiguity import contiguity",
        """\
for size in contiguity(joined, block_table(joined)).sizes:
    print(size.order, size.node, size.zone, size.blocks, size.free, size.movable, size.blocked)""",
    ),
    "culprits": (
        "from drgn_pageowner.analysis.frag.culprits import culprits",
        """\
for one in culprits(joined, by={by!r}, sort={sort!r}, limit={limit}).blocking:
    print(one.blocks, one.only_blocker, one.pages, one.allocator)""",
    ),
    "cma": (
        "from drgn_pageowner.analysis.frag.cma import cma_report",
        """\
for area in cma_report(joined):
    print(area.name, area.pages, area.allocated, area.longest_allocatable_run, len(area.stuck))""",
    ),
    "why": (
        "from drgn_pageowner.analysis.frag.alloc_check import alloc_check",
        """\
check = alloc_check(joined, {order}, {gfp}, {node})
print(check.verdict)
for zone in check.zones:
    print(zone.node, zone.zone, zone.free, zone.usable, zone.verdict)""",
    ),
}
"""Name of a view -> two parts of the lines that ``--drgn`` prints: imports, and the loop."""


def _drgn(args: argparse.Namespace, out: TextIO) -> int:
    """
    Print the Python lines that compute the same view in drgn's shell.

    :return: Exit status.
    :raises UsageError: if there are no such lines for the options
    """
    views = args.view or ["summary"]
    _check_views([view for view in views if view != "all"])
    if len(views) > 1 or views[0] not in _VIEW_LINES or args.explain is not None:
        raise UsageError(f"--drgn: only for one of these views: {', '.join(_VIEW_LINES)}")
    if args.by == "tag" or (views == ["why"] and args.order is None):
        raise UsageError("--drgn: not by tag, and why needs --order")
    imports, loop = _VIEW_LINES[views[0]]
    lines = _DRGN.format(
        imports=imports,
        columns=["flags", "refcount", "mapcount", "head"] if views == ["cma"] else [],
        loop=loop.format(
            by=args.by, sort=args.sort, limit=limit_of(args, _LIMIT), order=args.order,
            gfp=_flags(args), node=args.node,
        ),
    )  # fmt: skip
    return print_lines(lines, args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        return _drgn(args, out)
    views = args.view or (["summary"] if args.explain is None else [])
    if "all" in views:
        views = [view for view in VIEWS if view != "why" or args.order is not None]
    _check_views(views)
    joined = _read(session, views, args.explain is not None, args.by)
    report_problems(joined.memory.problems)
    colour = wants_colour(getattr(args, "color", "auto"), out)
    with keeping_results():
        answers = {view: VIEWS[view](joined, args, colour) for view in views}
    if args.explain is not None:
        answers["explain"] = _explain(joined, args, colour)
    if args.format == "json":
        results = {view: result for view, (result, _) in answers.items()}
        whole = results if len(results) > 1 else next(iter(results.values()))
        out.writelines(json_text(whole))
        return 0
    for view, (_, text) in answers.items():
        if len(answers) > 1:
            out.write(f"=== {view} ===\n")
        if view == "map":
            # The colours of the map are escape sequences, which must not be escaped.
            unescaped(out).writelines(text)
        elif view in _OF_THE_KERNEL and len(answers) == 1 and not out.isatty():
            # Programs read the format of the kernel's own files, so lines are not wrapped.
            escaping(out).writelines(text)
        else:
            out.writelines(fitted(text) if view in _OF_THE_KERNEL else text)
        if len(answers) > 1:
            out.write("\n")
    return 0


def _check_views(views: Sequence[str]) -> None:
    """:raises UsageError: if there is no such view"""
    for view in views:
        if view not in VIEWS:
            raise UsageError(f"no view {view!r}: known are {', '.join(VIEWS)} and all")


def _read(session: Session, views: list[str], explain: bool, by: str = "stack") -> Overlay:
    memory = _memory(session, "cma" in views)
    if not explain and not keeps_results():
        # Only a pageblock that is explained needs them, and on a large machine, each column counts.
        columns = {name: c for name, c in memory.pages.columns.items() if name != "free_order"}
        memory = replace(memory, pages=replace(memory.pages, columns=columns))
    if not explain and set(views) <= {"buddyinfo", "extfrag"}:
        return overlay(memory, None)
    state = memory.pages.facts.page_owner
    if by == "tag":
        records = session.snapshot(["handle", "migratetype", "ts_nsec", "tag"]).by_tag()
        report_problems(records.problems)
        return overlay(memory, records)
    if state in NO_RECORDS:
        warn(f"no page_owner records, so owners cannot be named: {NO_RECORDS[state]}")
        return overlay(memory, None)
    wanted = ["handle", "migratetype", "ts_nsec"]
    # Only pages that cannot leave a CMA area are asked for it.
    wanted += ["last_migrate_reason"] if memory.cma else []
    if explain:
        wanted += ["order", "comm", "pid"]
    try:
        records, covering = session.covering_records(memory, wanted)
    except PageOwnerError as error:
        warn(f"no page_owner records, so owners cannot be named: {error}")
        return overlay(memory, None)
    report_problems(records.problems)
    return overlay(memory, records, covering)


def _memory(session: Session, cma: bool) -> Memory:
    """
    Read all pages.

    :param cma: Whether to read the columns that say why a page cannot leave a CMA area. On a large
        machine, they are not read before it is known that there is such an area.
    """
    columns = ("flags", "refcount", "mapcount", "head")
    if not cma or session.facts().max_pfn < _LARGE:
        return session.memory(columns if cma else ())
    memory = session.memory(())
    return session.memory(columns) if memory.cma else memory


def _at_most(args: argparse.Namespace) -> int:
    return limit_of(args, _LIMIT) or sys.maxsize


def _summary(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    zones = zone_summaries(joined, block_table(joined))
    return {"zones": zones}, summary_text(zones, joined.memory.pages.facts)


def _zones(joined: Overlay) -> list[tuple[int, dict[str, Any]]]:
    """Return the populated zones: their numbers, and the members that name them in JSON."""
    facts = joined.memory.pages.facts
    return [
        (number, {"node": zone.node, "zone": zone.name})
        for number, zone in enumerate(facts.zones)
        if joined.memory.zones[number].populated
    ]


def _buddyinfo(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    memory = joined.memory
    zones = [{**name, "free_blocks": memory.zones[n].nr_free} for n, name in _zones(joined)]
    return {"zones": zones}, buddyinfo_text(memory)


def _pagetypeinfo(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    info, types = page_type_info(joined), joined.memory.pages.names.migratetypes

    def named(counts: Any) -> dict[str, Any]:
        return dict(zip(types, counts.tolist(), strict=True))

    zones = [
        {
            **name,
            "free_blocks": named(info.free[number]),
            "pageblocks": named(info.blocks[number]),
            "mixed": named(info.mixed[number]) if info.mixed is not None else None,
        }
        for number, name in _zones(joined)
    ]
    return {"zones": zones}, pagetypeinfo_text(joined.memory, info)


def _extfrag(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    memory = joined.memory
    zones = []
    for number, name in _zones(joined):
        counts = memory.zones[number].nr_free
        orders = range(len(counts))
        zones.append(
            {
                **name,
                "extfrag_index": [fragmentation_index(counts, order) for order in orders],
                "unusable_index": [unusable_index(counts, order) for order in orders],
            }
        )

    def text() -> Iterator[str]:
        yield "==> extfrag_index <==\n"
        yield from extfrag_text(memory)
        yield "\n==> unusable_index <==\n"
        yield from unusable_text(memory)

    return {"zones": zones}, text()


def _contiguity(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    result = contiguity(joined, block_table(joined), limit=_at_most(args))
    return result, contiguity_text(result, joined.memory.pages.facts)


def _culprits(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    result = culprits(joined, by=args.by, sort=args.sort, limit=limit_of(args, _LIMIT))
    facts = joined.records.facts if joined.records is not None else joined.memory.pages.facts
    return result, culprits_text(result, facts, stacks=args.stacks)


def _flags(args: argparse.Namespace) -> list[str]:
    return [flag for part in args.gfp for flag in re.split(r"[|]", part) if flag]


def _why(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    if args.order is None:
        raise UsageError("frag why needs --order: 2^order pages are asked for")
    check = alloc_check(joined, args.order, _flags(args), args.node, limit=_at_most(args))
    return check, alloc_check_text(check, joined.memory.pages.names)


def _cma(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    reports = cma_report(joined)
    return {"areas": reports}, cma_text(reports, joined.memory.pages.names)


def _map(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    facts, names = joined.memory.pages.facts, joined.memory.pages.names
    maps = block_map(facts, list(names.migratetypes), block_table(joined), _MAP_CELLS)
    return {"zones": maps}, map_text(maps, colour=colour)


def _explain(joined: Overlay, args: argparse.Namespace, colour: bool) -> Answer:
    facts = joined.memory.pages.facts
    prefix, _, number = args.explain.rpartition(":")
    try:
        value = integer(number)
    except argparse.ArgumentTypeError:
        value = -1
    if value < 0 or prefix not in ("", "pfn"):
        raise UsageError(f"{args.explain!r} is not a pageblock: give its number, or pfn:N")
    block = value >> facts.pageblock_order if prefix else value
    if block > (facts.max_pfn - 1) >> facts.pageblock_order:
        raise PageOwnerError(
            f"{args.explain}: beyond memory, whose last pageblock is "
            f"{(facts.max_pfn - 1) >> facts.pageblock_order}"
        )
    runs = explain_block(joined, block)
    shown = joined.records.facts if joined.records is not None else facts
    return {"pageblock": block, "runs": runs}, explain_text(block, runs, shown)


VIEWS: dict[str, Callable[[Overlay, argparse.Namespace, bool], Answer]] = {
    "summary": _summary,
    "buddyinfo": _buddyinfo,
    "pagetypeinfo": _pagetypeinfo,
    "extfrag": _extfrag,
    "contiguity": _contiguity,
    "culprits": _culprits,
    "why": _why,
    "cma": _cma,
    "map": _map,
}
