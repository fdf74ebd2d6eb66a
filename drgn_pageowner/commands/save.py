# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Save a snapshot, which every command reads instead of the dump (-S): at once, without debugging
symbols and without drgn.

  save OUT.parquet                 records, stacks, pages, free lists, zones
  save --leaks OUT.parquet         and what leaks finds
  save --source OUT.parquet        and the source lines of all stacks

The file is a Parquet file: any program that reads those sees the records.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TextIO

from drgn_pageowner.commands.arguments import add_destination, report_problems
from drgn_pageowner.commands.leaks import search
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.storage.files import is_stdout
from drgn_pageowner.storage.save import save


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_destination(parser, "snapshot_path", "the file to write (OUT.parquet)", required=True)
    parser.add_argument("--leaks", action="store_true", help="search for leaks, too")
    parser.add_argument("--source", action="store_true", help="save source lines of stacks, too")


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    leaks = partial(search, session, slab=True) if args.leaks else None
    saved = save(session, args.snapshot_path, source=args.source, search=leaks)
    report_problems(saved.problems)
    report_problems(f"{part} could not be saved: {why}" for part, why in saved.lacking.items())
    path = args.snapshot_path
    text = f"{path}: {saved.records:,} records, {saved.pages:,} pages, {saved.size:,} bytes"
    if is_stdout(path):
        # The file itself is what goes there.
        warn(text)
    else:
        out.write(f"{text}\n")
    return 0
