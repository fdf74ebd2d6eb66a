# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test hand-made readings of a running kernel."""

from __future__ import annotations

from dataclasses import replace

from made import SECOND, made_records

from drgn_pageowner.analysis.owners.growth import RoundKind, Watch
from drgn_pageowner.model.records import Snapshot


def reading(rows: list[int], seconds: int) -> Snapshot:
    """Return the records of *rows* as a reading at a given time."""
    records = made_records().select(rows)  # type: ignore[arg-type]
    records.facts = replace(records.facts, now_ns=seconds * SECOND)
    return records


def test_rounds_are_compared_with_the_one_before_and_the_first() -> None:
    watch = Watch(["comm"])
    first = watch.add(reading([0, 2], 10))
    assert (first.kind, first.pages, first.groups) == (RoundKind.FIRST, 2, [])
    assert watch.summary() is None

    one = watch.add(reading([0, 1, 2], 12))
    [grown] = one.groups
    assert (one.kind, one.number, one.grown_pages) == (RoundKind.ROUND, 1, 16)
    assert grown.key == {"comm": "init"}
    assert (grown.pages, grown.grown_pages, grown.grown_allocations) == (17, 16, 1)
    assert (grown.pages_per_second, grown.handle) == (8.0, 22)

    two = watch.add(reading([1, 2, 3, 4], 20))
    assert [group.key["comm"] for group in two.groups] == ["kworker/0", "sh"]
    assert (two.grown_pages, two.grown_pages_since_start) == (8 + 1 - 1, 24)

    summary = watch.summary()
    assert summary is not None
    assert summary.kind == "summary"
    assert {g.key["comm"]: g.grown_pages for g in summary.groups} == {
        "init": 15,
        "kworker/0": 8,
        "sh": 1,
    }
    assert [group.rounds_grown for group in summary.groups] == [1, 1, 1]
    assert summary.elapsed_ns == summary.elapsed_ns_since_start == 10 * SECOND


def test_a_limit_leaves_the_number_of_groups() -> None:
    watch = Watch(["pid"], limit=1)
    watch.add(reading([0], 1))
    result = watch.add(reading([0, 1, 2, 3, 4], 1))
    assert [group.key["pid"] for group in result.groups] == [1]
    assert result.number_of_groups == 4
    # There is no rate if the clock stood still.
    assert result.groups[0].pages_per_second is None
