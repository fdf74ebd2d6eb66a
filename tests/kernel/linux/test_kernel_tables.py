# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the kernel's page tables with a walk, entry by entry."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from conftest import Dump, bundled

from drgn_pageowner.kernel.dump.pgtable import PageTables
from drgn_pageowner.kernel.linux.arch import arch_of
from drgn_pageowner.kernel.linux.kernel_tables import _roots, kernel_tables
from drgn_pageowner.kernel.linux.translate import kernel_pfns, page_tables

pytestmark = pytest.mark.once

# Functions that allocate page tables to which only other tables refer.
MAKERS = ("phys_pud_init", "vmemmap_populate", "init_espfix_ap", "vmemmap_remap", "spp_getpage")


def in_memory(dump: Dump) -> Any:
    end = dump.snapshot.facts.max_pfn
    return lambda pfns: pfns < end


def walked(dump: Dump) -> set[int]:
    """Return the PFNs of all tables."""
    prog, seen = dump.prog, set()
    format_ = arch_of(dump.linux).page_table_format(dump.linux)
    assert format_ is not None

    def walk(bits: tuple[int, ...], level: int, table: int) -> None:
        if (table >> format_.page_shift) in seen and level != len(bits) - 1:
            return
        seen.add(table >> format_.page_shift)
        if not level:
            return
        size = format_.entry.itemsize
        data = prog.read(table, size << bits[level], True)
        for entry in np.frombuffer(data, format_.entry).tolist():
            target = entry & format_.address
            if entry & 1 and entry & format_.large_mask != format_.large_value:
                walk(bits, level - 1, target)

    for layout, root in _roots(dump.linux):
        walk(layout.bits, len(layout.bits) - 1, root)
    return seen


def test_every_table_is_found(dump: Dump) -> None:
    found = kernel_tables(dump.linux, in_memory(dump))
    assert set(found.tolist()) == walked(dump)
    assert len(found) >= 10


def test_implausible_tables_are_not_read(dump: Dump) -> None:
    found = kernel_tables(dump.linux, lambda pfns: np.zeros(len(pfns), bool))
    assert found.tolist() == []


def test_what_a_range_is_mapped_to_is_the_same_page_by_page(dump: Dump) -> None:
    prog, size = dump.prog, dump.snapshot.facts.page_size
    tables = page_tables(dump.linux)
    if tables is None:
        pytest.skip("drgn walks these page tables")
    start = int(prog["init_mm"].address_of_()) & -size
    for first, number in ((start, 700), (start - 5 * size, 3)):
        pfns, numbers = tables.mapped(first, first + number * size)
        every = {
            p + i for p, n in zip(pfns.tolist(), numbers.tolist(), strict=True) for i in range(n)
        }
        singles = kernel_pfns(dump.linux, first, number)
        # A large page is returned with all its pages.
        assert set(singles[singles >= 0].tolist()) <= every
        assert len(pfns) <= number


def test_tables_that_memory_hotplug_made_are_no_leaks() -> None:
    dump = bundled("linux-6.12-sparsemem/kdump")
    out = json.loads(dump.run("leaks", "--all", "--format", "json", check=True).stdout)
    judged = [g["allocator"] for g in out["groups"] if g["allocator"].startswith(MAKERS)]
    assert judged == []
    classes = json.loads(dump.run("account", "--format", "json", check=True).stdout)["classes"]
    [tables] = [row for row in classes if row["name"] == "kernel page tables"]
    assert tables["pages"] >= 90


def test_a_large_entry_is_not_a_table(dump: Dump) -> None:
    format_ = arch_of(dump.linux).page_table_format(dump.linux)
    assert format_ is not None
    tables = PageTables(dump.prog, format_, 0)
    table = 0x5000 | 3 | (format_.large_mask & ~format_.large_value)
    if format_.large_value == 0:
        table |= format_.large_mask
    entries = np.array([0, table, table ^ format_.large_mask], np.uint64)
    assert tables._is_table(entries).tolist()[0] is False
    assert sum(tables._is_table(entries).tolist()) == 1
