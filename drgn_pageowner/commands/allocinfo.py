# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show allocation tags: bytes and calls of every source line that allocates memory (since v6.10).

  allocinfo                        the largest tags, and the memory found with each
  allocinfo --format text          the text of /proc/allocinfo
  allocinfo --by module,function --sort calls
  allocinfo --file 'drivers/net/*' --limit 0
  allocinfo --sort difference      where counters and memory do not agree

"found" is the memory that refers to the tag: pages, slab objects and per-CPU memory.
"""

from __future__ import annotations

import argparse
from typing import TextIO

from drgn_pageowner.analysis.owners.tags import (
    TAG_KEYS,
    TAG_SORT_KEYS,
    TagFilter,
    check_tag_keys,
    top_tags,
)
from drgn_pageowner.commands.arguments import (
    add_limit,
    add_output,
    limit_of,
    listed,
    report_problems,
)
from drgn_pageowner.commands.drgn_lines import add_drgn, constructor, print_lines
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.allocinfo import allocinfo_text, tags_csv, tags_table
from drgn_pageowner.render.jsonable import json_text

_LIMIT = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by",
        type=listed(str),
        default=["tag"],
        metavar="LIST",
        help="group by these, comma-separated (default: tag): " + ", ".join(TAG_KEYS),
    )
    parser.add_argument(
        "--sort",
        type=listed(str),
        default=["bytes"],
        metavar="LIST",
        help="sort by these (default: bytes): "
        + ", ".join(TAG_SORT_KEYS)
        + ", or keys of --by; - in front reverses (write --sort=-calls)",
    )
    add_limit(parser, "groups", f"{_LIMIT}, or all in json and csv")
    parser.add_argument("--unused", action="store_true", help="show tags without allocations, too")
    add_drgn(parser)
    add_output(parser, "table", "text", "json", "csv")
    filters = parser.add_argument_group(
        "filters", "A tag must pass all that are given. LISTs are comma-separated; * ? [] match."
    )
    for name in ("file", "module", "function"):
        filters.add_argument(
            f"--{name}",
            type=listed(str),
            action="extend",
            default=[],
            metavar="LIST",
            help=f"of these {name}s",
        )


_DRGN = """\
from drgn_pageowner.analysis.owners.tags import TagFilter, top_tags
from drgn_pageowner.kernel.session import ProgramSession
tags = ProgramSession.of(prog).tags()
wanted = {wanted}
result = top_tags(tags, {by}, sort={sort}, limit={limit}, wanted=wanted, unused={unused})
for group in result.groups:
    print(group.bytes, group.calls, group.found_bytes, group.key)
"""


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    check_tag_keys(args.by, args.sort)
    wanted = TagFilter(args.file, args.module, args.function)
    if args.drgn:
        limit = limit_of(args, _LIMIT)
        lines = _DRGN.format(
            by=args.by, sort=args.sort, limit=limit, wanted=constructor(wanted), unused=args.unused
        )
        return print_lines(lines, args, out)
    use = session.tags()
    report_problems(use.problems)
    if args.format == "text":
        out.writelines(allocinfo_text(use.tags))
        return 0
    result = top_tags(
        use,
        args.by,
        sort=args.sort,
        limit=limit_of(args, _LIMIT if args.format == "table" else None),
        wanted=wanted,
        unused=args.unused,
    )
    renderers = {"table": tags_table, "json": json_text, "csv": tags_csv}
    out.writelines(renderers[args.format](result))
    return 0
