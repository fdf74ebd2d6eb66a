# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test compiled layouts of kernels without a real dump; see tests/layouts."""

from __future__ import annotations

import functools
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Dump, run_cli

from drgn_pageowner import page_owner_free_stack, page_owner_stack
from drgn_pageowner.analysis.owners.group import top
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux import formats
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.trace import intern_traces
from drgn_pageowner.kernel.read.page import page_report
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.render.debugfs import debugfs_text

_BUILD: dict[str, Any] = runpy.run_path(str(ROOT / "tests/layouts/build.py"))


class Layout(Dump):
    """A compiled layout, and the text that its kernel would have printed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory.name, directory, directory / "vmlinux")
        self.text = (directory / "page_owner").read_text()

    @functools.cached_property
    def allocated(self) -> Snapshot:
        return self.snapshot.select(self.snapshot["allocated"])

    @functools.cached_property
    def memmap(self) -> Memmap:
        return Memmap(Kernel.of(self.prog))

    def print_records(self) -> str:
        return "".join(debugfs_text(self.snapshot))


@functools.cache
def compiled(name: str) -> Layout:
    return Layout(_BUILD["unpack"]() / name)


@pytest.fixture(params=_BUILD["NAMES"])
def layout(request: pytest.FixtureRequest) -> Layout:
    return compiled(request.param)


def test_the_text_is_what_that_kernel_prints_byte_for_byte(layout: Layout) -> None:
    assert layout.text.count("PFN ") > 500
    assert layout.print_records() == layout.text
    assert layout.snapshot.problems == []


def test_the_formats_come_from_the_dump_and_are_mainlines(layout: Layout) -> None:
    found = layout.snapshot.facts.formats
    assert found is not None
    assert found.from_dump
    if layout.name.startswith("linux-"):
        members = layout.snapshot.facts.layout["members"]
        in_page_ext = layout.snapshot.facts.layout["record"] == "struct page_ext"
        # Only layouts that print memory cgroups have these strings.
        ours = formats._by_layout(members, in_page_ext)
        assert ours._replace(charged=None, slab_cache_page=None, from_dump=True) == found


def test_sums_are_those_of_the_text(layout: Layout) -> None:
    orders = [int(order) for order in re.findall(r"via order (\d+)", layout.text)]
    printed = layout.allocated.select(
        (layout.allocated["pfn"] >= layout.snapshot.facts.min_low_pfn)
        & (layout.allocated["handle"] != 0)
    )
    assert top(printed, ["stack"]).pages == sum(1 << order for order in orders)
    assert top(printed, ["stack"]).allocations == len(orders)
    # Every page of an allocation is counted as allocated, whether it has a record or not.
    assert layout.snapshot.coverage["allocated"] == layout.allocated.pages.sum()


@pytest.mark.parametrize(
    ("name", "record", "depot", "members"),
    [
        ("linux-3.19-FLATMEM", "struct page_ext", None, {"trace_entries"}),
        ("linux-4.6-SPARSEMEM_VMEMMAP", "struct page_ext", None, {"last_migrate_reason"}),
        ("linux-4.8-SPARSEMEM", "struct page_ext", "slabs (v4.6 to v6.0)", {"handle"}),
        ("linux-4.9-FLATMEM", "struct page_owner", "slabs (v4.6 to v6.0)", {"handle"}),
        ("backport-4.18-SPARSEMEM_VMEMMAP", "struct page_owner", "slabs (v4.6 to v6.0)", {"pid"}),
        (
            "backport-5.15-extra-SPARSEMEM_VMEMMAP",
            "struct page_owner",
            "slabs with extra bits (v6.1 to v6.2)",
            {"comm"},
        ),
        ("linux-6.8-SPARSEMEM_VMEMMAP", "struct page_owner", "pools (v6.3 to v6.8)", {"free_pid"}),
    ],
)
def test_what_was_found_is_told(
    name: str, record: str, depot: str | None, members: set[str]
) -> None:
    facts = compiled(name).snapshot.facts
    assert facts.layout["record"] == record
    assert facts.layout["stack_depot"] == depot
    assert members <= set(facts.layout["members"])
    assert facts.memory_model == name.rsplit("-", 1)[1]


def test_helpers_find_the_stacks_of_the_snapshot(layout: Layout) -> None:
    rows = layout.allocated
    for row in range(0, len(rows), 97):
        trace = page_owner_stack(layout.memmap.page(int(rows["pfn"][row])))
        pcs = rows.stacks[int(rows.stack[row])].tolist()
        if int(rows["handle"][row]) == 0:
            # In v6.8, the first stack has handle 0, which also means "none".
            assert layout.name.startswith("linux-6.8-")
            continue
        assert trace is not None
        assert [frame.pc for frame in trace if not frame.is_inline] == pcs


def test_who_freed_a_page_is_known_without_a_bit_for_it() -> None:
    layout = compiled("backport-4.14-free-FLATMEM")
    again = layout.allocated["pfn"][layout.allocated["free_handle"] != 0].tolist()
    assert again
    for pfn in again[:20]:
        trace = page_owner_free_stack(layout.memmap.page(pfn))
        assert trace is not None
        assert trace[0].name == "free_pcppages_bulk"


def test_freed_records_are_there_where_a_bit_says_so(layout: Layout) -> None:
    freed = int(np.count_nonzero(~layout.snapshot["allocated"]))
    flags = layout.prog.type("enum page_ext_flags").enumerators or ()
    names = {flag.name for flag in flags}
    bit = bool(names & {"PAGE_EXT_OWNER_ALLOCATED", "PAGE_EXT_OWNER_ACTIVE"})
    assert (freed > 0) == bit
    assert (layout.snapshot.coverage["freed"] > 0) == bit


@pytest.mark.parametrize("name", ["linux-3.19-SPARSEMEM", "linux-4.19-SPARSEMEM_VMEMMAP"])
def test_a_tail_is_reported_with_the_record_of_its_head(name: str) -> None:
    layout = compiled(name)
    row = int(np.flatnonzero(layout.allocated["order"] == 3)[0])
    head = int(layout.allocated["pfn"][row])
    for pfn in (head, head + 1, head + 7):
        info = page_report(layout.linux, f"pfn:{pfn:#x}")
        assert info.record is not None
        assert info.head_pfn == head
        assert info.record.head_pfn == head
        frames = [frame.pc for frame in info.record.stack]
        assert frames == layout.allocated.stacks[int(layout.allocated.stack[row])].tolist()


def test_gfp_flags_have_names_before_the_kernel_had_a_table() -> None:
    for name, masks in {
        "linux-3.19-FLATMEM": {"GFP_KERNEL": 0xD0, "__GFP_RECLAIMABLE": 0x80000},
        "linux-4.4-FLATMEM": {"GFP_KERNEL": 0x24000C0, "__GFP_RECLAIMABLE": 0x10},
    }.items():
        names = {text: mask for mask, text in compiled(name).snapshot.names.gfp_flags}
        assert masks.items() <= names.items()


def test_the_command_line_opens_them_too() -> None:
    layout = compiled("linux-3.19-SPARSEMEM_VMEMMAP")
    result = layout.run("list", "--format", "debugfs")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == layout.text
    # A command that needs missing data fails with one line.
    result = layout.run("account")
    assert result.returncode == 1
    assert re.fullmatch(r"drgn-pageowner: [^\n]+ has no member [^\n]+\n", result.stderr)


def test_a_trace_that_claims_too_much_is_cut_and_counted() -> None:
    entries = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 0], [9, 9, 9]], np.uint64)
    handles, stacks, bad = intern_traces(np.array([3, 400, 2, 0], np.uint32), entries)
    assert bad == 1
    found = [stacks[int(number)].tolist() for number in stacks.index(handles)]
    assert found == [[1, 2, 3], [1, 2, 3], [1, 2], []]
    assert handles[0] == handles[1]
    assert handles.min() == 1


def test_the_sources_are_those_of_the_bundle(tmp_path: Path) -> None:
    if _BUILD["compiler"]() is None:
        pytest.skip("no C compiler for x86-64 here")
    name = "linux-4.4-FLATMEM"
    fresh = Layout(_BUILD["build"](tmp_path, name))
    assert fresh.print_records() == fresh.text
    # Addresses of code depend on the compiler.
    addresses = re.compile(r"\[<\w+>\]|\+0x\w+/0x\w+")
    assert addresses.sub("", fresh.text) == addresses.sub("", compiled(name).text)


def test_another_kernels_symbols_are_refused_without_a_build_id() -> None:
    layout, other = compiled("linux-4.9-FLATMEM"), compiled("linux-4.4-FLATMEM")
    result = run_cli("-c", layout.vmcore, "-s", other.vmlinux, "info")
    assert result.returncode == 1
    assert re.fullmatch(
        r"drgn-pageowner: [^\n]+ is not the vmlinux of 4\.9\.337[^\n]+\n", result.stderr
    )
