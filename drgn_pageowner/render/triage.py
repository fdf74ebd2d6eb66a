# SPDX-License-Identifier: LGPL-2.1-or-later
"""The result of a triage in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from drgn_pageowner.analysis.triage import Triage

__all__ = ("triage_text",)


class _Outcome(Protocol):
    name: str
    status: str
    error: str | None


def triage_text(result: Triage, outcomes: Sequence[_Outcome], index: Path) -> Iterator[str]:
    """Yield a line for every finding, warning and failed part, and the name of the index."""
    for finding in result.findings:
        yield f"found {finding.kind}: {finding.text}\n"
    warnings = [v for v in result.all if v.level == "warning" and v.finding is None]
    for verdict in warnings:
        yield f"warning: {' '.join(filter(None, (verdict.text, verdict.detail)))}\n"
    if not result.findings:
        nothing = "nothing else was found" if warnings else "nothing was found"
        yield f"{nothing}\n" if result.answered else f"{nothing}, but not everything was answered\n"
    troubles: dict[tuple[str, str | None], list[str]] = {}
    for outcome in outcomes:
        if outcome.status != "ok":
            troubles.setdefault((outcome.status, outcome.error), []).append(outcome.name)
    for (status, error), names in troubles.items():
        yield f"{', '.join(names)} {status}: {error}\n"
    yield f"{index} has the verdicts and names the files beside it\n"
