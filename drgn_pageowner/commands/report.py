# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Write a post-mortem report of a machine's memory, as one file.

  report OUT.html                  one HTML page that needs no other file and no network
  report OUT.md                    the same findings as text, for a ticket
  report OUT.json                  all numbers of the HTML page
  report --format md               to standard output
  report --before MONDAY OUT.html  with the changes since an earlier dump or snapshot
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, TextIO, TypeVar

from drgn_pageowner.analysis.report import Report, ReportInputs, report
from drgn_pageowner.analysis.verdicts import headline
from drgn_pageowner.commands.arguments import add_destination
from drgn_pageowner.commands.diff import compare
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines
from drgn_pageowner.commands.leaks import search
from drgn_pageowner.errors import (
    INTERNAL,
    NO_RECORDS,
    PageOwnerError,
    UsageError,
    internal_error,
)
from drgn_pageowner.escape import word
from drgn_pageowner.model.kept import keeping_results
from drgn_pageowner.model.session import Session
from drgn_pageowner.progress import warn

if TYPE_CHECKING:
    from drgn_pageowner.model.heap import Heap, LeakSearch
    from drgn_pageowner.model.records import Snapshot

T = TypeVar("T")

FORMATS = ("html", "md", "json")
NO_LEAKS = "leaks were not searched for: --no-leaks"
"""The problem of a report without them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_destination(
        parser,
        "output",
        "the file to write; its suffix decides the format (default: -, standard output)",
    )
    parser.add_argument(
        "--before", metavar="DUMP", help="an earlier dump or snapshot, to show what has grown since"
    )
    parser.add_argument("--format", choices=FORMATS, help="the format, whatever the suffix")
    parser.add_argument(
        "--no-leaks", action="store_true", help="do not search for leaks: faster on a large machine"
    )
    add_drgn(parser)


_DRGN = """\
from drgn_pageowner.analysis.report import report
from drgn_pageowner.analysis.verdicts import headline, judge
from drgn_pageowner.commands.report import read
from drgn_pageowner.kernel.session import ProgramSession
{imports}session = ProgramSession.of(prog)
found = report(read(session{options}))
print(headline(found))
for verdict in judge(found):
    print(verdict.level, verdict.text)
"""


def _drgn(args: argparse.Namespace, out: TextIO) -> int:
    if args.output is not None:
        raise UsageError("--drgn: leave out OUT: the lines print the verdicts, and write no file")
    imports, options = "", ", leaks=False" * args.no_leaks
    if args.before is not None:
        imports = "from drgn_pageowner.sources import opener_beside\n"
        options += f", before=opener_beside(prog)({args.before!r})"
    return print_lines(_DRGN.format(imports=imports, options=options), args, out)


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        return _drgn(args, out)
    path = args.output or "-"
    kind = args.format or PurePath(path).suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UsageError(
            f"{path}: its suffix does not say what to write: name a file .html, .md or .json, "
            "or say --format"
        )
    render = _renderer(kind)
    before = args.open_session(args.before) if args.before else None
    found = report(read(session, leaks=not args.no_leaks, before=before))
    out.writelines(render(found))
    if path != "-":
        answer = headline(found)
        args.standard_output.write(f"{word(path)}: {word(answer)}\n")
    for error in found.errors:
        warn(internal_error(error))
    return INTERNAL if found.errors else 0


def _renderer(kind: str) -> Callable[[Report], Iterator[str]]:
    """
    Return the function that renders a report in the format *kind*.

    It is called before anything is read, so that a missing library is reported at once.
    """
    if kind == "json":
        from drgn_pageowner.render.report.json import report_json

        return report_json
    if kind == "md":
        from drgn_pageowner.render.report.markdown import MarkdownRenderer

        return MarkdownRenderer()
    from drgn_pageowner.render.report.html import HtmlRenderer

    return HtmlRenderer()


def _heap(session: Session, slab: bool) -> Heap | LeakSearch:
    # The inventory is for the other parts, too, so the heap must not drop columns of its pages.
    with keeping_results():
        if slab:
            return search(session, slab=True)
        return session.saved_search(slab=False) or session.heap(types=True)


def _tag_rows(session: Session) -> Snapshot | None:
    """Return the allocations with a tag; ``None`` for a kernel without tags."""
    try:
        return session.snapshot(("handle", "tag"))
    except PageOwnerError:
        return None


def read(
    session: Session, *, leaks: bool = True, slab: bool = False, before: Session | None = None
) -> ReportInputs:
    """
    Read the inputs of a report; each part that cannot be read becomes one of its problems.

    :param leaks: Whether to read pointers, to search for leaks.
    :param slab: Whether to search for lost slab objects, too.
    :param before: An earlier dump, to compare with.
    """
    problems: list[str] = []
    records: Snapshot | None = None

    def attempt(what: str, get: Callable[[], T]) -> T | None:
        try:
            return get()
        except PageOwnerError as error:
            problems.append(f"{what}: {error}")
            return None

    facts = session.facts()
    if facts.page_owner in NO_RECORDS:
        records = _tag_rows(session)
        left_out = "owners and ages" if records is None else "ages"
        warn(f"{left_out} are left out: {NO_RECORDS[facts.page_owner]}")
        problems.append(NO_RECORDS[facts.page_owner])
    if not leaks:
        problems.append(NO_LEAKS)
    on = facts.page_owner not in NO_RECORDS
    heap = attempt("leaks", lambda: _heap(session, slab)) if leaks else None
    # Without page_owner records, the heap's inventory has allocations found from the struct pages.
    inventory = (
        heap.inventory if heap is not None and on else attempt("use of pages", session.inventory)
    )
    if on:
        records = inventory.records if inventory is not None else None
    if on and inventory is None:
        records = attempt("records", lambda: session.snapshot(("handle", "ts_nsec", "comm")))
    known = inventory.problems if inventory is not None else records.problems if records else []
    return ReportInputs(
        facts=facts,
        crash=attempt("the crash", session.crash),
        modules=attempt("modules", session.modules) or (),
        heap=heap,
        memory=session,
        inventory=inventory,
        records=records,
        diff=(
            attempt("what has changed", lambda: compare(before, session))
            if before is not None
            else None
        ),
        problems=[*problems, *known],
        name=None if facts.live else _name_of(session),
        at_once=session.at_once,
    )


def _name_of(session: Session) -> str:
    """Return the name of the dump's file and its directory, because most dumps are called
    vmcore."""
    return "/".join(PurePath(next(iter(session.members()))).parts[-2:])
