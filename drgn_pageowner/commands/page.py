# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Describe one page, however it is named.

  page pfn:0x1234                  a page frame number
  page phys:0x1234000              a physical address
  page 0xffff888001234560          a virtual address, of whatever kind: struct page, direct map,
                                   vmalloc, module, page_owner record or slab object
"""

from __future__ import annotations

import argparse
from typing import TextIO

from drgn_pageowner.commands.arguments import add_output
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.page import page_json, page_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="WHAT", help="pfn:N, phys:A, or an address")
    add_output(parser, "table", "json")


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    status = 0
    for what in args.what:
        try:
            info = session.page(what)
        except PageOwnerError as error:
            # Continue with the rest.
            warn(str(error))
            status = max(status, error.exit_status)
            continue
        out.writelines((page_json if args.format == "json" else page_text)(info))
    return status
