# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare memory that was added, offlined or removed with the guest's /sys/devices/system."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import Dump

from drgn_pageowner import read_memory
from drgn_pageowner.kernel.linux.sections import Section, _vmemmap, find_sections, has_vmemmap
from drgn_pageowner.kernel.read.inventory import InventoryReader
from drgn_pageowner.kernel.read.page import page_report
from drgn_pageowner.model.heap import Metadata
from drgn_pageowner.model.pages import PageState

BLOCK_SIZE = "sys/devices/system/memory/block_size_bytes"


@pytest.fixture(scope="module")
def blocks(dump: Dump) -> dict[int, str]:
    """Return the state of every memory block, by number, of a guest to which memory was added."""
    if not dump.has_truth(BLOCK_SIZE):
        pytest.skip("this guest did not say what its memory blocks are")
    root = dump.truth_directory / "sys/devices/system/memory"
    states = {
        int(path.parent.name.removeprefix("memory")): path.read_text().strip()
        for path in root.glob("memory*/state")
    }
    if set(states.values()) == {"online"}:
        pytest.skip("all memory of this guest is online")
    return states


def sections_of(dump: Dump) -> dict[int, Section]:
    size = int(dump.truth(BLOCK_SIZE), 16) // dump.snapshot.facts.page_size
    sections = find_sections(dump.linux)
    assert {section.end_pfn - section.start_pfn for section in sections} == {size}
    return {section.start_pfn // size: section for section in sections}


def mem_total(meminfo: str) -> int:
    match = re.search(r"MemTotal: +(\d+)", meminfo)
    assert match
    return int(match.group(1))


def test_sections_are_the_memory_blocks(dump: Dump, blocks: dict[int, str]) -> None:
    sections = sections_of(dump)
    assert sections.keys() == blocks.keys()
    for number, section in sections.items():
        assert section.online == (blocks[number] == "online"), number
        assert bool(section.page_ext) == section.online, number
    # There is a hole, where a DIMM was removed or never plugged in.
    assert len(sections) < max(sections) + 1


def test_the_memmap_is_at_drgns_vmemmap(dump: Dump) -> None:
    if not has_vmemmap(dump.linux):
        pytest.skip("this kernel has no vmemmap")
    size, vmemmap = dump.linux.struct_page_size, int(dump.prog["vmemmap"])
    for section in find_sections(dump.linux):
        assert section.memmap == vmemmap + section.start_pfn * size


def test_one_damaged_section_does_not_move_vmemmap() -> None:
    words = [0xFFFFEA000000001F, 0, 0xDEAD00000000001F, 0xFFFFEA0000000003, 0xF0000000]
    table = [np.array(words, np.uint64).view([("section_mem_map", np.uint64)])]
    assert _vmemmap(table, ~0xFFF) == 0xFFFFEA0000000000
    assert _vmemmap([table[0][1:2]], ~0xFFF) is None


def test_offline_memory_has_no_pages_and_no_records(dump: Dump, blocks: dict[int, str]) -> None:
    pages = read_memory(dump.prog, columns=("head",)).pages
    offline = [s for n, s in sections_of(dump).items() if blocks[n] == "offline"]
    assert offline
    for section in offline:
        rows = pages.rows(np.arange(section.start_pfn, section.end_pfn))
        assert (pages.state[rows] == PageState.ABSENT).all()
        assert (pages["head"][rows] == rows).all()
        recorded = dump.snapshot["pfn"]
        assert not ((recorded >= section.start_pfn) & (recorded < section.end_pfn)).any()
        info = page_report(dump.linux, f"pfn:{section.start_pfn + 5:#x}")
        assert info.state.startswith("offline")
        assert info.no_record is not None


def test_pages_of_memory_that_was_added_are_in_records(dump: Dump, blocks: dict[int, str]) -> None:
    # The memory at boot is below 4 GB.
    size = dump.snapshot.facts.page_size
    first_added = (4 << 30) // size
    added = [s for s in sections_of(dump).values() if s.online and s.start_pfn >= first_added]
    assert added
    recorded = dump.snapshot["pfn"][dump.snapshot["allocated"]]
    text = dump.truth("sys/kernel/debug/page_owner")
    printed = np.array([int(pfn, 0) for pfn in re.findall(rb"^PFN (\w+)", text, re.MULTILINE)])
    counts = []
    for section in added:
        ours, kernels = (
            set(pfns[(pfns >= section.start_pfn) & (pfns < section.end_pfn)].tolist())
            for pfns in (recorded, printed)
        )
        # The kernel's text is a moment older than the dump; pages that were never allocated have no
        # record.
        assert len(ours ^ kernels) <= 0.005 * len(kernels), section
        counts.append(len(kernels))
    assert max(counts) > 100


def test_what_is_not_contiguous_is_found_by_its_area(dump: Dump, blocks: dict[int, str]) -> None:
    # Memory was fragmented when DIMMs were added, so some memmaps and page_ext arrays are in
    # vmalloc areas.
    kernel = dump.linux
    reader, sections = InventoryReader(kernel), find_sections(kernel)
    areas = {area.start: area for area in reader.inventory.areas}
    metadata = reader.inventory.metadata
    for kind, addresses in (
        (Metadata.MEMMAP, [s.memmap for s in sections]),
        (Metadata.PAGE_EXT, [s.page_ext for s in sections]),
    ):
        rows = np.concatenate([areas[a].rows for a in addresses if a in areas])
        assert (np.diff(rows) != 1).any()
        assert (metadata[rows] == kind).all()


def test_nodes_without_memory_have_no_zone(dump: Dump) -> None:
    root = dump.truth_directory / "sys/devices/system/node"
    nodes = [path.parent.name for path in root.glob("node*/meminfo")]
    totals = {int(name[4:]): mem_total((root / name / "meminfo").read_text()) for name in nodes}
    if 0 not in totals.values():
        pytest.skip("every node of this guest has memory")
    zones = dump.snapshot.facts.zones
    with_memory = {node for node, total in totals.items() if total}
    assert {zone.node for zone in zones if zone.present} == with_memory
    assert set(np.unique(dump.snapshot["node"]).tolist()) == with_memory
