# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render a report as one HTML page that needs no network and no other file."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterator
from typing import Any

from drgn_pageowner.analysis.report import Report
from drgn_pageowner.analysis.verdicts import by_severity, headline, judge
from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.escape import escaped
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.report.charts import chart_data
from drgn_pageowner.render.report.machine import (
    NO_HOST,
    coverage_rows,
    crash_rows,
    log_text,
    machine_rows,
)
from drgn_pageowner.render.report.tables import tables
from drgn_pageowner.render.table import counted, pages_size, share

__all__ = ("HtmlRenderer", "environment", "tiles", "title_of")

_SCRIPTS = ("theme.js", "tables.js", "charts.js", "map.js", "flame.js", "start.js")


def environment(*, autoescape: bool) -> Any:
    """
    Return a Jinja2 environment with our templates.

    :raises PageOwnerError: if it is not installed
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise PageOwnerError(_missing("jinja2")) from None
    return Environment(
        loader=PackageLoader("drgn_pageowner.render.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: escaped(value) if type(value) is str else value,
    )


def _missing(package: str) -> str:
    return (
        f"a report needs the package {package}: install drgn-pageowner's extra report "
        "(pip install 'drgn-pageowner[report]')"
    )


def _plotly() -> str:
    """
    Return the JavaScript of plotly.

    :raises PageOwnerError: if plotly is not installed
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise PageOwnerError(_missing("plotly")) from None
    script: str = get_plotlyjs()
    return script


class HtmlRenderer:
    """
    Renders the page.

    Only the scripts embedded here run, and nothing is loaded: the page's Content-Security-Policy
    lists their hashes.
    """

    def __init__(self) -> None:
        """:raises PageOwnerError: if Jinja2 or plotly is not installed"""
        self._jinja = environment(autoescape=True)
        self._plotly = _plotly()
        self._script = "\n".join(self._source(name) for name in _SCRIPTS)

    def _source(self, name: str) -> str:
        source: str = self._jinja.loader.get_source(self._jinja, name)[0]
        return source

    def __call__(self, report: Report) -> Iterator[str]:
        from drgn_pageowner import __version__

        verdicts, crash = by_severity(judge(report)), list(crash_rows(report))
        yield self._jinja.get_template("report.html.j2").render(
            report=report,
            facts=report.facts,
            title=title_of(report),
            verdicts=verdicts,
            headline=headline(report),
            worst=verdicts[0].level if verdicts[0].finding is not None else "good",
            when=next((value for name, value in crash if name == "crashed at"), None),
            build_id=report.crash.build_id if report.crash is not None else None,
            leaked=report.leaks is not None and report.leaks.lost_pages > 0,
            machine=list(machine_rows(report)),
            crash=crash,
            read=list(coverage_rows(report)),
            log=log_text(report),
            oom_log=log_text(report, oom=True),
            tables=tables(report),
            tiles=list(tiles(report)),
            style=self._source("report.css"),
            plotly=_compressed(self._plotly),
            script=self._script,
            hashes=" ".join(f"'sha256-{_hash(text)}'" for text in (self._plotly, self._script)),
            data=_data(chart_data(report)),
            version=__version__,
        )


def _compressed(script: str) -> str:
    """Return *script* compressed with gzip, without a timestamp, and encoded in base64."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _data(data: Any) -> str:
    """Serialize *data* to JSON, escaping the characters that are special in HTML."""
    text = json_document(data, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def title_of(report: Report) -> str:
    """Return the title of a report."""
    host = report.facts.hostname
    return "Memory report" if host in NO_HOST else f"Memory of {host}"


def tiles(report: Report) -> Iterator[tuple[str, str, str]]:
    """Yield name, number and remark of each tile at the top of the page."""
    size = report.facts.page_size
    present = sum(zone.present for zone in report.facts.zones)
    if present:
        yield "Memory", pages_size(present * size), counted(present, "page")
    if report.frag is not None:
        free = sum(zone.free for zone in report.frag.zones)
        yield "Free", pages_size(free * size), f"{share(free, present)} of memory"
    top = report.tops.get("stack")
    if top is not None:
        # Without page_owner, a stack is the function of an allocation tag.
        tagged = report.facts.page_owner in NO_RECORDS
        remark = counted(top.number_of_groups, "tag" if tagged else "stack")
        if top.allocations is not None:
            remark = f"{counted(top.allocations, 'allocation')}, {remark}"
        by = "Bears allocation tags" if tagged else "Recorded by page_owner"
        yield by, pages_size(top.bytes), remark
    if report.leaks is not None:
        lost = report.leaks.lost_pages
        number = counted(report.leaks.lost_allocations, "allocation")
        yield "Leaked", pages_size(lost * size), number
