# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test hand-made facts about a page."""

from __future__ import annotations

import json
from dataclasses import replace

from made import NAMES, made_records

from drgn_pageowner.model.page import PageInfo, PageRecord, record_of
from drgn_pageowner.render.page import page_json, page_text

RECORD = PageRecord(
    allocated=True, order=1, head_pfn=0x200, gfp_mask=0xCC0, migratetype=1, handle=11, stack=()
)
INFO = PageInfo(
    what="pfn:0x201", kind="PFN", pfn=0x201, phys=0x201000, struct_page=None, virtual=None,
    names=NAMES, record=RECORD,
)  # fmt: skip


def test_members_without_a_place_of_their_own_are_shown() -> None:
    others = {"page_flags": 1 << 5, "comm": b"sh", "memcg_kind": 2, "pageblock_migratetype": -1}
    info = replace(INFO, record=replace(RECORD, others=others))
    record = json.loads("".join(page_json(info)))["record"]
    assert "others" not in record
    assert {name: record[name] for name in others} == {
        "page_flags": "lru",
        "comm": "sh",
        "memcg_kind": 2,
        "pageblock_migratetype": None,
    }
    lines = dict(line.split(maxsplit=1) for line in "".join(page_text(info)).splitlines()[:12])
    assert lines["page_flags"] == "lru"
    assert lines["pageblock_migratetype"] == "-"


def test_only_members_of_the_record_are_kept() -> None:
    rows = made_records()
    values = {name: column[3].item() for name, column in rows.columns.items()}
    record = record_of(
        values, [[], []], allocated=True, head_pfn=0x201, migratetype=1, now_ns=100 * 10**9
    )
    assert record.others == {}
    assert (record.pid, record.tgid, record.comm) == (71, 7, b"sh")
    assert record.age_ns == 60 * 10**9
