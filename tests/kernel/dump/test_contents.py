# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare a dump file's tables with the pages that can be read from it."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Dump, run_cli

from drgn_pageowner import read_heap, read_memory
from drgn_pageowner.kernel.dump.contents import elf_contents, kdump_contents
from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program
from drgn_pageowner.model.contents import DumpContents, PfnRanges, RangeBuilder
from drgn_pageowner.model.pages import PageState

sys.path.insert(0, str(Path(__file__).parent))
from incomplete import Kdump, flatten

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def whole(dump_named: Callable[[str], Dump]) -> Dump:
    return dump_named("linux-6.12/traps")


@pytest.fixture
def kdump(whole: Dump) -> Kdump:
    return Kdump(whole.vmcore)


def contents_of_bytes(data: bytes) -> DumpContents:
    file = io.BytesIO(data)
    found = kdump_contents(file) or elf_contents(file, 4096)
    assert found is not None
    return found


def pfns_of(ranges: PfnRanges) -> list[int]:
    pieces = zip(ranges.start.tolist(), ranges.end.tolist(), strict=True)
    return [pfn for start, end in pieces for pfn in range(start, end)]


def test_a_whole_dump_lacks_nothing(kdump: Kdump) -> None:
    found = contents_of_bytes(bytes(kdump.data))
    assert pfns_of(found.listed) == pfns_of(found.present) == kdump.pfns.tolist()
    assert found.problems() == []
    assert found.level == 31
    assert not len(found.lost)
    assert not found.listed.has(np.array(pfns_of(found.excluded))).any()


def test_a_full_disk_leaves_the_first_pages(kdump: Kdump) -> None:
    found = contents_of_bytes(kdump.full_disk(8_000))
    assert pfns_of(found.present) == kdump.pfns[:8_000].tolist()
    lost = len(kdump.pfns) - 8_000
    (line,) = found.problems()
    assert f"{lost:,} of {len(kdump.pfns):,} pages that were dumped are lost" in line
    assert "incomplete" in line


def test_a_cut_off_file_has_what_lies_before_the_cut(kdump: Kdump) -> None:
    size = len(kdump.data) * 3 // 4
    found = contents_of_bytes(bytes(kdump.data[:size]))
    ends = kdump.rows["offset"] + kdump.rows["size"]
    assert pfns_of(found.present) == kdump.pfns[ends <= size].tolist()
    assert "is cut off after" in found.problems()[0]


def test_a_part_of_a_split_dump_has_its_own_pages(kdump: Kdump) -> None:
    middle = int(kdump.pfns[5_000])
    found = contents_of_bytes(kdump.part(middle, int(kdump.pfns[-1]) + 1))
    assert pfns_of(found.present) == kdump.pfns[5_000:].tolist()
    (line,) = found.problems()
    assert "5,000 of" in line
    assert "--reassemble" in line


def test_an_elf_core_has_the_pages_of_its_segments(kdump: Kdump) -> None:
    data = kdump.elf()
    found = contents_of_bytes(data)
    assert pfns_of(found.present) == kdump.pfns.tolist()
    cut = contents_of_bytes(data[: -1000 * 4096])
    assert pfns_of(cut.present) == kdump.pfns[:-1000].tolist()
    marked = contents_of_bytes(kdump.elf(incomplete=True)[: -10 * 4096 - 1])
    assert marked.incomplete
    assert len(marked.lost) == 11


def test_holes_of_a_sparse_elf_core_are_zero_pages(tmp_path: Path) -> None:
    block, path = 1 << 16, tmp_path / "core"
    # Segments of 8 and of 4 blocks of the file system, which share a block in the file.
    sizes, physical = (8 * block - 4096, 4 * block), (0x100000, 0x10000000)
    offsets = (block, block + sizes[0])
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 4, 62, 1, 0, 64, 0, 0, 64,
                         56, 2, 0, 0, 0)  # fmt: skip
    for at, start, size in zip(offsets, physical, sizes, strict=True):
        header += struct.pack("<IIQQQQQQ", 1, 7, at, 0, start, size, size, 0)
    stored = (1, 2, 5, 8)
    with path.open("wb") as file:
        file.write(header)
        for number in stored:
            file.seek(number * block)
            file.write(b"x" * block)
        file.truncate(sum(sizes) + block)
    with path.open("rb") as file:
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == path.stat().st_size:
            pytest.skip("this file system has no holes")
        found = elf_contents(file, 4096)
        file.seek(100)
        assert file.read() == path.read_bytes()[100:]
    assert found is not None
    memory = path.read_bytes()
    pfns = pfns_of(found.present)
    places = {
        (start + offset) // 4096: at + offset
        for at, start, size in zip(offsets, physical, sizes, strict=True)
        for offset in range(0, size, 4096)
    }
    assert pfns == sorted(places)
    empty = [pfn for pfn in pfns if not any(memory[places[pfn] : places[pfn] + 4096])]
    assert pfns_of(found.zero) == empty
    assert len(empty) == (sum(sizes) - len(stored) * block) // 4096
    # A file object that is no file of the operating system has no holes.
    assert not len(contents_of_bytes(memory).zero)


