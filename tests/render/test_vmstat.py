# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare ``frag buddyinfo``, ``pagetypeinfo`` and ``extfrag`` with the kernel's own files."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from conftest import Dump

from drgn_pageowner import read_memory
from drgn_pageowner.analysis.frag.buddy import fragmentation_index, page_type_info, unusable_index
from drgn_pageowner.analysis.frag.mobility import Overlay, overlay
from drgn_pageowner.kernel.linux.kfence import find_kfence
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.render.vmstat import (
    buddyinfo_text,
    extfrag_text,
    fitted,
    pagetypeinfo_text,
    unusable_text,
)

COLUMNS = ("flags", "refcount", "mapcount", "head")


@functools.cache
def joined_of(dump: Dump) -> Overlay:
    records = dump.snapshot.select(dump.snapshot["allocated"])
    return overlay(read_memory(dump.prog, columns=COLUMNS), records)


@pytest.fixture(scope="module")
def joined(dump: Dump) -> Overlay:
    return joined_of(dump)


def numbers(line: str) -> list[int]:
    return [int(word) for word in re.sub(r"^.*(zone +\S+,? ?|type +\S+ )", "", line).split()]


def lines(text: Iterator[str]) -> list[str]:
    return "".join(text).splitlines()


def moved(ours: list[str], theirs: list[str]) -> int:
    """
    Return the number of pages by which two texts of free blocks differ; everything else must be
    equal.

    The k-th number of a line counts blocks of order k.
    """
    assert len(ours) == len(theirs)
    pages = 0
    for our, their in zip(ours, theirs, strict=True):
        if our == their:
            continue
        # Numbers with more digits replace blanks.
        assert re.sub(r" *\d+ ", "#", our) == re.sub(r" *\d+ ", "#", their)
        pages += abs(
            sum(
                (a - b) << order
                for order, (a, b) in enumerate(zip(numbers(our), numbers(their), strict=True))
            )
        )
    return pages


# Between reading /proc and the crash, the guest allocates and frees a few pages: it opens other
# files, and writes them to a disk.
MOVED = 96


def may_move(joined: Overlay) -> int:
    """
    Return the number of pages that free lists may have lost or gained since the kernel's text.

    Reading /proc/pagetypeinfo empties the per-CPU lists; a CPU that then allocates a page takes
    many at once (480 of 16 KB on arm64).
    """
    free = joined.memory.free
    return MOVED + int((1 << free.order[free.pcp].astype(np.int64)).sum())


def test_buddyinfo_is_the_kernels(dump: Dump, joined: Overlay) -> None:
    truth = dump.truth("proc/buddyinfo").decode().splitlines()
    assert moved(lines(buddyinfo_text(joined.memory)), truth) <= may_move(joined) * dump.drift


def test_pagetypeinfo_is_the_kernels(dump: Dump, joined: Overlay) -> None:
    truth = dump.truth("proc/pagetypeinfo").decode().splitlines()
    ours = lines(pagetypeinfo_text(joined.memory, page_type_info(joined)))
    assert len(ours) == len(truth)
    free = [index for index, line in enumerate(truth) if ", type " in line]
    assert moved([ours[i] for i in free], [truth[i] for i in free]) <= may_move(joined) * dump.drift
    rest = [index for index in range(len(truth)) if index not in free]
    # Single pages do not change the numbers of pageblocks and mixed blocks.
    assert [ours[i] for i in rest] == [truth[i] for i in rest]
    assert any("mixed" in line for line in truth)


@pytest.mark.parametrize("name", ["extfrag_index", "unusable_index"])
def test_extfrag_is_the_kernels(dump: Dump, joined: Overlay, name: str) -> None:
    truth = dump.truth(f"sys/kernel/debug/extfrag/{name}").decode().splitlines()
    text = extfrag_text if name == "extfrag_index" else unusable_text
    ours = lines(text(joined.memory))
    assert len(ours) == len(truth)
    for our, their in zip(ours, truth, strict=True):
        assert re.sub(r"[\d.]+", "", our) == re.sub(r"[\d.]+", "", their)
        values = [[float(word) for word in line.split() if "." in word] for line in (our, their)]
        # A few moved pages are some thousandths of free memory.
        assert np.allclose(values[0], values[1], atol=0.002 if dump.bundled else 0.05)
        assert len(our) == len(their)


