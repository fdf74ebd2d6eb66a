# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show what every page is used for: the pages of each class, next to the kernel's own counter. Every
page is in exactly one class.

  account                          the whole machine
  account --zones                  every zone as well
  account --caches                 the slab caches as well
  account --slab                   bytes of slab objects by cache and owner
"""

from __future__ import annotations

import argparse
from typing import TextIO

from drgn_pageowner.analysis.account.account import account
from drgn_pageowner.analysis.owners.slab import top_slab
from drgn_pageowner.commands.arguments import add_limit, add_output, limit_of, report_problems
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines, refuse
from drgn_pageowner.errors import NO_RECORDS
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.account import account_text
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.slab import slab_account_text

_LIMIT = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--zones", action="store_true", help="show every node and zone as well")
    parser.add_argument(
        "--caches", action="store_true", help="show the pages of every slab cache as well"
    )
    parser.add_argument(
        "--slab", action="store_true", help="show slab objects by cache and owner instead"
    )
    add_limit(parser, "groups of --slab", f"{_LIMIT}, or all in json")
    add_drgn(parser)
    add_output(parser, "table", "json")


_DRGN = """\
from drgn_pageowner import read_inventory
from drgn_pageowner.analysis.account.account import account
for row in account(read_inventory(prog)).classes:
    print(row.pages, row.bytes, row.name)
"""


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        refuse(args, {"slab": False, "zones": False, "caches": False})
        return print_lines(_DRGN, args, out)
    if args.slab:
        return _slab(args, session, out)
    inventory = session.inventory(owners=False)
    report_problems(inventory.problems)
    state = inventory.memory.pages.facts.page_owner
    if state in NO_RECORDS:
        warn(f"classes that only records tell are part of the last one: {NO_RECORDS[state]}")
    result = account(inventory)
    if args.format == "json":
        out.writelines(json_text(result))
    else:
        out.writelines(account_text(result, zones=args.zones, caches=args.caches))
    return 0


def _slab(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    owners = session.object_owners()
    report_problems(owners.problems)
    limit = limit_of(args, _LIMIT if args.format == "table" else None)
    caches = top_slab(owners, by_owner=False, limit=limit)
    by_owner = top_slab(owners)
    if args.format == "json":
        out.writelines(json_text({"caches": caches, "owners": by_owner}))
    else:
        out.writelines(slab_account_text(caches, by_owner))
    return 0
