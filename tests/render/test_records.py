# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the output of ``list`` and ``top`` for other programs."""

from __future__ import annotations

import csv
import io
import json

import pytest
from conftest import Dump

from drgn_pageowner.analysis.owners.group import top
from drgn_pageowner.render.debugfs import debugfs_text
from drgn_pageowner.render.records import RECORD_FIELDS, records_csv, records_json, records_table
from drgn_pageowner.render.top import top_csv, top_json, top_table

pytestmark = pytest.mark.one_of_a_kernel


def test_json_lines_have_every_field_and_the_columns_values(dump: Dump) -> None:
    snapshot = dump.snapshot
    lines = "".join(records_json(snapshot)).splitlines()
    assert len(lines) == len(snapshot)
    rows = [json.loads(line) for line in lines]
    assert all(tuple(row) == RECORD_FIELDS for row in rows[:100])
    for field in ("pfn", "order", "gfp_mask", "handle", "pid", "ts_nsec", "node"):
        values = [row[field] for row in rows]
        if field in snapshot:
            assert values == snapshot[field].tolist()
        else:
            assert set(values) == {None}
    for row in rows[::997]:
        assert row["pages"] == 1 << row["order"]
        assert row["pageblock"] == row["pfn"] >> snapshot.facts.pageblock_order
        assert row["zone"] in {zone.name for zone in snapshot.facts.zones}


def test_json_stacks_and_names_are_those_of_the_kernels_text(dump: Dump) -> None:
    snapshot = dump.snapshot.select(dump.snapshot["allocated"])
    texts = "".join(debugfs_text(snapshot)).split("\n\n")
    rows = [json.loads(line) for line in "".join(records_json(snapshot)).splitlines()]
    assert len(rows) == len(texts) - 1
    for row, text in zip(rows[::499], texts[::499], strict=False):
        for frame in row["stack"]:
            assert f"\n {frame}" in text
        assert f"mask {row['gfp_mask']:#x}({row['gfp_flags']})" in text
        assert f"type {row['migratetype']} Block {row['pageblock']}" in text


def test_csv_has_the_same_fields_and_rows(dump: Dump) -> None:
    snapshot = dump.snapshot.first(500)
    rows = list(csv.DictReader(io.StringIO("".join(records_csv(snapshot)))))
    assert tuple(rows[0]) == RECORD_FIELDS
    assert [int(row["pfn"]) for row in rows] == snapshot["pfn"].tolist()
    parsed = [json.loads(line) for line in "".join(records_json(snapshot)).splitlines()]
    assert [row["stack"].split(";") for row in rows] == [row["stack"] or [""] for row in parsed]


def test_the_table_has_a_line_a_record_and_the_total(dump: Dump) -> None:
    snapshot = dump.snapshot.first(50)
    lines = "".join(records_table(snapshot)).splitlines()
    assert sum(line.lstrip().startswith("0x") for line in lines) == 50
    assert lines[-1] == f"50 records, {int(snapshot.pages.sum()):,} pages"


@pytest.mark.parametrize("by", [["stack"], ["allocator"], ["order", "migratetype"], ["module"]])
def test_top_json_is_as_documented_and_sums_to_the_total(dump: Dump, by: list[str]) -> None:
    snapshot = dump.snapshot.select(dump.snapshot["allocated"])
    result = json.loads("".join(top_json(top(snapshot, by), snapshot)))
    assert result["by"] == by
    assert result["total"] == {
        "allocations": len(snapshot),
        "pages": int(snapshot.pages.sum()),
        "bytes": int(snapshot.pages.sum()) * snapshot.facts.page_size,
    }
    for what in ("allocations", "pages", "bytes"):
        assert sum(group[what] for group in result["groups"]) == result["total"][what]
    for group in result["groups"]:
        assert list(group["key"]) == by
        assert {"oldest_ns", "newest_ns", "stack"} <= group.keys()
    pages = [group["pages"] for group in result["groups"]]
    assert pages == sorted(pages, reverse=True)


def test_top_says_the_totals_and_the_share_that_is_shown(one_dump: Dump) -> None:
    snapshot = one_dump.snapshot.select(one_dump.snapshot["allocated"])
    result = top(snapshot, ["comm"], limit=3)
    text = "".join(top_table(result, snapshot))
    shown = sum(group.pages for group in result.groups)
    assert f"{result.pages:,}" in text
    assert f"{100 * shown / result.pages:.1f} %" in text
    rows = list(csv.DictReader(io.StringIO("".join(top_csv(result, snapshot)))))
    assert [int(row["pages"]) for row in rows] == [group.pages for group in result.groups]


def test_groups_of_every_key_are_sums_of_the_records(one_dump: Dump) -> None:
    snapshot = one_dump.snapshot.select(one_dump.snapshot["allocated"])
    rows = [json.loads(line) for line in "".join(records_json(snapshot)).splitlines()]
    for key, field in (("comm", "comm"), ("pid", "pid"), ("tgid", "tgid"), ("order", "order"),
                       ("gfp", "gfp_mask"), ("migratetype", "migratetype"), ("zone", "zone"),
                       ("node", "node"), ("memcg", "memcg")):  # fmt: skip
        sums: dict[object, int] = {}
        for row in rows:
            sums[row[field]] = sums.get(row[field], 0) + row["pages"]
        groups = {group.key[key]: group.pages for group in top(snapshot, [key]).groups}
        assert groups == sums, key


@pytest.mark.parametrize("sort", ["pages", "allocations", "oldest", "newest", "-pages", "order"])
def test_sorting(one_dump: Dump, sort: str) -> None:
    snapshot = one_dump.snapshot.select(one_dump.snapshot["allocated"])
    groups = top(snapshot, ["order"], sort=[sort]).groups
    values = {
        "pages": [-g.pages for g in groups],
        "-pages": [g.pages for g in groups],
        "allocations": [-g.allocations for g in groups],
        "oldest": [g.oldest_ns for g in groups],
        "newest": [g.newest_ns for g in groups],
        "order": [g.key["order"] for g in groups],
    }[sort]
    assert values in (sorted(values), sorted(values, reverse=True))
    assert len(set(values)) > 1
