# SPDX-License-Identifier: LGPL-2.1-or-later
"""The records that pages belong to, on a machine typed by hand."""

from __future__ import annotations

from handmade import Machine, Record, snapshot

from drgn_pageowner.model.heap import covering


def test_runs_cover_rows_up_to_the_end() -> None:
    pages = Machine("kkkkkk").memory().pages
    records = snapshot(
        Record(1, ["f"], order=1),
        Record(100, ["f"], order=2),
        Record(4, ["f"], order=3),
        Record(0, ["f"]),
    )
    assert covering(pages, records).tolist() == [3, 0, 0, -1, 2, 2]


def test_records_of_several_pages_override_those_of_one() -> None:
    pages = Machine("kkkkkkkk").memory().pages
    records = snapshot(
        Record(0, ["f"], order=1), Record(1, ["f"]), Record(4, ["f"], order=2), Record(6, ["f"]),
        Record(7, ["f"]),
    )  # fmt: skip
    assert covering(pages, records).tolist() == [0, 0, -1, -1, 2, 2, 2, 2]
