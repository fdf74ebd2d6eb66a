# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test groups of hand-made records as table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json

from handmade import NOW, SECOND, Record, snapshot

from drgn_pageowner.analysis.owners.group import top
from drgn_pageowner.model.stacks import SourceFrame
from drgn_pageowner.render.top import top_csv, top_json, top_table

RECORDS = snapshot(
    Record(0, ["alloc_pages", "f"], order=2, ts_nsec=NOW - 60 * SECOND),
    Record(4, ["alloc_pages", "f"], ts_nsec=NOW - SECOND, comm=b"cat"),
    Record(5, ["alloc_pages", "g"], ts_nsec=NOW - SECOND),
)


def test_a_table_has_a_row_a_group_and_a_total() -> None:
    text = "".join(top_table(top(RECORDS, limit=1), RECORDS))
    row = text.splitlines()[4].split()
    assert row[:6] == ["1", "5", "20.0", "KiB", "83.3", "%"]
    assert row[6:] == ["2", "1.0", "s", "-", "60.0", "s", "1", "f"]
    assert text.startswith(
        "1 of 2 groups shown: 5 of 6 pages (83.3 %), 20.0 KiB of 24.0 KiB in 3 allocations\n\n"
    )
    assert text.endswith(
        "\n#1 5 pages, 20.0 KiB (handle 1)\n    alloc_pages+0x10/0x100\n    f+0x10/0x100\n"
    )


def test_every_owner_stands_before_the_first_stack() -> None:
    lines = "".join(top_table(top(RECORDS), RECORDS)).splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("    ")]
    assert [line.split()[-1] for line in lines[4:6]] == ["f", "g"]
    assert min(frames) > 5
    assert [line for line in lines if line.startswith("#")][1:] == [
        "#1 5 pages, 20.0 KiB (handle 1)", "#2 1 page, 4.0 KiB (handle 2)"]  # fmt: skip


def test_other_keys_show_the_largest_owner() -> None:
    rows = "".join(top_table(top(RECORDS, ["comm"]), RECORDS)).splitlines()[-2:]
    assert [row.split()[-2:] for row in rows] == [["1", "f"]] * 2


def test_source_lines_replace_frames() -> None:
    records = snapshot(Record(0, ["f"]))
    [pc] = records.used_pcs().tolist()
    records.source_lines[pc] = [
        SourceFrame("inner", "a.h", 3, True),
        SourceFrame("f", "a.c", 7, False),
    ]
    text = "".join(top_table(top(records), records))
    assert "inner (inlined) at a.h:3" in text
    assert "f+0x10/0x100 at a.c:7" in text


def test_json_and_csv_have_the_same_numbers() -> None:
    result = top(RECORDS, ["allocator"])
    [group, _] = json.loads("".join(top_json(result, RECORDS)))["groups"]
    row = next(csv.DictReader(io.StringIO("".join(top_csv(result, RECORDS)))))
    assert row["allocator"] == group["key"]["allocator"] == "f"
    for name in ("allocations", "pages", "bytes", "oldest_ns", "handle"):
        assert int(row[name]) == group[name]
    assert row["frames"].split(";") == group["stack"]
