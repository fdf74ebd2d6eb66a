# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test kernel addresses of i386, whose page tables drgn cannot walk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Dump
from drgn import FaultError, Program
from drgn.helpers.linux.module import for_each_module

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.vmalloc import _vmap_areas


@pytest.fixture
def i386(dump_named: Callable[[str], Dump]) -> Dump:
    return dump_named("linux-6.12-i386/traps")


def test_the_image_and_a_module_are_what_the_guest_said(i386: Dump) -> None:
    prog = i386.prog
    banner = prog.read_c_string(prog.symbol("linux_banner").address)
    assert banner == i386.truth("proc/version")
    # Modules are in the vmalloc area, not in the direct map.
    names = {module.name.string_().decode() for module in for_each_module(prog)}
    assert names == {line.split()[0] for line in i386.truth("proc/modules").decode().splitlines()}
    assert "po_leak" in names


def test_a_read_faults_where_the_mapping_ends(i386: Dump) -> None:
    prog, problems = i386.prog, list[str]()
    area = next(area for area in _vmap_areas(Kernel(prog), problems) if area.vm and area.vm.pages)
    assert not problems
    # The last page of an area is an unmapped guard page.
    guard = int(area.va_end) - 4096
    assert len(prog.read(guard - 100, 100)) == 100
    for address, size in ((guard - 100, 5000), (guard, 8), (guard + 8, 1)):
        with pytest.raises(FaultError) as caught:
            prog.read(address, size)
        assert caught.value.address == max(address, guard)
    with pytest.raises(FaultError):
        prog.read(0, 4)


def test_what_was_filtered_out_faults_with_its_own_address(i386: Dump) -> None:
    prog = i386.prog
    first = int(prog["high_memory"]) - int(prog["max_low_pfn"]) * 4096
    free = next(
        first + pfn * 4096
        for pfn in range(20_000, 70_000)
        if _is_missing(prog, pfn) and not _is_missing(prog, pfn - 1)
    )
    with pytest.raises(FaultError) as caught:
        prog.read(free - 10, 20)
    assert caught.value.address == free


def _is_missing(prog: Program, pfn: int) -> bool:
    try:
        prog.read(pfn * 4096, 4, True)
    except FaultError:
        return True
    return False
