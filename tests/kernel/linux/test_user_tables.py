# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the pages found in page tables of processes with the facts of the processes."""

from __future__ import annotations

import numpy as np
from conftest import Dump

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.linux.tasks import comm_of
from drgn_pageowner.kernel.linux.user_tables import find_mappings
from drgn_pageowner.model.arrays import Array


def test_what_a_process_touched_is_mapped_where_it_said(dump: Dump) -> None:
    facts = dump.facts()
    chosen = [fact for kind in ("anon", "thp") for fact in facts if fact["kind"] == kind][:1]
    chosen += [fact for fact in facts if fact["kind"] == "thp"]
    assert {fact["kind"] for fact in chosen} == {"anon", "thp"}
    try:
        huge = dump.snapshot["pfn"][dump.snapshot["order"] >= 3].tolist()
    except PageOwnerError:
        # A kernel without records.
        huge = []
    for fact in chosen:
        # A page in the middle of a huge page is mapped by the same entry. With base pages of 64 KiB
        # the guests have no huge pages.
        for page in (0, 5) if int(fact["pfn"]) in huge else (0,):
            pfn = int(fact["pfn"]) + page
            address = int(fact["va"], 16) + page * dump.linux.page_size
            found = find_mappings(dump.linux, everything, pfn, 100)
            [mine] = [one for one in found if one.address == address]
            assert int(mine.task.tgid) == int(fact["pid"])
            assert comm_of(mine.task) == fact["comm"]
            assert mine.phys == pfn << dump.linux.page_shift
            assert mine.value == int.from_bytes(
                dump.prog.read(mine.place, mine.size, physical=True), "little"
            )


def everything(pfns: Array) -> Array:
    return np.ones(len(pfns), bool)


def test_a_page_of_the_kernel_is_mapped_by_no_process(one_dump: Dump) -> None:
    modules = [int(fact["pfn"]) for fact in one_dump.facts() if fact["kind"] == "module"]
    assert find_mappings(one_dump.linux, everything, modules[0], 100) == []
