# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that dumps with missing memory or garbage are read as far as possible."""

from __future__ import annotations

import drgn
import numpy as np
import pytest
from conftest import Dump
from damaged import Patch, apply, hole, overlay
from drgn.helpers.linux.mm import pfn_to_virt

from drgn_pageowner import read_memory, snapshot
from drgn_pageowner.analysis.account.account import account
from drgn_pageowner.analysis.frag.buddy import page_type_info
from drgn_pageowner.analysis.frag.mobility import overlay as overlay_of
from drgn_pageowner.analysis.leaks.leaks import find_leaks
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.analysis.leaks.suspects import suspects
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.bulk import read_bulk
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout
from drgn_pageowner.kernel.linux.sections import find_sections
from drgn_pageowner.kernel.linux.stackdepot import depot_layout
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.pages import PageState


@pytest.fixture
def fresh(one_dump: Dump) -> drgn.Program:
    """Return a separate program, which a test may damage."""
    prog = drgn.Program()
    prog.set_core_dump(str(one_dump.vmcore))
    prog.load_debug_info([str(one_dump.vmlinux)], main=True)
    return prog


def test_a_hole_is_read_around(fresh: drgn.Program) -> None:
    section = find_sections(Kernel(fresh))[0]
    page = 4096
    start = section.page_ext // page * page
    whole = fresh.read(start, 64 * page)
    for first, number in ((10, 1), (20, 3), (40, 1)):
        hole(fresh, start + first * page, number * page)
    bulk = read_bulk(fresh, start, 64 * page)
    assert bulk.missing == [(10 * page, page), (20 * page, 3 * page), (40 * page, page)]
    for index in range(64):
        piece = slice(index * page, (index + 1) * page)
        lost = index in (10, 20, 21, 22, 40)
        assert bulk.data[piece] == (bytes(page) if lost else whole[piece])


