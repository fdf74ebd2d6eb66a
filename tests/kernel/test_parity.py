# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare our text with the kernel's own /sys/kernel/debug/page_owner, byte for byte."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from conftest import Dump

from drgn_pageowner.analysis.owners.group import top
from drgn_pageowner.render.debugfs import debugfs_text

pytestmark = pytest.mark.every_dump

OWNER = "sys/kernel/debug/page_owner"


def records(text: bytes) -> list[bytes]:
    return [record for record in text.split(b"\n\n") if record]


def pfn(record: bytes) -> int:
    match = re.search(rb"^PFN (\w+)", record, re.MULTILINE)
    assert match
    return int(match.group(1), 0)


@pytest.fixture(scope="module")
def ours(dump: Dump) -> list[bytes]:
    text = "".join(debugfs_text(dump.snapshot))
    return records(text.encode(errors="surrogateescape"))


@pytest.fixture(scope="module")
def kernels(dump: Dump) -> list[bytes]:
    return records(dump.truth(OWNER))


def without_flags(record: bytes) -> bytes:
    return re.sub(rb" Flags \S+", b"", record, count=1)


def text_read_ns(dump: Dump) -> int:
    """Return the time at which the kernel began to print its text, on the clock of the records."""
    # The guest's CLOCK_MONOTONIC may differ from the clock of the records by some milliseconds.
    return int(dump.truth("clock-before")) - 50 * 10**6


def changed_since(dump: Dump, pfns: set[int]) -> set[int]:
    """
    Return those of *pfns* whose timestamps show that the record changed after the text.

    Linux 5.10 has no timestamps, so all of *pfns* are returned.
    """
    snapshot = dump.snapshot
    if "ts_nsec" not in snapshot:
        return pfns
    start = np.uint64(text_read_ns(dump))
    late = snapshot["ts_nsec"] >= start
    if "free_ts_nsec" in snapshot:
        late |= snapshot["free_ts_nsec"] >= start
    changed: set[int] = set()
    for first, number in zip(
        snapshot["pfn"][late].tolist(), snapshot.pages[late].tolist(), strict=True
    ):
        changed.update(range(first, first + number))
    return changed & pfns


def test_every_record_is_the_kernels_byte_for_byte(
    dump: Dump, ours: list[bytes], kernels: list[bytes]
) -> None:
    only_ours = set(ours) - set(kernels)
    only_kernels = set(kernels) - set(ours)
    different = {pfn(record) for record in only_ours | only_kernels}
    unexplained = different - changed_since(dump, different)
    # Page flags may change without a timestamp: if a slab is added to or removed from a list of
    # partial slabs, and if a page moves from a per-CPU batch to an LRU list.
    alike = set(map(without_flags, only_ours)) & set(map(without_flags, only_kernels))
    batched = {
        without_flags(record) for record in only_ours if b"|mlocked" in record or b"|lru" in record
    }
    # SLUB marks slabs on lists of partial slabs with workingset.
    batched |= {
        without_flags(record) for record in only_ours | only_kernels if b"(workingset|" in record
    }
    listed = {pfn(record) for record in alike if b"slab" in record or record in batched}
    assert len(listed) <= (6 if dump.bundled else 0.02 * len(kernels))
    assert not unexplained - listed, sorted(unexplained)[:10]
    assert len(different) < 0.005 * dump.drift * len(kernels)
    assert len(kernels) > 10_000


def test_records_are_in_the_kernels_order(ours: list[bytes], kernels: list[bytes]) -> None:
    common = set(ours) & set(kernels)
    assert [r for r in ours if r in common] == [r for r in kernels if r in common]


@pytest.mark.parametrize(
    "line",
    [
        rb"^Page has been migrated, last migrate reason: \w+$",
        rb"\[po_holder\]$",
        rb"^ 0x[0-9a-f]+$",
    ],
)
def test_the_texts_have_the_lines_that_are_hard(dump: Dump, ours: list[bytes], line: bytes) -> None:
    if not dump.name.startswith("linux-"):
        pytest.skip("other dumps need not have them")
    assert any(re.search(line, record, re.MULTILINE) for record in ours)


def test_memory_cgroups_are_printed_as_the_kernel_does(
    dump: Dump, ours: list[bytes], kernels: list[bytes]
) -> None:
    def lines(found: list[bytes]) -> Counter[bytes]:
        matches = (re.search(rb"^(Charged .*|Slab cache page)$", r, re.MULTILINE) for r in found)
        return Counter(match.group(1) for match in matches if match)

    truth = lines(kernels)
    if not truth:
        pytest.skip("this kernel prints no memory cgroup")
    counted = lines(ours)
    assert counted.keys() == truth.keys()
    assert sum((counted - truth).values()) <= 0.005 * sum(truth.values())
    if dump.name.startswith("linux-"):
        assert any(line.startswith(b"Charged (via objcg) to memcg") for line in truth)
    if dump.kernel in ("6.1", "6.12"):
        # Since Linux kernel commit f1cf8d2f36dc ("mm: memcontrol: eliminate the problem of dying
        # memory cgroup for LRU folios") (in v7.1), pages charged to a removed cgroup belong to its
        # parent.
        assert any(b"offline memcg gone" in line for line in truth)


def test_top_sums_are_the_texts_sums(dump: Dump, kernels: list[bytes]) -> None:
    allocated = dump.snapshot.select(dump.snapshot["allocated"])
    result = top(allocated, ["order"])
    orders = Counter(
        int(match.group(1))
        for record in kernels
        if (match := re.match(rb"Page allocated via order (\d+)", record))
    )
    pages = sum(number << order for order, number in orders.items())
    changed = changed_since(dump, set(range(dump.snapshot.facts.max_pfn)))
    assert abs(result.pages - pages) <= len(changed)
    assert abs(result.allocations - sum(orders.values())) <= len(changed)
    for group in result.groups:
        difference = group.allocations - orders[group.key["order"]]
        assert abs(difference) <= len(changed), group.key


def test_pages_per_stack_are_show_stacks(dump: Dump) -> None:
    path = "sys/kernel/debug/page_owner_stacks/show_stacks"
    if not dump.has_truth(path):
        pytest.skip("this kernel has no show_stacks")
    truth = {}
    for entry in records(dump.truth(path)):
        stack, _, number = entry.rpartition(b"nr_base_pages: ")
        truth[stack.rstrip()] = int(number)
    snapshot = dump.snapshot.select(dump.snapshot["allocated"])
    # It was read a moment before the records, and page maps of every page in between.
    start = np.uint64(text_read_ns(dump) - 2 * 10**9)
    touched = set(
        snapshot.stack[
            (snapshot["ts_nsec"] >= start) | (snapshot["free_ts_nsec"] >= start)
        ].tolist()
    )
    freed = dump.snapshot.select(~dump.snapshot["allocated"])
    touched |= set(freed.stack[freed["free_ts_nsec"] >= start].tolist())
    compared = different = 0
    for group in top(snapshot, ["stack"]).groups:
        number = int(snapshot.stacks.index(np.array([group.handle], np.uint32))[0])
        text = "\n".join(f" {frame}" for frame in group.stack).encode()
        if number in touched or text not in truth:
            continue
        # If a page was freed and allocated again, its record does not show the first owner.
        different += abs(truth[text] - group.pages)
        compared += 1
    assert compared > 100
    assert different <= int(snapshot.pages[snapshot["ts_nsec"] >= start].sum())
