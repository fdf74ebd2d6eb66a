# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the accounting as text, from a hand-made result."""

from __future__ import annotations

from drgn_pageowner.analysis.account.account import Account, ClassCount, Counter, ZoneCounts
from drgn_pageowner.render.account import account_text

COUNTER = Counter("Slab", 9, 1, 2, "it counts large kmalloc too", 0)
RESULT = Account(
    present=20,
    accounted=20,
    unknown=0,
    classes=[
        ClassCount("free", 12, 49152, None),
        ClassCount("slab", 8, 32768, COUNTER, [("dentry", 6), ("kmalloc-8", 2)]),
    ],
    zones=[ZoneCounts(0, "Normal", 20, {"free": 12, "slab": 8})],
)


def test_a_counter_that_differs_has_a_note() -> None:
    lines = "".join(account_text(RESULT, zones=False, caches=False)).splitlines()
    assert lines[0] == (
        "80.0 KiB of memory; the largest classes: free 48.0 KiB (60.0 %), slab 32.0 KiB (40.0 %)"
    )
    assert lines[5].split() == ["slab", "8", "32.0", "KiB", "40.0", "%", "9", "+0", "Slab", "[1]"]
    assert lines[-2] == (
        "[1] Slab: it counts large kmalloc too: 1 of these pages is not in it, 2 pages of other "
        "classes are"
    )
    assert lines[-1] == "20 pages present, every one of them in one class"


def test_pages_that_the_dump_lacks_are_said() -> None:
    lacking = Account(20, 19, 3, [], [])
    assert list(account_text(lacking, zones=False, caches=False))[-2:] == [
        "20 pages present, 19 in one class",
        "; of 3 the dump has no struct page\n",
    ]


def test_caches_and_zones_on_request() -> None:
    text = "".join(account_text(RESULT, zones=True, caches=True))
    assert "dentry" in text
    assert "Normal of node 0" in text
    assert text.splitlines()[-1].split() == ["present", "20"]
