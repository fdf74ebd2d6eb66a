# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render a report as Markdown, for a ticket or a mail: the page without charts and long tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from drgn_pageowner.analysis.account.page_class import PageClass
from drgn_pageowner.analysis.report import Report
from drgn_pageowner.analysis.verdicts import by_severity, headline, judge
from drgn_pageowner.escape import escaped
from drgn_pageowner.render.report.html import environment, title_of
from drgn_pageowner.render.report.machine import coverage_rows, crash_rows, log_text, machine_rows
from drgn_pageowner.render.report.tables import Table, TableCell, tables

__all__ = ("MarkdownRenderer",)

# Maximum number of rows of a table: enough for a table with a row for every class of pages.
_ROWS = len(PageClass)
_STACKS = 5
_LOG_LINES = 20
# Characters that are special in Markdown or HTML, except the _ in names of functions and the
# brackets around names of modules.
_SPECIAL = re.compile(r"[\\`*<>#|~&]|(?<![A-Za-z0-9_])_|_(?![A-Za-z0-9_])|\](?=[(\[:])")


class MarkdownRenderer:
    """Renders a report as Markdown."""

    def __init__(self) -> None:
        """:raises PageOwnerError: if Jinja2 is not installed"""
        self._jinja = environment(autoescape=False)
        self._jinja.filters.update(text=escape, code=code, cells=cells, rule=rule)

    def __call__(self, report: Report) -> Iterator[str]:
        from drgn_pageowner import __version__

        yield self._jinja.get_template("report.md.j2").render(
            report=report,
            title=title_of(report),
            verdicts=by_severity(judge(report)),
            headline=headline(report),
            build_id=report.crash.build_id if report.crash is not None else None,
            machine=list(machine_rows(report)),
            crash=list(crash_rows(report)),
            read=list(coverage_rows(report)),
            log=log_text(report).splitlines()[-_LOG_LINES:],
            oom_log=log_text(report, oom=True).splitlines()[-_LOG_LINES:],
            tables=tables(report),
            rows=_ROWS,
            stacks=_STACKS,
            version=__version__,
        )


def escape(text: str) -> str:
    """Escape *text* for a line of Markdown."""
    return _SPECIAL.sub(r"\\\g<0>", escaped(text).replace("\n", " "))


def code(text: str) -> str:
    """Format a name from the kernel as Markdown code."""
    text = escaped(text).replace("\n", " ").replace("|", "\\|")
    fence = "`"
    while fence in text:
        fence += "`"
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def cells(row: Sequence[TableCell]) -> str:
    """Return a row of a Markdown table."""
    texts = [code(cell.text) if cell.code else escape(cell.text) for cell in row]
    return f"| {' | '.join(texts)} |"


def rule(table: Table) -> str:
    """Return the line below the header of a Markdown table, which aligns numbers to the right."""
    marks = ["---:" if column in table.numeric else "---" for column in range(len(table.columns))]
    return f"| {' | '.join(marks)} |"
