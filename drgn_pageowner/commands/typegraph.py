# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show what types the slab objects have: bytes by C type and cache, inferred from pointers.

  typegraph                        every cache: the share with a type, and the largest types
  typegraph --by type              by type: what kmalloc-512 consists of
  typegraph --check                compare with the caches whose name implies the type

The types of variables, of slab objects with a known cache, and of members of structures imply the
types of their targets. More DWARF gives more types: pass the modules' files with -s, too.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TextIO

from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.analysis.types.shares import check_types, type_shares
from drgn_pageowner.commands.arguments import add_limit, add_output, limit_of, report_problems
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines, refuse
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.types import cache_types_text, type_groups_text

_LIMIT = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by",
        choices=("cache", "type"),
        default="cache",
        help="a row for each cache, or for each type of each cache (default: %(default)s)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="infer once more without the names of caches, and compare",
    )
    add_limit(parser, "rows", f"{_LIMIT}, or all in json")
    add_drgn(parser)
    add_output(parser, "table", "json")


_DRGN = """\
from drgn_pageowner import read_heap
from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.analysis.types.shares import type_shares
heap = read_heap(prog, types=True)
result = type_shares(heap, infer_types(heap), limit={limit})
{loop}
"""
_LOOPS = {
    "cache": """\
for one in result.caches:
    print(one.bytes, one.objects, one.typed_objects, one.cache, *one.types)""",
    "type": """\
for one in result.groups:
    print(one.bytes, one.objects, one.cache, one.type)""",
}


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        refuse(args, {"check": False})
        lines = _DRGN.format(limit=limit_of(args, _LIMIT), loop=_LOOPS[args.by])
        return print_lines(lines, args, out)
    heap = session.heap(types=True)
    report_problems(heap.inventory.problems)
    limit = limit_of(args, None if args.format == "json" else _LIMIT)
    result = type_shares(heap, infer_types(heap), limit=limit)
    if args.check:
        result = replace(result, accuracy=check_types(heap, infer_types(heap, names=False)))
    if args.format == "json":
        out.writelines(json_text(result))
    else:
        text = cache_types_text if args.by == "cache" else type_groups_text
        out.writelines(text(result))
    return 0
