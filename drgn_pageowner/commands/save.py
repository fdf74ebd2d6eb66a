"""
Save what the dump says to a file, for -S: every command reads it instead of the dump, at once,
without debugging symbols and without drgn.

  save OUT.parquet                 records, stacks, pages, free lists, zones
  save --leaks OUT.parquet         what leaks finds, as well
  save --source OUT.parquet        source lines of all stacks, as well

The file is a Parquet file: any program that reads those sees the records.
"""

from __future__ import annotations

import argparse
import os
from typing import TextIO

from drgn_pageowner.commands.arguments import report_problems
from drgn_pageowner.commands.session import Session
from drgn_pageowner.storage.save import save


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="the file to write (OUT.parquet)")
    parser.add_argument("--source", action="store_true", help="source lines of all stacks, too")


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    saved = save(session, args.out, source=args.source)
    report_problems(saved.problems)
    report_problems(f"not saved: {part}: {why}" for part, why in saved.unavailable.items())
    size = os.path.getsize(args.out)
    out.write(f"{args.out}: {saved.records:,} records, {saved.pages:,} pages, {size:,} bytes\n")
    return 0