def test_garbage_is_no_dump() -> None:
    for data in (b"", b"KDUMP   ", b"\x7fELF" + bytes(60), bytes(10_000)):
        file = io.BytesIO(data)
        assert kdump_contents(file) is None
        assert elf_contents(file, 4096) is None


def test_ranges_are_sets() -> None:
    generator = np.random.default_rng(1)
    for _ in range(50):
        masks = generator.random((2, 60)) < generator.random()
        built = []
        for mask in masks:
            builder = RangeBuilder()
            for first in range(0, 60, 20):
                builder.add(mask[first : first + 20], first)
            built.append(builder.ranges())
        numbers = np.arange(-5, 70)
        ours, other = built
        assert pfns_of(ours) == np.flatnonzero(masks[0]).tolist()
        assert pfns_of(ours.minus(other)) == np.flatnonzero(masks[0] & ~masks[1]).tolist()
        assert numbers[ours.has(numbers)].tolist() == pfns_of(ours)
        assert len(ours) == int(masks[0].sum())


@pytest.fixture(scope="module")
def lossy(
    whole: Dump, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, int]]:
    """Return a file that lost pages in a given way, and the number of lost pages."""
    folder = tmp_path_factory.mktemp("lossy")

    def make(way: str) -> tuple[Path, int]:
        kdump = Kdump(whole.vmcore)
        all_pages = len(kdump.pfns)
        if way == "full disk":
            data, lost = kdump.full_disk(all_pages - 374), 374
        elif way == "ELF":
            data, lost = kdump.elf()[: -374 * 4096 - 100], 375
        elif way == "split":
            first = int(kdump.pfns[249])
            data, lost = kdump.part(first, int(kdump.pfns[-1]) + 1), 249
        else:
            flat = flatten(bytes(kdump.data))
            data = flat[: -(1 << 20)]
            start = len(kdump.data) - (1 << 20) + 16 * (1 << 4)
            ends = kdump.rows["offset"] + kdump.rows["size"]
            lost = int((ends > start + 32).sum())
        path = folder / way.replace(" ", "-")
        path.write_bytes(data)
        return path, lost

    return make


# Of a full disk and of a part of several, the whole index of a triage is looked at below.
@pytest.mark.parametrize(
    ("question", "way"),
    [("leaks", "full disk"), ("info", "ELF"), ("info", "split"), ("leaks", "flattened"),
     *(pytest.param(*case, marks=pytest.mark.thorough) for case in [
         ("info", "full disk"), ("leaks", "ELF"), ("leaks", "split"), ("info", "flattened"),
         ("triage", "ELF"), ("triage", "flattened")])],
)  # fmt: skip
def test_every_loss_is_said_with_its_number_of_pages(
    whole: Dump,
    lossy: Callable[[str], tuple[Path, int]],
    tmp_path: Path,
    question: str,
    way: str,
) -> None:
    path, lost = lossy(way)
    words = [question, *([tmp_path / "out"] if question == "triage" else [])]
    result = run_cli("-c", path, "-s", whole.vmlinux, *words)
    said = result.stderr + result.stdout
    if question == "triage":
        said += (tmp_path / "out/index.json").read_text()
    assert f"{lost:,} of" in said, said
    assert "Traceback" not in said


def documents(whole: Dump, path: Path, folder: Path) -> dict[str, Any]:
    """Return the index of a triage of the dump *path*, and the JSON of the snapshot that it
    saved."""
    result = run_cli("-c", path, "-s", whole.vmlinux, "triage", folder)
    index = json.loads((folder / "index.json").read_text())
    saved = folder / "snapshot.parquet"
    leaks, info = (
        json.loads(run_cli("-S", saved, *words, "--format", "json", check=True).stdout)
        for words in (["leaks"], ["info"])
    )
    return {"status": result.returncode, "index": index, "leaks": leaks, "info": info}


