# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test hand-made VMCOREINFO notes, and those of dumps."""

from __future__ import annotations

import pytest
from conftest import Dump

from drgn_pageowner.kernel.dump.vmcoreinfo import VmcoreInfo

NOTE = b"""OSRELEASE=6.12.114+deb13-amd64
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff9a010000
NUMBER(pgtable_l5_enabled)=1
NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=-129
NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)=-257
NUMBER(phys_base)=-1048576
CONFIG_X86_PAE=y
CRASHTIME=1700000000
CRASHTIME=1800000000
no equals sign
"""


def test_lines_of_every_kind() -> None:
    info = VmcoreInfo(NOTE)
    assert info.text("OSRELEASE") == "6.12.114+deb13-amd64"
    assert info.integer("PAGESIZE") == 4096
    assert info.symbol("swapper_pg_dir") == 0xFFFFFFFF9A010000
    assert info.number("pgtable_l5_enabled") == 1
    assert info.number("phys_base") == -1048576
    assert info.config("X86_PAE")
    assert not info.config("X86")
    assert info.page_type_bits == {"buddy": 0x80, "offline": 0x100}


def test_the_first_of_two_lines_counts() -> None:
    assert VmcoreInfo(NOTE).integer("CRASHTIME") == 1700000000


def test_what_is_not_there_is_none() -> None:
    info = VmcoreInfo(b"PAGESIZE=many\n\xff\xfe\n")
    assert info.integer("PAGESIZE") is None
    assert info.number("VA_BITS") is info.symbol("_stext") is info.text("OSRELEASE") is None
    assert info.page_type_bits == {}
    assert info.release == (0, 0, 0)


@pytest.mark.parametrize(
    ("release", "expected"),
    [("6.12.114+deb13-amd64", (6, 12, 114)), ("7.2-rc1", (7, 2, 0)), ("5.10.0", (5, 10, 0)),
     ("6.1", (6, 1, 0)), ("garbage", (0, 0, 0))],
)  # fmt: skip
def test_releases(release: str, expected: tuple[int, int, int]) -> None:
    assert VmcoreInfo(f"OSRELEASE={release}\n".encode()).release == expected


def test_a_dump_says_its_release_and_page_size(dump: Dump) -> None:
    info = dump.linux.vmcoreinfo
    assert info.text("OSRELEASE") == dump.snapshot.facts.release
    assert info.integer("PAGESIZE") == dump.snapshot.facts.page_size
