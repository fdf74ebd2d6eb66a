# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the text of a triage, from a hand-made result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from drgn_pageowner.analysis.triage import Finding, Triage
from drgn_pageowner.analysis.verdicts import Verdict
from drgn_pageowner.render.triage import triage_text

WARNING = Verdict("frag", "warning", "A zone is not well.", "Look.")
NOTE = Verdict("owners", "note", "Somebody has memory.")
LEAK = Verdict("leaks", "bad", "Pages are leaked.", "Largest: f.", "leak")


@dataclass
class Outcome:
    name: str
    status: str = "ok"
    error: str | None = None


def text(*verdicts: Verdict, answered: bool = True, outcomes: tuple[Outcome, ...] = ()) -> str:
    found = [Finding(v.finding, f"{v.text} {v.detail}") for v in verdicts if v.finding]
    known = {"zones": []} if answered else None
    result = Triage(found, list(verdicts), known, None, None, known, [])
    return "".join(triage_text(result, outcomes, Path("out/index.json")))


def test_findings_come_first_and_warnings_next() -> None:
    assert text(WARNING, NOTE, LEAK) == (
        "found leak: Pages are leaked. Largest: f.\n"
        "warning: A zone is not well. Look.\n"
        "out/index.json has the verdicts and names the files beside it\n"
    )


def test_it_is_ten_lines_at_most_and_ends_with_the_answer() -> None:
    verdicts = [LEAK, *([WARNING] * 9), *([NOTE] * 3)]
    result = replace(
        Triage([Finding("leak", "f")], verdicts, {}, None, None, {"zones": []}, []),
        headline="4.0 KiB leaked by f.",
        dump="web01/vmcore",
        build_id="abcd",
        crash_time=1_800_000_000,
    )
    failed = tuple(Outcome(name, "failed", name) for name in ("leaks", "info", "tasks"))
    lines = list(triage_text(result, failed, Path("out/index.json")))
    assert len(lines) <= 10
    assert lines[3] == "7 more of these are in out/index.json\n"
    assert lines[-2] == (
        "answer: 4.0 KiB leaked by f. (web01/vmcore, 2027-01-15 08:00:00 UTC, build ID abcd)\n"
    )


def test_warnings_alone_are_not_called_nothing() -> None:
    assert text(WARNING).splitlines()[:2] == [
        "warning: A zone is not well. Look.",
        "nothing else was found",
    ]


def test_nothing_found_is_said_unless_nobody_can_tell() -> None:
    assert text(NOTE).startswith("nothing was found\n")
    assert text(NOTE, answered=False).startswith(
        "nothing was found, but not everything was answered\n"
    )


def test_parts_that_failed_alike_are_one_line() -> None:
    failed = (Outcome("leaks", "failed", "off"), Outcome("info"), Outcome("tasks", "failed", "off"))
    assert "leaks, tasks failed: off\n" in text(NOTE, outcomes=failed)
