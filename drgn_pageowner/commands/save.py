# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Save a snapshot, which every command reads instead of the dump (-S): quickly, without debugging
symbols and without drgn.

  save OUT.parquet                 records, stacks, pages, free lists, zones
  save --leaks OUT.parquet         also the result of leaks
  save --source OUT.parquet        also the source lines of all stacks
  save --leaks --dataset DIR       add it to a dataset of many snapshots (sql, fleet)
  save --redact OUT.parquet        without names that identify this site, to send to others

The file is a Parquet file: any program that reads Parquet can read the records. A dataset is a
directory, or a URL of an object store (s3://BUCKET/PATH), of Parquet files; docs/dataset.md
describes its tables. Saving the same dump into a dataset again replaces its rows.

--redact replaces the names of processes, hosts and cgroups, equal names by equal words, and leaves
out the kernel log and contents of memory; docs/redact.md lists what is kept.
"""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from drgn_pageowner.analysis.report import report
from drgn_pageowner.commands.arguments import add_destination, add_rules, report_problems
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines, refuse
from drgn_pageowner.commands.leaks import search
from drgn_pageowner.commands.report import NO_LEAKS, read
from drgn_pageowner.errors import PageOwnerError, UsageError, internal_error
from drgn_pageowner.model.dataset import day_of
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn
from drgn_pageowner.render.dataset import Origins, RecordTable, dataset_tables, with_verdicts
from drgn_pageowner.storage.dataset import Dataset, Partition
from drgn_pageowner.storage.files import is_stdout
from drgn_pageowner.storage.identity import DumpIdentity, identify, new_id
from drgn_pageowner.storage.redact import redacted
from drgn_pageowner.storage.save import copied, save
from drgn_pageowner.storage.session import SnapshotSession
from drgn_pageowner.units import counted

_LEAST_KEY = 16
"""Minimum size of the key of --redact-key, in bytes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = add_destination(
        parser, "snapshot_path", "the file to write (OUT.parquet)", required=True
    )
    where.add_argument(
        "--dataset", metavar="DIR|URL", help="add the snapshot to this dataset instead"
    )
    parser.add_argument(
        "--dump-name", metavar="NAME",
        help="name of the dump in the dataset (default: its path)",
    )  # fmt: skip
    parser.add_argument("--leaks", action="store_true", help="search for leaks, too")
    parser.add_argument("--source", action="store_true", help="save source lines of stacks, too")
    parser.add_argument(
        "--redact",
        action="store_true",
        help="replace the names of processes, hosts and cgroups; by other words in each snapshot",
    )
    parser.add_argument(
        "--redact-key", metavar="FILE",
        help="replace the same names, by words that depend only on the contents of FILE",
    )  # fmt: skip
    add_rules(parser)
    add_drgn(parser)
    # triage has another process save a snapshot, to which it gives the result of the search.
    parser.set_defaults(search=None)


_DRGN = """\
{imports}from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.storage.save import save
session = ProgramSession.of(prog)
saved = save(session, {path!r}{options})
print(saved.records, saved.pages)
"""


def _drgn(args: argparse.Namespace, out: TextIO) -> int:
    refuse(args, {"dataset": None, "dump-name": None, "redact": False, "redact-key": None,
                  "rules": None})  # fmt: skip
    options = ", source=True" * args.source
    if args.leaks:
        options += ", search=lambda: search(session, slab=True)"
    lines = _DRGN.format(
        imports="from drgn_pageowner.commands.leaks import search\n" * args.leaks,
        path=args.snapshot_path,
        options=options,
    )
    return print_lines(lines, args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        return _drgn(args, out)
    # Arrow's default allocator needs 10 MB more, which a capture kernel may not have.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if len(session.members()) > 1:
        raise UsageError(f"{len(session.members())} snapshots: save reads one at a time")
    where = getattr(args, "rules", None) or []
    if where and args.dataset is None:
        raise UsageError("--rules needs --dataset: a file has no verdicts")
    identity = _identity(args)
    if _redact(args):
        session = redacted(session, _key(args.redact_key))
    if args.dataset is not None:
        _into_dataset(args, session, identity, where, out)
    else:
        _into_file(args, session, args.snapshot_path, identity, out)
    return 0


def _into_file(
    args: argparse.Namespace, session: Session, path: str, identity: DumpIdentity | None,
    out: TextIO,
) -> None:  # fmt: skip
    leaks = args.search or (partial(search, session, slab=True) if args.leaks else None)
    dump, saved = _dump_of(session, identity), None
    [member] = session.members().values()
    if isinstance(member, SnapshotSession) and not _redact(args):
        saved = copied(member, path, source=args.source, leaks=leaks is not None, dump=dump)
    if saved is None:
        saved = save(session, path, source=args.source, search=leaks, dump=dump)
    report_problems(saved.problems)
    report_problems(f"{part} could not be saved: {why}" for part, why in saved.lacking.items())
    text = (
        f"{path}: {counted(saved.records, 'record')}, {counted(saved.pages, 'page')}, "
        f"{saved.size:,} bytes"
    )
    if is_stdout(path):
        # Standard output is used for the file itself, so print the text on stderr.
        warn(text)
    else:
        out.write(f"{text}\n")


def _into_dataset(
    args: argparse.Namespace,
    session: Session,
    identity: DumpIdentity | None,
    where: Sequence[str],
    out: TextIO,
) -> None:
    from drgn_pageowner import __version__
    from drgn_pageowner.rules.query import ask_rules
    from drgn_pageowner.rules.rule import read_rules, verdicts_of

    rules = read_rules(where) if where else None
    dataset = Dataset(args.dataset)
    facts, dump = session.facts(), _dump_of(session, identity)
    inputs = read(session, leaks=args.leaks, slab=args.leaks)
    found = report(inputs)
    for error in found.errors:
        warn(internal_error(error))
    source = args.dump_name or _source(args, session)
    origins = Origins(**dump, tool=__version__, source=source)
    tables, lacking = dataset_tables(session, found, inputs.inventory, origins)
    if not {"records", "pages"} & tables.keys():
        raise PageOwnerError(f"neither records nor pages can be read: {lacking['records']}")
    if rules is not None:
        answers = ask_rules(rules, session, found, inputs.inventory, tables)
        for line in answers.errors:
            warn(line)
        causes = verdicts_of(answers.matches, facts.page_size)
        tables["verdicts"] = with_verdicts(tables["verdicts"], causes, origins.id)
    crash_time = found.crash.crash_time if found.crash is not None else None
    partition = Partition(facts.release or None, day_of(crash_time))
    records = tables.get("records")
    rows = {
        name: (table.schema, table.parts() if isinstance(table, RecordTable) else [table])
        for name, table in tables.items()
    }
    problems = [problem for problem in found.problems if problem != NO_LEAKS]
    # Records are read again while they are written, and take the place of all this.
    del inputs, found
    session.forget()
    size = dataset.write(rows, partition, origins.id)
    # Nobody asked for leaks without --leaks.
    unasked = {"tags"} if args.leaks else {"tags", "leaks"}
    report_problems(problems)
    report_problems(
        f"{table} could not be saved: {why}"
        for table, why in lacking.items()
        if table not in unasked
    )
    number = records.number or 0 if records is not None else 0
    out.write(
        f"{dataset.place.name}: snapshot {origins.id} of {facts.release}: "
        f"{counted(number, 'record')}, {size:,} bytes\n"
    )


def _redact(args: argparse.Namespace) -> bool:
    return args.redact or args.redact_key is not None


def _source(args: argparse.Namespace, session: Session) -> str:
    """
    Return the name of the dump in the dataset: its path, or ``"(redacted)"`` if names are replaced,
    because the path may contain the name of the host.
    """
    if _redact(args):
        return "(redacted)"
    return getattr(args, "core", None) or next(iter(session.members()))


def _key(path: str | None) -> bytes:
    """Return the key in the file *path*; a random key if *path* is ``None``."""
    if path is None:
        return secrets.token_bytes(32)
    try:
        key = Path(path).read_bytes()
    except OSError as error:
        raise PageOwnerError(f"cannot read {path}: {error.strerror or error}") from error
    if len(key) < _LEAST_KEY:
        raise UsageError(f"{path}: a key has at least {_LEAST_KEY} bytes, or names can be guessed")
    return key


def _identity(args: argparse.Namespace) -> DumpIdentity | None:
    """Return the identity of the dump from its headers; ``None`` if the dump is not a file."""
    core = getattr(args, "core", None)
    if core is None:
        return None
    try:
        with open(core, "rb") as file:
            return identify(file, os.fstat(file.fileno()).st_size)
    except OSError:
        # The error is reported when the file is opened as a dump.
        return None


def _dump_of(session: Session, identity: DumpIdentity | None) -> dict[str, Any]:
    """Return the ID of the dump, its size and the build ID of its kernel."""
    if identity is not None:
        return {"id": identity.id, "size": identity.size, "build_id": identity.build_id}
    [member] = session.members().values()
    if isinstance(member, SnapshotSession) and (known := member.dump()) is not None:
        return known
    # A running kernel, a guest, or a snapshot without an ID: derive a new ID, from the time of this
    # reading among others.
    facts, crash = session.facts(), session.crash()
    id_ = new_id(facts.release, facts.version, facts.hostname, facts.now_ns, crash.crash_time,
                 crash.command_line)  # fmt: skip
    return {"id": id_, "size": None, "build_id": None}
