# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Show whether page_owner is compiled in and on, what was found, and how complete and consistent it
is.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TextIO

from drgn_pageowner.analysis.owners.summary import summarize
from drgn_pageowner.commands.arguments import add_output, report_problems
from drgn_pageowner.commands.drgn_lines import add_drgn, print_lines
from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.model.info import Info
from drgn_pageowner.model.kept import kept_as
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.info import info_json, info_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_drgn(parser)
    add_output(parser, "table", "json")


_DRGN = """\
from drgn_pageowner.analysis.owners.summary import summarize
from drgn_pageowner.kernel.session import ProgramSession
session = ProgramSession.of(prog)
facts = session.facts()
print(facts.release, facts.page_owner)
for source in session.owner_sources():
    print(source.name, source.state)
if facts.page_owner == "on":
    records = session.snapshot(["handle", "ts_nsec"], freed=True)
    info = summarize(records, session.modules(), facts.panic_message)
    print(info.records, info.pages, info.freed_records, info.stacks, info.first_ns, *info.modules)
"""


def run(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    if args.drgn:
        return print_lines(_DRGN, args, out)
    facts = session.facts()
    answered = facts.page_owner == "on"
    if answered:
        try:
            info = kept_as(
                ("info", id(session)), session, lambda: _summary(session, facts.panic_message)
            )
        except PageOwnerError as error:
            # The machine and the crash can be described even without page_owner.
            answered = False
            problems = list(facts.problems)
            if not str(error).endswith(tuple(problems)):
                problems.append(str(error))
            info = Info(
                facts, records=None, pages=None, modules=session.modules(), problems=problems
            )
    else:
        info = Info(facts, modules=session.modules(), problems=[NO_RECORDS[facts.page_owner]])
    info = replace(info, sources=session.owner_sources())
    info = replace(info, problems=list(dict.fromkeys([*info.problems, *session.losses()])))
    out.writelines((info_json if args.format == "json" else info_table)(info))
    report_problems(info.problems)
    return 0 if answered else 1


def _summary(session: Session, panic_message: str | None) -> Info:
    parts = session.record_parts(("handle", "ts_nsec"), freed=True)
    return summarize(parts, session.modules(), panic_message)
