# SPDX-License-Identifier: LGPL-2.1-or-later
"""Summarize a report as the verdicts in the index of a triage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drgn_pageowner.analysis.frag.alloc_check import COSTLY_ORDER
from drgn_pageowner.analysis.frag.buddy import fragmentation_index
from drgn_pageowner.analysis.leaks.leaks import Leaks
from drgn_pageowner.analysis.leaks.suspects import Suspect, largest_of
from drgn_pageowner.analysis.owners.group import Top
from drgn_pageowner.analysis.report import Frag, Report
from drgn_pageowner.analysis.verdicts import MIN_LEAKED_PAGES, KnownCause, Verdict, headline, judge

__all__ = ("Finding", "Triage", "sum_up")

_OWNERS = 5


@dataclass(frozen=True)
class Finding:
    """A problem of the machine, for which ``triage`` ends with exit status 3."""

    kind: str
    """Kind of the problem: :attr:`Verdict.finding`."""
    text: str
    """The problem in one line."""


@dataclass(frozen=True)
class Triage:
    """The member ``verdicts`` of the index of a triage; values that are unknown are ``None``."""

    findings: list[Finding]
    all: list[Verdict]
    """The verdicts of ``report``, then those of rules."""
    leaks: dict[str, Any] | None
    suspects: dict[str, Any] | None
    owners: list[dict[str, Any]] | None
    fragmentation: dict[str, Any] | None
    unreadable: list[str]
    """One line per part that could not be read or answered."""
    headline: str | None = None
    """Summary in one sentence; ``None`` if the dump could not be judged."""
    dump: str | None = None
    """The name of the dump's file."""
    build_id: str | None = None
    """Build ID of the kernel, in hex."""
    crash_time: int | None = None
    """Seconds since 1970, UTC."""
    holes: str | None = None
    """The memory that the search for leaks could not read, in words; ``None`` if it read all of
    it."""

    @property
    def answered(self) -> bool:
        """
        Whether everything was judged, so that an empty list of findings means that nothing is
        wrong.
        """
        return self.leaks is not None and self.fragmentation is not None and self.holes is None


def sum_up(
    report: Report | None,
    problems: Sequence[str] = (),
    *,
    min_pages: int = MIN_LEAKED_PAGES,
    causes: Sequence[Verdict] = (),
) -> Triage:
    """
    Judge *report* and summarize it.

    :param report: Report on the machine; ``None`` if it is not ready yet, or could not be made.
    :param problems: Problems of the dump that parts of the triage reported, a line each.
    :param min_pages: A leak counts as found from this many base pages on.
    :param causes: Verdicts of rules that matched.
    """
    unreadable = list(dict.fromkeys(problems))
    if report is None:
        return Triage([], [], None, None, None, None, unreadable)
    verdicts = [*judge(report, min_pages=min_pages), *causes]
    return Triage(
        findings=[
            Finding(verdict.finding, _in_one_line(verdict))
            for verdict in verdicts
            if verdict.finding is not None
        ],
        all=verdicts,
        leaks=_leaks(report.leaks) if report.leaks is not None else None,
        suspects=_suspects(report.suspects) if report.suspects is not None else None,
        owners=_owners(report.tops["allocator"]) if "allocator" in report.tops else None,
        fragmentation=_zones(report.frag) if report.frag is not None else None,
        unreadable=unreadable,
        headline=headline(report, min_pages=min_pages, causes=causes),
        dump=report.name,
        build_id=report.crash.build_id if report.crash is not None else None,
        crash_time=report.crash.crash_time if report.crash is not None else None,
        holes=report.leaks.holes if report.leaks is not None else None,
    )


def _in_one_line(verdict: Verdict) -> str:
    link = f"See {verdict.link}" if isinstance(verdict, KnownCause) and verdict.link else ""
    return " ".join(filter(None, (verdict.text, verdict.detail, link)))


def _leaks(leaks: Leaks) -> dict[str, Any]:
    lost = leaks.lost_groups
    sure = [group for group in lost if group.confidence == "high"]
    first = max(sure or lost, key=lambda group: group.pages, default=None)
    return {
        "pages": leaks.lost_pages,
        "allocations": leaks.lost_allocations,
        "high_confidence_pages": sum(group.pages for group in sure),
        "high_confidence_allocations": sum(group.allocations for group in sure),
        "by_number_pages": leaks.by_number_pages,
        "slab_objects": sum(leak.objects for leak in leaks.slab or ()),
        "first": _members(first, "allocator", "handle", "verdict", "confidence", "pages",
                          "allocations", "stack"),
    }  # fmt: skip


def _suspects(suspects: Sequence[Suspect]) -> dict[str, Any]:
    largest = largest_of(suspects)
    members = "allocator", "handle", "score", "reasons", "pages", "pages_per_hour", "stack"
    return {
        "stacks": len(suspects),
        "first": _members(suspects[0] if suspects else None, *members),
        "largest": _members(largest, *members),
    }


def _owners(top: Top) -> list[dict[str, Any]]:
    return [
        {
            "allocator": group.key["allocator"],
            "pages": group.pages,
            "bytes": group.bytes,
            "allocations": group.allocations,
        }
        for group in top.groups[:_OWNERS]
    ]


def _zones(frag: Frag) -> dict[str, Any]:
    members = "node", "zone", "managed", "free", "free_cma", "watermarks", "largest_free_run"
    return {
        "zones": [
            {
                **{name: getattr(zone, name) for name in members},
                "costly_index": fragmentation_index(zone.free_blocks, COSTLY_ORDER),
                "verdict": zone.verdict,
            }
            for zone in frag.zones
        ]
    }


def _members(value: object | None, *names: str) -> dict[str, Any] | None:
    return None if value is None else {name: getattr(value, name) for name in names}