@pytest.mark.parametrize("way", ["full disk", pytest.param("split", marks=pytest.mark.thorough)])
def test_nothing_is_called_leaked_where_memory_is_missing(
    whole: Dump, lossy: Callable[[str], tuple[Path, int]], tmp_path: Path, way: str
) -> None:
    pytest.importorskip("pyarrow", reason="triage saves a snapshot")
    path, lost = lossy(way)
    said = documents(whole, path, tmp_path / "out")
    verdicts = said["index"]["verdicts"]["all"]
    assert not any("are leaked" in verdict["text"] for verdict in verdicts)
    (leaks,) = [
        verdict
        for verdict in verdicts
        if verdict["area"] == "leaks" and verdict["level"] in ("bad", "warning")
    ]
    assert "may be leaked" in leaks["text"]
    assert f"{lost:,} of" in leaks["detail"]
    # 1, because leaks cannot be judged, unless something else was found.
    assert said["status"] == (3 if said["index"]["found"] else 1)
    assert not any(finding["kind"] == "leak" for finding in said["index"]["verdicts"]["findings"])
    groups = said["leaks"]["groups"]
    assert groups
    assert {group["confidence"] for group in groups} == {"low"}
    assert any(f"{lost:,} of" in line for line in said["info"]["problems"])


def test_pages_missing_are_pages_that_were_dumped(
    whole: Dump, lossy: Callable[[str], tuple[Path, int]]
) -> None:
    for way in ("full disk", "split", "ELF"):
        path, lost = lossy(way)
        prog = open_program(ProgramOptions(core=str(path), symbols=(str(whole.vmlinux),)))
        assert 0 < read_heap(prog).pages_missing <= lost
    assert read_heap(whole.prog).pages_missing == 0


def test_pages_that_no_level_leaves_out_are_said_to_be_missing(
    whole: Dump, kdump: Kdump, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="a snapshot is saved")
    flags = np.frombuffer(whole.truth("proc/kpageflags"), np.uint64)
    slabs = kdump.pfns[kdump.pfns < len(flags)]
    # KPF_SLAB.
    slabs = slabs[flags[slabs] >> np.uint64(7) & np.uint64(1) == 1][-200::2]
    pages = read_memory(whole.prog).pages
    number = int((pages.state[pages.rows(slabs)] == PageState.SLAB).sum())
    assert number > 90
    path, saved = tmp_path / "old", tmp_path / "saved.parquet"
    path.write_bytes(kdump.without(slabs))
    line = f"{number} pages of kernel memory were left out of the dump"
    options = ("-c", path, "-s", whole.vmlinux)
    info = run_cli(*options, "info", check=True)
    assert line in info.stdout
    assert line in info.stderr
    # Problems of many caches are summed up in one line.
    kept = run_cli(*options, "save", "--leaks", saved, check=True).stderr
    assert line in kept
    assert len(kept.splitlines()) < 12
    for words in (["info"], ["leaks"]):
        result = run_cli("-S", saved, *words, check=True)
        assert line in result.stderr + result.stdout
    searched = run_cli(*options, "leaks", "--format", "json")
    assert {group["confidence"] for group in json.loads(searched.stdout)["groups"]} == {"low"}


def test_what_is_left_without_mem_section_is_told(
    whole: Dump, kdump: Kdump, tmp_path: Path
) -> None:
    """mem_section is at the end of memory, and therefore at the end of the file."""
    path = tmp_path / "cut"
    path.write_bytes(kdump.data[: len(kdump.data) * 49 // 50])
    result = run_cli("-c", path, "-s", whole.vmlinux, "info", "--format", "json")
    assert result.returncode == 1
    info = json.loads(result.stdout)
    assert info["kernel"]["release"] == whole.truth("proc/version").decode().split()[2]
    assert info["modules"]
    assert info["records"] is info["pages"] is None
    first, second, *_ = info["problems"]
    assert "is cut off after" in first
    assert "cannot read mem_section" in second
    table = run_cli("-c", path, "-s", whole.vmlinux, "info").stdout
    assert re.search(r"^records +cannot be read$", table, re.MULTILINE)
    assert len(result.stderr.splitlines()) == len(info["problems"])


def test_caches_that_cannot_be_read_are_not_said_to_be_off(
    whole: Dump, kdump: Kdump, tmp_path: Path
) -> None:
    path = tmp_path / "half"
    path.write_bytes(kdump.full_disk(len(kdump.pfns) // 2))
    result = run_cli("-c", path, "-s", whole.vmlinux, "info", "--format", "json")
    sources = {source["name"]: source for source in json.loads(result.stdout)["sources"]}
    for name in ("SLUB user tracking", "KASAN"):
        assert sources[name]["state"].startswith("unknown: not all slab caches can be read")
