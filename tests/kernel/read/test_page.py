# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare ``page`` with the facts that the guest's programs logged about their pages."""

from __future__ import annotations

import json
import re
from typing import Any

import drgn
import pytest
from conftest import Dump
from drgn.helpers.linux.pid import for_each_task

import drgn_pageowner
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.kernel.linux.zones import huge_page_order
from drgn_pageowner.kernel.read.page import page_report

pytestmark = pytest.mark.one_of_a_kernel


def facts(dump: Dump, kind: str, **wanted: str) -> list[dict[str, str]]:
    """Return the lines of the guest's ``facts`` that begin with *kind*."""
    found = []
    for line in dump.truth("facts").decode().splitlines():
        word, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        # If the page was reclaimed, the process logged pfn=0.
        if word == kind and wanted.items() <= values.items() and values.get("pfn") != "0":
            found.append(values)
    return found


@pytest.fixture(scope="module")
def own(dump: Dump) -> Dump:
    """Return a dump whose guest ran our programs."""
    if not dump.name.startswith("linux-"):
        pytest.skip("only our guests say what their pages are")
    return dump


@pytest.fixture
def known(own: Dump) -> Dump:
    """Return a dump whose files and slabs this version of drgn supports; 7.2 needs drgn 0.1."""
    version = tuple(map(int, drgn.__version__.split(".")[:2]))
    if own.kernel == "7.2" and version < (0, 1):
        pytest.skip("this drgn is older than Linux 7.2")
    return own


@pytest.mark.parametrize("kind", ["anon", "thp"])
def test_anonymous_pages_name_the_process_and_its_address(own: Dump, kind: str) -> None:
    lines = facts(own, kind)
    assert lines
    for line in lines:
        info = page_report(own.linux, f"pfn:{line['pfn']}")
        assert info.state == "anonymous", line
        assert {
            "pid": int(line["pid"]),
            "comm": line["comm"],
            "address": int(line["va"], 16),
        } in info.anon, line


def test_page_cache_names_the_file_and_the_place_in_it(known: Dump) -> None:
    lines = facts(known, "file")
    # The page of the file on disk may have been reclaimed if memory is low.
    expected = {"/tmp/shared.bin"} | ({"/mnt/data/numbers.txt"} if "kdump" in known.name else set())
    assert {line["path"] for line in lines} >= expected
    for line in lines:
        info = page_report(known.linux, f"pfn:{line['pfn']}")
        assert info.file is not None, line
        assert (info.file["path"], info.file["index"]) == (line["path"], int(line["index"]))
        assert info.state == ("shared memory" if "shared" in line["path"] else "page cache")


def test_huge_pages_are_compound_and_tails_know_their_head(own: Dump) -> None:
    for line in facts(own, "hugetlb") + facts(own, "thp"):
        pfn = int(line["pfn"])
        order = huge_page_order(own.linux)
        for tail in (0, 1, 77, (1 << order) - 1):
            info = page_report(own.linux, f"pfn:{pfn + tail}")
            assert (info.head_pfn, info.compound_order) == (pfn, order)
    for line in facts(own, "hugetlb"):
        assert page_report(own.linux, f"pfn:{line['pfn']}").state == "hugetlb"


def test_pages_of_modules_have_their_stack_and_order(own: Dump) -> None:
    for line in facts(own, "module", what="pages"):
        info = page_report(own.linux, f"pfn:{line['pfn']}")
        assert info.record is not None
        assert info.record.allocated
        assert info.record.order == int(line["order"])
        assert info.record.head_pfn == int(line["pfn"])
        modules = {frame.module for frame in info.record.stack}
        nameless = [frame for frame in info.record.stack if frame.name is None]
        # Code of an unloaded module has no name, as in the kernel's own text. If another module is
        # at the address now, the kernel prints symbols of that module.
        assert line["name"] in modules if line["name"] == "po_holder" else nameless or modules


def test_every_kind_of_address_finds_the_same_page(own: Dump) -> None:
    prog = own.prog
    for line in facts(own, "module", what="vmalloc"):
        pfn = int(line["pfn"])
        page = Memmap(Kernel.of(prog)).page(pfn)
        owner = drgn_pageowner.page_owner(page)
        names = {
            f"pfn:{pfn}": "PFN",
            f"pfn:{pfn:#x}": "PFN",
            f"phys:{pfn << int(prog['PAGE_SHIFT']):#x}": "physical address",
            line["va"]: "vmalloc",
            line["va"].removeprefix("0x"): "vmalloc",
            f"{int(page):#x}": "struct page",
            f"{int(owner):#x}": "page_owner record",
        }
        address = direct_map(Kernel.of(prog)) + (pfn << int(prog["PAGE_SHIFT"])) + 0x123
        high = [zone for zone in own.snapshot.facts.zones if zone.name == "HighMem"]
        if all(pfn < zone.start_pfn for zone in high):
            names[f"{address:#x}"] = "direct map"
        for what, kind in names.items():
            info = page_report(Kernel.of(prog), what)
            assert (info.pfn, info.kind) == (pfn, kind), what


def test_addresses_of_modules_and_the_image_are_told_apart(own: Dump) -> None:
    base = re.search(rb"^po_holder .* (0x[0-9a-f]+)", own.truth("proc/modules"), re.MULTILINE)
    assert base
    assert page_report(own.linux, base.group(1).decode()).kind == "module"
    info = page_report(own.linux, f"{own.prog.symbol('init_task').address:#x}")
    assert info.kind == "kernel image"


def test_a_slab_object_is_named_with_its_cache(known: Dump) -> None:
    task = next(task for task in for_each_task(known.prog) if int(task.pid) == 1)
    info = page_report(known.linux, f"{int(task) + 24:#x}")
    assert info.kind == "slab object"
    assert info.slab is not None
    assert info.slab["cache"] == "task_struct"
    assert (info.slab["object"], info.slab["offset"]) == (int(task), 24)
    assert info.slab["allocated"] is True


def test_free_pages_are_said_to_be_free_and_who_had_them(own: Dump) -> None:
    snapshot = own.snapshot
    freed = snapshot.select(~snapshot["allocated"])
    states = [page_report(own.linux, f"pfn:{pfn}").state for pfn in freed["pfn"][::500].tolist()]
    assert sum(state.startswith("free") for state in states) > 0.9 * len(states)


def test_the_command_answers_in_text_and_json_and_goes_on_after_a_bad_one(known: Dump) -> None:
    line = facts(known, "file")[0]
    result = known.run("page", f"pfn:{line['pfn']}", "pfn:0x7fffffff", "nonsense")
    assert result.returncode == 2
    assert line["path"] in result.stdout
    errors = result.stderr.splitlines()
    assert len(errors) == 2
    assert "beyond memory" in errors[0]
    assert "nonsense" in errors[1]
    answer: dict[str, Any] = json.loads(
        known.run("page", "--format", "json", f"pfn:{line['pfn']}", check=True).stdout
    )
    assert answer["file"]["path"] == line["path"]
    assert answer["record"]["stack"]
    assert answer["problems"] == []
