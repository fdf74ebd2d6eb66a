# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test one hand-made page as text and JSON."""

from __future__ import annotations

import json

import pytest
from handmade import NAMES, SECOND, frames

from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.page import PageInfo, number_of, record_of
from drgn_pageowner.render.page import page_json, page_text

RECORD = record_of(
    {"order": 1, "gfp_mask": 0xCC0, "handle": 9, "ts_nsec": 90 * SECOND, "pid": 7, "comm": b"cat",
     "last_migrate_reason": -1},
    [frames("alloc_pages", "f"), []],
    allocated=True,
    head_pfn=4,
    migratetype=1,
    now_ns=100 * SECOND,
)  # fmt: skip


def info(**more: object) -> PageInfo:
    known: dict[str, object] = {
        "what": "pfn:5", "kind": "PFN", "pfn": 5, "phys": 0x5000, "struct_page": None,
        "virtual": None, "names": NAMES, "record": RECORD, **more,
    }  # fmt: skip
    return PageInfo(**known)  # type: ignore[arg-type]


def test_a_record_is_a_fact_a_line() -> None:
    lines = "".join(page_text(info())).splitlines()
    text = " ".join(" ".join(lines).split())
    assert lines[0].split() == ["page", "pfn:0x5"]
    assert "allocation order 1 (2 pages) at pfn:0x4" in text
    assert "gfp mask 0xcc0(GFP_KERNEL) migratetype Movable" in text
    assert "when 90.000000 s after boot, 10.0 s before the dump by pid 7 (cat)" in text
    assert lines[-3:] == ["allocated by:", "  alloc_pages+0x10/0x100", "  f+0x10/0x100"]


def test_a_page_without_a_record_says_why() -> None:
    text = "".join(page_text(info(record=None, no_record="it is free")))
    assert "none: it is free" in text
    assert "allocated by" not in text


def test_a_slab_object_has_its_state() -> None:
    slab = {"cache": "dentry", "object": 0x1000, "offset": 8, "object_size": 192, "allocated": None}
    text = "".join(page_text(info(slab=slab, head_pfn=4, compound_order=1)))
    assert "dentry: of unknown state object 0x1000+8 of 192 bytes" in text
    assert "tail 1 of a page of order 1 at pfn:0x4" in text


def test_json_has_names_beside_numbers() -> None:
    found = json.loads("".join(page_json(info(flags=3, pageblock_migratetype=0))))
    assert found["flags"] == "0x3(locked|lru)"
    assert found["pageblock_migratetype"] == "Unmovable"
    assert found["record"]["gfp_flags"] == "GFP_KERNEL"
    assert found["record"]["comm"] == "cat"
    assert found["record"]["last_migrate_reason"] is None
    assert found["record"]["stack"] == ["alloc_pages+0x10/0x100", "f+0x10/0x100"]


@pytest.mark.parametrize(("text", "value"), [("17", 17), ("0x11", 17)])
def test_a_number_names_a_page(text: str, value: int) -> None:
    assert number_of(text, text) == value


def test_digits_of_an_address_need_no_0x() -> None:
    assert number_of("ffff888000000000", "", bare_hex=True) == 0xFFFF888000000000


@pytest.mark.parametrize("text", ["", "-1", "0x", "1g", "0x10000000000000000"])
def test_what_is_no_number_of_64_bits_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        number_of(text, text)