def test_every_free_block_was_found_on_its_list(joined: Overlay) -> None:
    memory = joined.memory
    assert (memory.free.migratetype >= 0).all()
    for number, stats in enumerate(memory.zones):
        mine = memory.free.zone == number
        blocks = np.bincount(
            memory.free.order[mine & ~memory.free.pcp], minlength=len(stats.nr_free)
        )
        assert blocks.tolist() == list(stats.nr_free)
        cached = memory.free.order[mine & memory.free.pcp].astype(np.int64)
        assert int((1 << cached).sum()) == stats.pcp


def test_page_states_are_those_of_kpageflags(dump: Dump, joined: Overlay) -> None:
    """Compare the states of all pages with /proc/kpageflags."""
    flags = np.frombuffer(dump.truth("proc/kpageflags"), np.uint64)
    pages = joined.memory.pages
    pfns = pages.all_pfns()
    pfns = pfns[pfns < len(flags)]
    flags = flags[pfns]
    state = pages.state[: len(pfns)]
    # KPF_BUDDY 10, KPF_ANON 12, KPF_HUGE 17, KPF_SLAB 7, KPF_PGTABLE 26 (include/uapi).
    for bit, value in ((12, 10), (17, 13), (7, 7), (26, 9)):
        kernels = (flags >> np.uint64(bit)) & np.uint64(1) != 0
        # /proc/kpageflags marks anonymous hugetlb pages as both.
        ours = state == value
        if bit == 12:
            ours |= (state == 13) & kernels
        if bit == 7:
            # The kernel marks pages of KFENCE's pool as slabs, too.
            pool = find_kfence(dump.linux)
            if pool is not None:
                start = pool.start - direct_map(dump.linux) >> dump.linux.page_shift
                kernels &= (pfns < start) | (pfns >= start + (pool.size >> dump.linux.page_shift))
            # Older kernels only mark the head page of a slab.
            kernels |= ours & (pages["head"][: len(pfns)] != np.arange(len(pfns)))
        different = int((ours != kernels).sum())
        most = dump.drift * max(64, 0.01 * int(kernels.sum()))
        assert different <= most, (bit, different)


@pytest.mark.parametrize(
    ("nr_free", "order", "unusable", "index"),
    [
        ([0] * 11, 3, 1000, 0),
        ([100] + [0] * 10, 0, 0, -1000),
        ([100] + [0] * 10, 3, 1000, 1000 - (1000 + 100 * 1000 // 8) // 100),
        ([0] * 10 + [1], 9, 0, -1000),
        ([4, 2, 1, 1] + [0] * 7, 2, 400, -1000),
    ],
)
def test_the_indices_are_those_of_vmstat_c(
    nr_free: list[int], order: int, unusable: int, index: int
) -> None:
    assert unusable_index(nr_free, order) == unusable
    assert fragmentation_index(nr_free, order) == index


def test_a_narrow_terminal_has_the_same_numbers_in_tables(
    dump_named: Callable[[str], Dump], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = joined_of(dump_named("linux-6.12/traps"))
    text = "".join(pagetypeinfo_text(joined.memory, page_type_info(joined)))
    monkeypatch.setenv("COLUMNS", "200")
    assert "".join(fitted([text])) == text
    monkeypatch.setenv("COLUMNS", "80")
    tables = "".join(fitted([text]))
    assert max(map(len, tables.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines() if line.startswith("Node")]
    numbers = [row[6:] if "type" in row else row[4:] for row in rows]
    found = [line.split() for line in tables.splitlines() if re.match(r" +\d+  DMA32", line)]
    assert [row[-len(row_) :] for row, row_ in zip(found, numbers, strict=True)] == numbers
    assert ["node", "zone", "type", "0", "1"] in [line.split()[:5] for line in tables.splitlines()]
    assert "Movable  Reclaimable  HighAtomic" in tables
