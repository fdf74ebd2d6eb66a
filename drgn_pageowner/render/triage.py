# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a triage found, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from drgn_pageowner.analysis.triage import Verdicts

__all__ = ("triage_text",)


class _Outcome(Protocol):
    name: str
    status: str
    error: str | None


def triage_text(verdicts: Verdicts, outcomes: Sequence[_Outcome], index: Path) -> Iterator[str]:
    """A line for everything found, for every part that failed, and where all the rest is."""
    for finding in verdicts.findings:
        yield f"found {finding.kind}: {finding.text}\n"
    if not verdicts.findings:
        yield (
            "nothing was found\n"
            if verdicts.answered
            else "nothing was found, but not everything was answered\n"
        )
    troubles: dict[tuple[str, str | None], list[str]] = {}
    for outcome in outcomes:
        if outcome.status != "ok":
            troubles.setdefault((outcome.status, outcome.error), []).append(outcome.name)
    for (status, error), names in troubles.items():
        yield f"{', '.join(names)} {status}: {error}\n"
    yield f"{index} has the verdicts and names the files beside it\n"
