# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test ten records as JSON, CSV and tables; test_records.py tests real dumps."""

from __future__ import annotations

import csv
import io
import json

import pytest
from made import made_records

from drgn_pageowner.analysis.owners.group import top
from drgn_pageowner.model.columns import FIELDS, STORED
from drgn_pageowner.render.records import RECORD_FIELDS, records_csv, records_json, records_table
from drgn_pageowner.render.top import top_csv, top_json, top_table


def test_a_record_in_json() -> None:
    rows = [json.loads(line) for line in "".join(records_json(made_records())).splitlines()]
    expected = {
        "pfn": 0x201,
        "order": 0,
        "pages": 1,
        "gfp_mask": 0xCC8,
        "gfp_flags": "GFP_KERNEL|__GFP_MOVABLE",
        "migratetype": "Movable",
        "pageblock": 1,
        "pageblock_migratetype": "Movable",
        "page_flags": "lru",
        "node": 0,
        "zone": "DMA32",
        "pid": 71,
        "tgid": 7,
        "comm": "sh",
        "ts_nsec": 40_000_000_000,
        "free_ts_nsec": 9_000_000_000,
        "handle": 11,
        "allocated": True,
        "last_migrate_reason": "memory_failure",
        "memcg": "/alpha",
        "stack": ["__alloc_pages+0x10/0x100", "do_anonymous_page+0x20/0x100"],
        "free_pid": 1,
        "free_tgid": 1,
        "free_handle": 33,
    }
    assert {name: rows[3][name] for name in expected} == expected
    assert tuple(rows[3]) == RECORD_FIELDS


def test_none_is_null() -> None:
    rows = [json.loads(line) for line in "".join(records_json(made_records())).splitlines()]
    assert rows[8]["pageblock_migratetype"] is None
    assert rows[8]["last_migrate_reason"] is None
    assert rows[8]["memcg"] is None
    assert rows[8]["stack"] == []
    assert rows[9]["allocated"] is False


@pytest.mark.parametrize("name", [column.name for column in STORED.values() if column.since])
def test_a_field_that_the_kernel_does_not_record_is_null(name: str) -> None:
    rows = [json.loads(line) for line in "".join(records_json(made_records(name))).splitlines()]
    nulls = {field.name for field in FIELDS if name in (field.name, field.of)}
    for row, full in zip(rows, "".join(records_json(made_records())).splitlines(), strict=True):
        assert row == {**json.loads(full), **dict.fromkeys(nulls)}


def test_csv_has_the_values_of_json() -> None:
    rows = list(csv.DictReader(io.StringIO("".join(records_csv(made_records())))))
    parsed = [json.loads(line) for line in "".join(records_json(made_records())).splitlines()]
    assert tuple(rows[0]) == RECORD_FIELDS
    for row, values in zip(rows, parsed, strict=True):
        for field, value in values.items():
            text = ";".join(value) if field == "stack" else "" if value is None else str(value)
            assert row[field] == text


def test_a_table_names_the_allocator() -> None:
    lines = "".join(records_table(made_records())).splitlines()
    assert lines[0].split() == [
        "pfn", "order", "gfp", "migratetype", "node", "zone", "pid", "comm", "memcg", "age",
        "handle", "allocator",
    ]  # fmt: skip
    assert "nft_set_init+0x10/0x100 [nf_tables]" in lines[2]
    assert " 99.0 s " in lines[2]
    assert lines[-1] == "10 records, 33 pages"


def test_no_records() -> None:
    none = made_records().first(0)
    assert "".join(records_json(none)) == ""
    assert "".join(records_csv(none)).splitlines() == [",".join(RECORD_FIELDS)]
    assert "".join(records_table(none)).splitlines()[-1] == "0 records, 0 pages"


def test_groups_as_a_table_json_and_csv() -> None:
    records = made_records().first(9)
    result = top(records, ["gfp", "comm"], limit=1)
    [line] = [
        line for line in "".join(top_table(result, records)).splitlines() if "GFP_KERNEL" in line
    ]
    assert line.split()[:5] == ["17", "68.0", "KiB", "53.1", "%"]
    assert "0xcc0 (GFP_KERNEL)" in line
    answer = json.loads("".join(top_json(result, records)))
    assert answer["total"] == {"allocations": 9, "pages": 32, "bytes": 32 * 4096}
    assert answer["groups"][0]["key"] == {"gfp": 0xCC0, "comm": "init"}
    [row] = csv.DictReader(io.StringIO("".join(top_csv(result, records))))
    assert (row["gfp"], row["comm"], row["pages"]) == ("3264", "init", "17")