def test_a_hole_in_page_ext_costs_only_its_own_records(one_dump: Dump, fresh: drgn.Program) -> None:
    layout = page_ext_layout(Kernel(fresh))
    section = find_sections(Kernel(fresh))[0]
    first, last = section.start_pfn + 5000, section.start_pfn + 6000
    offset = (first - section.start_pfn) * layout.stride
    size = (last - first) * layout.stride
    start = (section.page_ext + offset + 4095) // 4096 * 4096
    hole(fresh, start, size // 4096 * 4096)
    damaged = snapshot(fresh, freed=True)
    whole = one_dump.snapshot
    lost = set(whole["pfn"].tolist()) - set(damaged["pfn"].tolist())
    assert lost
    assert all(first <= pfn < last + 2 for pfn in lost)
    assert set(damaged["pfn"].tolist()) <= set(whole["pfn"].tolist())
    assert any("page_ext" in problem for problem in damaged.problems)
    assert 900 < damaged.coverage["missing"] < 1100


def test_garbage_records_are_counted_and_the_others_come_out(
    one_dump: Dump, fresh: drgn.Program
) -> None:
    layout = page_ext_layout(Kernel(fresh))
    section = find_sections(Kernel(fresh))[0]
    random = np.random.default_rng(1)
    start = section.page_ext + 5000 * layout.stride
    overlay(fresh, start, random.bytes(100 * layout.stride))
    damaged = snapshot(fresh, freed=True)
    whole = one_dump.snapshot
    for name in ("handle", "order", "ts_nsec", "comm"):
        ours = dict(zip(damaged["pfn"].tolist(), damaged[name].tolist(), strict=True))
        for pfn, value in zip(whole["pfn"].tolist(), whole[name].tolist(), strict=True):
            if not 0 <= pfn - section.start_pfn - 5000 < 100:
                assert ours[pfn] == value
    assert any("impossible order" in problem for problem in damaged.problems)
    assert any("not in the stack depot" in problem for problem in damaged.problems)


def test_an_array_of_another_section_is_told_and_costs_that_one_nothing(
    one_dump: Dump, fresh: drgn.Program
) -> None:
    first, second = find_sections(Kernel(fresh))[:2]
    number = second.start_pfn // (second.end_pfn - second.start_pfn)
    pointer = fresh["mem_section"][0][number].page_ext
    # The stored pointer is biased by the section's first PFN.
    biased = int(pointer) - second.page_ext + first.page_ext
    overlay(fresh, int(pointer.address_ or 0), (biased & (1 << 64) - 1).to_bytes(8, "little"))
    assert find_sections(Kernel(fresh))[1].page_ext == first.page_ext
    damaged = snapshot(fresh, freed=True)
    [problem] = [line for line in damaged.problems if "overlap" in line]
    assert f"{first.start_pfn:#x} and {second.start_pfn:#x}" in problem
    whole = one_dump.snapshot
    for ours, theirs in ((damaged, whole), (whole, damaged)):
        kept = ours["pfn"] < second.start_pfn
        assert set(ours["pfn"][kept].tolist()) <= set(theirs["pfn"].tolist())


def test_a_lost_stack_depot_pool_costs_only_its_stacks(one_dump: Dump, fresh: drgn.Program) -> None:
    pools = fresh[depot_layout(Kernel(fresh)).pools]
    hole(fresh, int(pools[0]), 16384)
    damaged = snapshot(fresh, freed=True)
    assert damaged["handle"].tolist() == one_dump.snapshot["handle"].tolist()
    assert 0 < len(damaged.stacks) < len(one_dump.snapshot.stacks)
    assert any("not in the stack depot" in problem for problem in damaged.problems)


def test_a_lost_memmap_costs_only_what_it_says(one_dump: Dump, fresh: drgn.Program) -> None:
    section = find_sections(Kernel(fresh))[0]
    start = (section.memmap + 8000 * 64) // 4096 * 4096
    hole(fresh, start, 16 * 4096)
    damaged = snapshot(fresh, freed=True)
    assert damaged["pfn"].tolist() == one_dump.snapshot["pfn"].tolist()
    different = damaged["pfn"][damaged["page_flags"] != one_dump.snapshot["page_flags"]]
    assert all(7000 < pfn - section.start_pfn < 10000 for pfn in different.tolist())
    assert any("struct page" in problem for problem in damaged.problems)


def test_without_page_ext_the_dump_cannot_answer(fresh: drgn.Program) -> None:
    layout = page_ext_layout(Kernel(fresh))
    for section in find_sections(Kernel(fresh)):
        size = (section.end_pfn - section.start_pfn) * layout.stride
        hole(fresh, section.page_ext // 4096 * 4096, size + 8192)
    with pytest.raises(PageOwnerError, match="makedumpfile"):
        snapshot(fresh)


def test_without_mem_section_the_dump_cannot_answer(fresh: drgn.Program) -> None:
    hole(fresh, int(fresh["mem_section"]), 4096)
    with pytest.raises(PageOwnerError, match="mem_section"):
        snapshot(fresh)


KERNEL_STATES = (PageState.SLAB, PageState.RESERVED, PageState.KERNEL, PageState.TABLE)


@pytest.mark.once
@pytest.mark.parametrize(
    "seed", [*(pytest.param(n, marks=pytest.mark.thorough) for n in (0, 1)), 2]
)
@pytest.mark.parametrize("kind", ["hole", "random", "flip"])
def test_damage_anywhere_is_survived(
    one_dump: Dump, fresh: drgn.Program, kind: str, seed: int
) -> None:
    """Every analysis succeeds, or fails with one line that gives the reason."""
    random = np.random.default_rng(seed)
    pages = read_memory(one_dump.prog).pages
    chosen = np.flatnonzero(np.isin(pages.state, KERNEL_STATES))
    pfns = pages.pfns(random.choice(chosen, (1, 20, 200)[seed % 3], replace=False))
    direct = int(pfn_to_virt(one_dump.prog, 0))
    patches = []
    for pfn in pfns.tolist():
        data = bytearray(read_bulk(one_dump.prog, pfn * 4096, 4096, physical=True).data)
        if kind == "random":
            data = bytearray(random.bytes(4096))
        for place in random.integers(0, 4096, 20 if kind == "flip" else 0).tolist():
            data[place] ^= 1 << (place % 8)

        patches.append(Patch(direct + pfn * 4096, bytes(data), kind == "hole"))
    apply(fresh, patches)
    session = ProgramSession(fresh)
    for analysis in (
        lambda: account(session.inventory()),
        lambda: suspects(session.inventory()),
        lambda: find_leaks(reach(session.heap(types=True)), everything=True),
        lambda: page_type_info(overlay_of(session.memory(()), session.snapshot(None))),
    ):
        said = ""
        try:
            analysis()
        except PageOwnerError as error:
            said = str(error)
        assert "\n" not in said
