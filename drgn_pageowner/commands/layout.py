# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Write a layout pack: the types, variables and symbols of this kernel, without the rest of its
vmlinux.

  layout OUT.debug                 a file of some 300 KB, to use with -s instead of the vmlinux
  layout --keep                    store it for later dumps of this kernel, which then need no -s

All commands give the same answers with it as with the vmlinux, except for source lines (--source).
It is an ELF file with the kernel's build ID, so drgn can use it as debugging symbols, also from a
directory of debugging symbols (.build-id/).
"""

from __future__ import annotations

import argparse
import os
from typing import TextIO

from drgn_pageowner.cache import layout_path
from drgn_pageowner.commands.arguments import add_destination
from drgn_pageowner.commands.drgn_lines import refuse_drgn
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.storage.files import cannot_write, is_stdout, replacing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = add_destination(parser, "layout_path", "the file to write (OUT.debug)", required=True)
    where.add_argument(
        "--keep", action="store_true",
        help="write it to $XDG_CACHE_HOME/drgn-pageowner/layouts, to be found by the build ID",
    )  # fmt: skip
    refuse_drgn(parser, "layout copies symbols and computes nothing")


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    data = session.layout_pack()
    path = args.layout_path
    if args.keep:
        build_id = session.crash().build_id
        if build_id is None:
            raise PageOwnerError("the build ID of this kernel is unknown: give a file to write")
        path = layout_path(build_id)
    try:
        if args.keep:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise cannot_write(path, error) from error
    text = f"{path}: layout pack of {session.facts().release}, {len(data):,} bytes"
    if is_stdout(path):
        warn(text)
    else:
        out.write(f"{text}\n")
    return 0
