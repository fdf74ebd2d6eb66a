# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render the outcome of an ingest as text or JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drgn_pageowner.escape import word
from drgn_pageowner.render.jsonable import json_text
from drgn_pageowner.render.table import table

__all__ = ("IngestSummary", "ingest_json", "ingest_text")


@dataclass(frozen=True)
class IngestSummary:
    """The numbers of an ingest."""

    numbers: Mapping[str, int]
    """Status -> number of dumps with this status."""
    failed: Sequence[Mapping[str, Any]]
    """Summaries of the runs that failed."""
    seconds: float
    per_minute: float
    """Number of dumps decoded per minute."""
    workers: int
    peak_bytes: int
    """Largest resident memory of any job, in bytes."""


def ingest_json(summary: IngestSummary) -> Iterator[str]:
    """Yield the summary as one JSON object."""
    yield from json_text(
        {
            "dumps": sum(summary.numbers.values()),
            "statuses": dict(summary.numbers),
            "seconds": round(summary.seconds, 3),
            "dumps_per_minute": round(summary.per_minute, 2),
            "workers": summary.workers,
            "peak_bytes": summary.peak_bytes,
            "failed": [dict(run) for run in summary.failed],
        }
    )


def ingest_text(summary: IngestSummary, dataset: str) -> Iterator[str]:
    """Yield the summary as text: failed dumps grouped by reason, and the rate of the ingest."""
    numbers = ", ".join(f"{number:,} {status}" for status, number in summary.numbers.items())
    yield (
        f"{word(dataset)}: {numbers}; {summary.seconds:.0f} s, {summary.per_minute:.1f} dumps a "
        f"minute, {summary.workers} worker{'s' * (summary.workers != 1)}, "
        f"at most {summary.peak_bytes >> 20:,} MiB each\n"
    )
    missing: dict[tuple[str, str], int] = {}
    for run in summary.failed:
        if run["status"] == "no symbols":
            key = (str(run["release"]), str(run["build_id"]))
            missing[key] = missing.get(key, 0) + 1
    if missing:
        yield "\nKernels whose symbols are nowhere:\n"
        rows = [[word(release), id_, number] for (release, id_), number in missing.items()]
        yield table(rows, ["release", "build ID", "dumps"], [2])
