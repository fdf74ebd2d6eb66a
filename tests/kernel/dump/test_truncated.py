# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test kdump files that are cut off: the remaining pages are read, and the lost ones reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import drgn
import numpy as np
import pytest
from conftest import Dump, run_cli
from drgn import FaultError
from drgn.helpers.linux.mm import pfn_to_virt

from drgn_pageowner import read_memory
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.truncated import check_headers, keep_to_the_file
from drgn_pageowner.model.pages import PageState

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def cut(dump_named: Callable[[str], Dump], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dump cut off at two thirds."""
    path = tmp_path_factory.mktemp("cut") / "vmcore"
    shutil.copy(dump_named("linux-7.2/kdump").vmcore, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)
    return path


@pytest.mark.parametrize("name", ["linux-7.2/kdump", "linux-6.12-i386/traps"])
def test_a_whole_file_is_left_alone(dump_named: Callable[[str], Dump], name: str) -> None:
    dump = dump_named(name)
    check_headers(str(dump.vmcore))
    found = keep_to_the_file(dump.prog, str(dump.vmcore))
    assert found is not None
    assert found.problems() == []
    assert len(found.present) == len(found.listed) > 1_000


def test_what_is_left_is_as_it_was_and_nothing_else_is_made_up(
    dump_named: Callable[[str], Dump], cut: Path
) -> None:
    whole = dump_named("linux-7.2/kdump").prog
    prog = drgn.Program()
    prog.set_core_dump(str(cut))
    found = keep_to_the_file(prog, str(cut))
    assert found is not None
    assert "cut off" in found.problems()[0]
    pages = read_memory(whole).pages
    kept = np.flatnonzero(np.isin(pages.state, (PageState.SLAB, PageState.RESERVED)))
    direct = int(pfn_to_virt(whole, 0))
    read = lost = 0
    for pfn in pages.pfns(kept[::50]).tolist():
        for address, physical in ((pfn * 4096, True), (direct + pfn * 4096, False)):
            try:
                expected = whole.read(address, 4096, physical)
            except FaultError:
                continue
            try:
                assert prog.read(address, 4096, physical) == expected
                read += 1
            except FaultError:
                lost += 1
    assert read > 20
    assert lost > 20


def test_commands_answer_or_say_in_a_line_that_it_is_cut_off(
    dump_named: Callable[[str], Dump], cut: Path, cli: Callable[..., object]
) -> None:
    result = cli("-c", cut, "-s", dump_named("linux-7.2/kdump").vmlinux, "account")
    assert result.returncode in (0, 1), result.stderr  # type: ignore[attr-defined]
    lines = result.stderr.splitlines()  # type: ignore[attr-defined]
    assert all(line.startswith("drgn-pageowner: ") for line in lines)
    assert "cut off after" in lines[0]


def test_a_cut_off_dump_of_i386_is_read_as_far_as_it_goes(
    dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    dump, path = dump_named("linux-6.12-i386/traps"), tmp_path / "vmcore"
    shutil.copy(dump.vmcore, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 9 // 10)
    result = run_cli("-c", path, "-s", dump.vmlinux, "list", "--format", "json")
    assert result.returncode == 0, result.stderr
    assert "cut off after" in result.stderr.splitlines()[0]
    names = ("pfn", "order", "gfp_mask", "handle", "ts_nsec", "comm")
    ours, whole = (
        {tuple(record[name] for name in names) for record in map(json.loads, text.splitlines())}
        for text in (result.stdout, dump.run("list", "--format", "json", check=True).stdout)
    )
    assert len(ours) > len(whole) // 2
    assert ours <= whole


def test_a_dump_of_i386_without_its_page_tables_says_so(
    dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    dump, path = dump_named("linux-6.12-i386/traps"), tmp_path / "vmcore"
    shutil.copy(dump.vmcore, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 6)
    result = run_cli("-c", path, "-s", dump.vmlinux, "list")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "the dump has lost the kernel's page tables" in line
    assert "NotImplemented" not in line


@pytest.mark.parametrize(
    "place, garbage",
    [(416 + 8, 0xDC06), (4096 + 20, 1 << 40), (4096 + 40, 0x7FFFFFFF)],
    ids=["bitmap", "VMCOREINFO", "notes"],
)
def test_headers_of_32_bit_kernels_are_known(
    dump_named: Callable[[str], Dump], tmp_path: Path, place: int, garbage: int
) -> None:
    bad = tmp_path / "vmcore"
    shutil.copy(dump_named("linux-6.12-i386/traps").vmcore, bad)
    with bad.open("r+b") as file:
        file.seek(place)
        file.write(garbage.to_bytes(8 if place == 4096 + 20 else 4, "little"))
    with pytest.raises(PageOwnerError, match="headers lead to"):
        check_headers(str(bad))


@pytest.mark.parametrize(
    "place, garbage",
    [(428 + 8, 0xDC06), (4096 + 40, 1 << 40), (4096 + 48, 0x7FFFFFFFFFFF), (4096 + 72, 1 << 60)],
    ids=["bitmap", "VMCOREINFO", "notes", "erased"],
)
def test_headers_that_lead_behind_the_end_are_not_followed(
    cut: Path, tmp_path: Path, place: int, garbage: int
) -> None:
    check_headers(str(cut))
    bad = tmp_path / "vmcore"
    shutil.copy(cut, bad)
    with bad.open("r+b") as file:
        file.seek(place)
        file.write(garbage.to_bytes(8 if place > 4096 else 4, "little"))
    with pytest.raises(PageOwnerError, match="headers lead to"):
        check_headers(str(bad))
    result = run_cli("-c", bad, "info")
    assert result.returncode == 1
    assert "headers lead to" in result.stderr
