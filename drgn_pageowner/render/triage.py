# SPDX-License-Identifier: LGPL-2.1-or-later
"""The result of a triage in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from drgn_pageowner.analysis.triage import Triage
from drgn_pageowner.escape import word
from drgn_pageowner.render.report.machine import crash_time_text
from drgn_pageowner.render.table import are

__all__ = ("triage_text",)


class _Outcome(Protocol):
    name: str
    status: str
    error: str | None


# Maximum numbers of lines for findings, warnings and failed parts, of ten lines in all.
_WRONG, _NOTES, _TROUBLES = 3, 2, 1


def triage_text(result: Triage, outcomes: Sequence[_Outcome], index: Path) -> Iterator[str]:
    """
    Yield the result in at most ten lines.

    Findings and warnings come first, then who has the memory, what failed, what was read, the
    answer in one sentence, and the name of the index, which has everything.
    """
    wrong = [f"found {finding.kind}: {finding.text}" for finding in result.findings]
    warnings = [v for v in result.all if v.level == "warning" and v.finding is None]
    wrong += [
        f"warning: {' '.join(filter(None, (verdict.text, verdict.detail)))}" for verdict in warnings
    ]
    yield from _first(wrong, _WRONG, index)
    if not result.findings:
        nothing = "nothing else was found" if warnings else "nothing was found"
        yield f"{nothing}\n" if result.answered else f"{nothing}, but not everything was answered\n"
    if result.headline is not None:
        notes = [v.text for v in result.all if v.level == "note" and v.area == "owners"]
        yield from (f"owners: {note}\n" for note in notes[:_NOTES])
    troubles: dict[tuple[str, str | None], list[str]] = {}
    for outcome in outcomes:
        if outcome.status != "ok":
            troubles.setdefault((outcome.status, outcome.error), []).append(outcome.name)
    failed = [
        f"{', '.join(names)} {status}: {error}" for (status, error), names in troubles.items()
    ]
    yield from _first(failed, _TROUBLES, index)
    if result.headline is not None:
        yield f"answer: {result.headline}{_source(result)}\n"
    yield f"{index} has the verdicts and names the files beside it\n"


def _first(lines: Sequence[str], number: int, index: Path) -> Iterator[str]:
    yield from (f"{line}\n" for line in lines[:number])
    if len(lines) > number:
        yield f"{len(lines) - number} more of these {are(len(lines) - number)} in {index}\n"


def _source(result: Triage) -> str:
    """Return which dump was read: ``" (web01/vmcore, 2026-01-01 12:00:00 UTC, build ID ...)"``."""
    parts = [word(result.dump)] if result.dump else []
    when = crash_time_text(result.crash_time)
    parts += [when] if when is not None else []
    parts += [f"build ID {result.build_id}"] if result.build_id else []
    return f" ({', '.join(parts)})" if parts else ""
