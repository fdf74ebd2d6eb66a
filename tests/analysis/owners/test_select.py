# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare every filter with records parsed from the kernel's own text."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from conftest import Dump

from drgn_pageowner.analysis.owners.select import Filter, select
from drgn_pageowner.errors import PageOwnerError, UsageError


@dataclass
class Record:
    """One record of /sys/kernel/debug/page_owner."""

    order: int
    mask: int
    flags: list[str]
    pid: int
    tgid: int
    comm: str
    ts: int
    pfn: int
    migratetype: str
    stack: list[str]
    memcg: str | None


HEAD = re.compile(
    r"Page allocated via order (\d+), mask (0x[0-9a-f]+)\((.*?)\), pid (\d+), tgid (\d+) "
    r"\((.*)\), ts (\d+) ns"
)
PFN = re.compile(r"PFN (\w+) type (\w+) Block")
MEMCG = re.compile(r"Charged (?:\(via objcg\) )?to (?:offline )?memcg (.*)")


def parse(text: str) -> Record:
    lines = text.split("\n")
    head, place = HEAD.match(lines[0]), PFN.match(lines[1])
    assert head, lines[0]
    assert place, lines[1]
    memcg = next((m.group(1) for line in lines if (m := MEMCG.match(line))), None)
    return Record(
        order=int(head[1]),
        mask=int(head[2], 16),
        flags=head[3].split("|"),
        pid=int(head[4]),
        tgid=int(head[5]),
        comm=head[6],
        ts=int(head[7]),
        pfn=int(place[1], 0),
        migratetype=place[2],
        stack=[line.strip() for line in lines[2:] if line.startswith(" ")],
        memcg=memcg,
    )


@pytest.fixture(scope="module")
def text(one_dump: Dump) -> list[Record]:
    # Split at blank lines only, because task names may contain other line ends.
    raw = one_dump.truth("sys/kernel/debug/page_owner").decode(errors="surrogateescape")
    return [parse(record) for record in raw.split("\n\n") if record]


def has_function(record: Record, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(frame.split("+")[0], pattern) for frame in record.stack)


NOW = 6_000_000_000

CASES: list[tuple[Filter, Callable[[Record], bool]]] = [
    (Filter({"pid": [1]}), lambda r: r.pid == 1),
    (Filter({"pid": [1, 2]}), lambda r: r.pid in (1, 2)),
    (Filter({"tgid": [1]}), lambda r: r.tgid == 1),
    (Filter({"comm": ["worker-*"]}), lambda r: r.comm.startswith("worker-")),
    (Filter({"comm": ["sw[a-z]pper", "init"]}), lambda r: r.comm in ("swapper", "init")),
    (Filter({"order": (2, 3)}), lambda r: 2 <= r.order <= 3),
    (Filter({"gfp": ["__GFP_ZERO"]}), lambda r: bool(r.mask & 0x100)),
    (Filter({"gfp": ["GFP_KERNEL", "__GFP_COMP"]}), lambda r: r.mask & 0x40CC0 == 0x40CC0),
    (Filter({"migratetype": ["movable"]}), lambda r: r.migratetype == "Movable"),
    (Filter(module=["po_holder"]), lambda r: any("[po_holder]" in f for f in r.stack)),
    (Filter(module=["po_*"]), lambda r: any("[po_" in f for f in r.stack)),
    (Filter(stack_contains=["vfs_write"]), lambda r: has_function(r, "vfs_write")),
    (
        Filter(stack_contains=["*splice*", "get_page_from_freelist"]),
        lambda r: has_function(r, "*splice*") and has_function(r, "get_page_from_freelist"),
    ),
    (
        Filter({"pfn": (50000, 60000)}),
        lambda r: r.pfn + (1 << r.order) > 50000 and r.pfn <= 60000,
    ),
    (Filter(since_ns=2 * 10**9), lambda r: r.ts >= 2 * 10**9),
    (Filter(until_ns=10**9), lambda r: r.ts <= 10**9),
    (
        Filter({"order": (0, 0), "comm": ["init"]}, since_ns=10**9, until_ns=2 * 10**9),
        lambda r: 10**9 <= r.ts <= 2 * 10**9 and r.order == 0 and r.comm == "init",
    ),
    (Filter({"memcg": ["beta"]}), lambda r: r.memcg == "beta"),
    (Filter({"memcg": ["/beta"]}), lambda r: r.memcg == "beta"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(sorted(case[0].columns())))
def test_a_filter_selects_what_the_text_says(
    one_dump: Dump,
    text: list[Record],
    case: tuple[Filter, Callable[[Record], bool]],
) -> None:
    wanted, holds = case
    allocated = one_dump.snapshot.select(one_dump.snapshot["allocated"])
    ours = set(select(allocated, wanted)["pfn"].tolist())
    truth = {record.pfn for record in text if holds(record)}
    assert truth
    # A handful of records changed between the text and the dump.
    assert len(ours ^ truth) <= max(2, 0.005 * len(truth))


def test_ages_count_back_from_the_dump(one_dump: Dump) -> None:
    snapshot = one_dump.snapshot.select(one_dump.snapshot["allocated"])
    now = snapshot.facts.now_ns
    assert now is not None
    old = select(snapshot, Filter(min_age_ns=5 * 10**9))
    young = select(snapshot, Filter(max_age_ns=5 * 10**9 - 1))
    assert 0 < len(old) < len(snapshot)
    assert len(old) + len(young) == len(snapshot)
    assert int(old["ts_nsec"].max()) <= now - 5 * 10**9


def test_zone_node_and_handle(one_dump: Dump) -> None:
    snapshot = one_dump.snapshot.select(one_dump.snapshot["allocated"])
    for zone in snapshot.facts.zones:
        chosen = select(snapshot, Filter({"zone": [zone.name.lower()], "node": [zone.node]}))
        inside = chosen["pfn"]
        assert len(inside) == 0 or (
            inside.min() >= zone.start_pfn and inside.max() < zone.start_pfn + zone.spanned
        )
    handle = int(snapshot["handle"][100])
    assert set(select(snapshot, Filter({"handle": [handle]}))["handle"].tolist()) == {handle}


@pytest.mark.parametrize(
    "wanted",
    [
        Filter({"gfp": ["GFP_NONSENSE"]}),
        Filter({"migratetype": ["Sideways"]}),
        Filter({"zone": ["Twilight"]}),
    ],
    ids=["gfp", "migratetype", "zone"],
)
def test_an_unknown_name_is_refused_with_the_known_ones(one_dump: Dump, wanted: Filter) -> None:
    with pytest.raises(UsageError, match="known"):
        select(one_dump.snapshot, wanted)


def test_a_pfn_beyond_memory_is_the_dumps_answer(one_dump: Dump) -> None:
    with pytest.raises(PageOwnerError, match="beyond memory") as caught:
        select(one_dump.snapshot, Filter({"pfn": (1 << 40, 1 << 40)}))
    assert caught.value.exit_status == 1


def test_what_a_kernel_does_not_record_is_refused(dump: Dump) -> None:
    if "comm" in dump.snapshot:
        pytest.skip("this kernel records task names")
    with pytest.raises(UsageError, match="does not record comm"):
        select(dump.snapshot, Filter({"comm": ["init"]}))
