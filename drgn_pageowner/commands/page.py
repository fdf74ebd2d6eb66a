# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Describe one page, given by PFN, physical address or virtual address.

  page pfn:0x1234                  a page frame number
  page phys:0x1234000              a physical address
  page 0xffff888001234560          a virtual address, of whatever kind: struct page, direct map,
                                   vmalloc, module, page_owner record or slab object
  page --types 0xffff888001234560  infer the type of a slab object, if its cache does not imply it
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TextIO

from drgn_pageowner.analysis.account.page_use import page_use
from drgn_pageowner.analysis.types.infer import infer_types
from drgn_pageowner.commands.arguments import add_output
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines, refuse
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.model.heap import Inventory
from drgn_pageowner.model.page import PageInfo
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.page import page_json, page_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="WHAT", help="pfn:N, phys:A, or an address")
    parser.add_argument(
        "--types",
        action="store_true",
        help="infer the type of a slab object, if its cache does not imply it",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out the class that account counts the page in, for which all pages are read",
    )
    add_drgn(parser)
    add_output(parser, "table", "json")


_DRGN = """\
from drgn.helpers.linux.mm import pfn_to_page
from drgn_pageowner import page_owner, page_owner_stack
page = pfn_to_page(prog, {pfn:#x})
print(page_owner(page))
print(page_owner_stack(page))
"""


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        refuse(args, {"types": False})
        if len(args.what) > 1:
            raise UsageError("--drgn: of one page")
        return print_lines(_DRGN.format(pfn=session.page(args.what[0]).pfn), args, out)

    @cache
    def inventory() -> Inventory:
        # A heap needs less of it, but can use it.
        return session.inventory(owners=args.types)

    if args.types and not args.quick:
        inventory()
    if args.types:
        infer_types(session.heap(types=True))
    return _describe(args, session, None if args.quick else inventory, out)


def _describe(
    args: argparse.Namespace,
    session: Session,
    inventory: Callable[[], Inventory] | None,
    out: TextIO,
) -> int:
    """
    Print the facts about each page.

    :param inventory: Function that returns all pages; ``None`` if classes are not wanted.
    """
    status, between = 0, ""
    for what in args.what:
        try:
            info = session.page(what)
        except PageOwnerError as error:
            # Continue with the other arguments.
            warn(str(error))
            status = max(status, error.exit_status)
            continue
        if inventory is not None:
            info = _with_class(info, inventory)
        if args.types:
            info = _with_type(info, session)
        if args.format == "json":
            out.writelines(page_json(info))
            continue
        out.write(between)
        out.writelines(page_text(info))
        between = "\n"
    return status


def _with_class(info: PageInfo, inventory: Callable[[], Inventory]) -> PageInfo:
    """
    Return *info* with the class of the page, and with the state corrected to agree with the class.
    If not all pages can be read, *info* is not changed.

    :param inventory: Function that returns all pages.
    """
    try:
        found = page_use(inventory(), info.pfn)
    except PageOwnerError:
        # The dump is damaged; the other facts about the page are still printed.
        return info
    if found is None:
        return info
    state = info.state
    if found.free != state.startswith("free"):
        # From its struct page alone, page_report() can recognize neither pages on per-CPU lists nor
        # pages of an allocation without __GFP_COMP other than the first.
        state = "free: on a per-CPU list" if found.free else "allocated by the kernel"
    return replace(info, use=found.name, area=found.area, state=state)


def _with_type(info: PageInfo, session: Session) -> PageInfo:
    """Return *info* with the inferred type of its slab object, if its cache does not imply a
    type."""
    slab = info.slab
    if slab is None or slab.get("type") is not None or not slab["allocated"]:
        return info
    found = session.typed_word(slab["object"] + slab["offset"])
    if found is None:
        return info
    return replace(info, slab={**slab, "expression": found[0], "type": found[1]})
