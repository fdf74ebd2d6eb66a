# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render a report as JSON: all the numbers of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drgn_pageowner.analysis.report import Frag, Report
from drgn_pageowner.analysis.verdicts import headline, judge
from drgn_pageowner.render.jsonable import json_text, jsonable
from drgn_pageowner.render.top import top_object

__all__ = ("report_json", "report_object")

_KERNEL = ("release", "version", "hostname", "arch", "page_size", "max_page_order",
           "pageblock_order", "now_ns", "live", "panic_message", "page_owner", "zones")  # fmt: skip


def report_object(report: Report) -> dict[str, Any]:
    """Return a report as an object; docs/formats.md documents its members."""
    facts = report.facts
    kernel = {name: getattr(facts, name) for name in _KERNEL}
    kernel["zones"] = [zone._asdict() for zone in facts.zones]
    whole = {
        "kernel": kernel,
        "crash": report.crash,
        "modules": report.modules,
        "dump": report.name,
        "headline": headline(report),
        "verdicts": judge(report),
        "account": report.account,
        "owners": report.owners,
        "top": {
            key: top_object(top, lambda frame: [str(frame)]) for key, top in report.tops.items()
        },
        "holders": report.holders,
        "files": report.files,
        "flame": report.flame,
        "ages": report.ages,
        "leaks": report.leaks,
        "frag": _frag(report.frag) if report.frag is not None else None,
        "diff": report.diff,
        "coverage": report.coverage,
        "consistency": report.consistency,
        "problems": report.problems,
    }
    result: dict[str, Any] = jsonable(whole)
    return result


def _frag(frag: Frag) -> dict[str, Any]:
    """Return the fragmentation part as an object, in which each cell of the map has its owners."""
    maps = []
    for zone in frag.maps:
        one = jsonable(zone.map)
        for cell, owners in zip(one["cells"], zone.owners, strict=True):
            cell["owners"] = owners
        maps.append(one)
    return {
        "zones": frag.zones,
        "sizes": frag.sizes,
        "culprits": frag.culprits,
        "map": {"zones": maps},
    }


def report_json(report: Report) -> Iterator[str]:
    """Yield one JSON object."""
    yield from json_text(report_object(report))
