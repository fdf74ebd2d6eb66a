# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test filters on ten records; test_select.py compares them with the kernel's own text."""

from __future__ import annotations

from typing import Any

import pytest
from made import SECOND, made_records

from drgn_pageowner.analysis.owners.select import CRITERIA, Filter, select
from drgn_pageowner.errors import PageOwnerError, UsageError

CASES: list[tuple[Filter, set[int]]] = [
    (Filter({"pfn": (0x11F, 0x200)}), {0x110, 0x200}),
    (Filter({"order": (1, 3)}), {0x1000, 0x2000}),
    (Filter({"gfp": ["gfp_kernel", "__GFP_ZERO"]}), {0x1000, 0x1008}),
    (Filter({"migratetype": ["movable", "Reclaimable"]}), {0x200, 0x201, 0x2000, 0x2002}),
    (Filter({"node": [1]}), {0x2000, 0x2002}),
    (Filter({"zone": ["dma32"]}), {0x100, 0x110, 0x200, 0x201}),
    (Filter({"pid": [71, 12]}), {0x201, 0x2000, 0x2002}),
    (Filter({"tgid": [7]}), {0x200, 0x201}),
    (Filter({"comm": ["kworker/*", "in?t"]}), {0x100, 0x110, 0x1000, 0x1008, 0x1010}),
    (Filter({"handle": [11]}), {0x200, 0x201}),
    (Filter({"memcg": ["alpha"]}), {0x200, 0x201}),
    (Filter({"memcg": ["/x/*"]}), {0x1000, 0x1008}),
    (Filter({"tag": ["*nf_tables*", "init/*"]}), {0x100, 0x110, 0x1000, 0x1008, 0x1010}),
    (Filter(module=["nf_*"]), {0x100, 0x110, 0x1000, 0x1008, 0x1010}),
    (Filter(stack_contains=["vfs_write", "nft_*"]), {0x100, 0x110}),
    (Filter(min_age_ns=60 * SECOND), {0x100, 0x110, 0x200, 0x201}),
    (Filter(max_age_ns=5 * SECOND), {0x1010, 0x2000, 0x2002}),
    (Filter(since_ns=40 * SECOND, until_ns=50 * SECOND), {0x201, 0x1000, 0x1008}),
    (Filter(freed=True), {0x2004}),
    (Filter({"tgid": [7]}, freed=True), {0x2004}),
    (Filter({"tgid": [7], "pid": [71]}, max_age_ns=60 * SECOND), {0x201}),
    (Filter(min_age_ns=200 * SECOND), set()),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(sorted(case[0].columns())))
def test_a_filter_selects(case: tuple[Filter, set[int]]) -> None:
    wanted, pfns = case
    assert set(select(made_records(), wanted)["pfn"].tolist()) == pfns


def test_every_criterion_is_tested_here() -> None:
    assert {name for wanted, _ in CASES for name in wanted.where} == set(CRITERIA)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"gfp": ["GFP_NONSENSE"]}, "unknown gfp flag 'GFP_NONSENSE': this kernel has GFP_KERNEL"),
        ({"migratetype": ["Sideways"]}, "unknown migratetype 'Sideways'"),
        ({"zone": ["Twilight"]}, "unknown zone 'Twilight': this kernel has DMA32, Normal"),
        ({"node": [7]}, "unknown node 7: this kernel has 0, 1"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(
    where: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        select(made_records(), Filter(where))


def test_a_criterion_must_exist() -> None:
    with pytest.raises(UsageError, match="cannot select by 'colour': known are pfn"):
        Filter({"colour": ["red"]})


def test_what_a_kernel_does_not_record_is_refused() -> None:
    with pytest.raises(UsageError, match="does not record comm"):
        select(made_records("comm"), Filter({"comm": ["init"]}))
    with pytest.raises(UsageError, match=r"does not record ts$"):
        select(made_records("ts_nsec"), Filter(since_ns=1))


def test_a_pfn_beyond_memory_is_the_dumps_answer() -> None:
    with pytest.raises(PageOwnerError, match="beyond memory") as caught:
        select(made_records(), Filter({"pfn": (0x3000, 0x4000)}))
    assert caught.value.exit_status == 1
