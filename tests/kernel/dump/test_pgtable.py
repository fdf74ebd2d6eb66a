# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare reading whole page tables with drgn's walk, page by page."""

from __future__ import annotations

import itertools

import pytest
from conftest import Dump
from drgn import FaultError
from drgn.helpers.linux.mm import follow_phys, for_each_vmap_area

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.sections import find_sections
from drgn_pageowner.kernel.linux.translate import kernel_pfns


def by_drgn(dump: Dump, address: int, number: int) -> list[int]:
    size = dump.snapshot.facts.page_size
    mm = dump.prog["init_mm"].address_of_()
    found = []
    for page in range(number):
        try:
            found.append(int(follow_phys(mm, address + page * size)) // size)
        except FaultError:
            found.append(-1)
        except NotImplementedError:
            pytest.skip("drgn does not know these page tables")
    return found


def test_ranges_of_every_mapping_are_what_drgn_finds(dump: Dump) -> None:
    prog, size = dump.prog, dump.snapshot.facts.page_size
    section = find_sections(Kernel.of(prog))[0]
    ranges = [
        # The end of one and the beginning of the next table, in the middle of large pages.
        (section.memmap + 3 * size, 600),
        (section.page_ext, 300),
        (int(prog["init_mm"].address_of_()) & -size, 40),
    ]
    for area in itertools.islice(for_each_vmap_area(prog), 0, None, 7):
        start, end = int(area.va_start), int(area.va_end)
        # Includes the guard page, which is not mapped.
        ranges.append((start, min((end - start) // size + 1, 100)))
    for address, number in ranges:
        expected = by_drgn(dump, address, number)
        assert kernel_pfns(Kernel.of(prog), address, number).tolist() == expected, hex(address)
    assert len(ranges) > 10


def test_what_is_not_mapped_has_no_pfn(dump: Dump) -> None:
    assert kernel_pfns(dump.linux, dump.snapshot.facts.page_size, 3).tolist() == [-1] * 3
