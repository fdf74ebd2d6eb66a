# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test for faults that were found earlier by damaging dumps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Dump
from damaged import Patch, apply
from drgn import Object, Program
from drgn.helpers.linux.list import list_for_each_entry
from verdict import Outcome, judge

from drgn_pageowner import snapshot
from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program
from drgn_pageowner.kernel.linux.free_lists import lists_of

Place = Callable[[Program], Object]


def _module(prog: Program) -> Object:
    return next(iter(list_for_each_entry("struct module", prog["modules"].address_of_(), "list")))


def _task(prog: Program) -> Object:
    tasks = prog["init_task"].tasks.address_of_()
    return list(list_for_each_entry("struct task_struct", tasks, "tasks"))[20]


def _cache(prog: Program) -> Object:
    caches = prog["slab_caches"].address_of_()
    return list(list_for_each_entry("struct kmem_cache", caches, "list"))[5]


def _zone(prog: Program) -> Object:
    return prog["node_data"][0].node_zones[1]


# Damaged object, new value (None: its own address), and command.
ANSWERED: list[tuple[Place, int | None, str]] = [
    # Counters that limit loops.
    (lambda prog: prog["nr_node_ids"], 0x7FFFFFFF, "frag"),
    (lambda prog: prog["nr_cpu_ids"], 0xFFFFFFFF, "account"),
    (lambda prog: prog["cma_area_count"], 0xFFFFFFFF, "frag"),
    (lambda prog: prog["hugetlb_max_hstate"], 0x7FFFFFFF, "account"),
    (lambda prog: prog["hstates"][0].order, 0xFFFFFFFF, "account"),
    # Counters that determine the size of arrays.
    (lambda prog: prog["max_pfn"], 0x7FFFFFFFFFFFFFFF, "frag"),
    (lambda prog: prog["max_pfn"], 0, "top --by zone"),
    (lambda prog: prog["max_pfn"], None, "leaks"),
    # A value inside of memory, but not at its end.
    (lambda prog: prog["max_pfn"], 0x4000, "list --format json"),
    (lambda prog: prog["min_low_pfn"], 0x9000, "list --format json"),
    (lambda prog: prog["__highest_present_section_nr"], 0x7FFFFFFFFFFFFFFF, "info"),
    (lambda prog: _zone(prog).spanned_pages, 0x7FFFFFFFFFFFFFFF, "frag"),
    (lambda prog: _zone(prog).zone_start_pfn, 0xFFFFFFFFFFFFFFFF, "frag"),
    (lambda prog: prog["cma_areas"][0].count, 0x7FFFFFFFFFFFFFFF, "frag"),
    (lambda prog: prog["pcpu_base_addr"], 1, "account"),
    (lambda prog: prog["mem_section"][0][1].usage, 0xFFFFFFFFFFFFFFFF, "account"),
    (lambda prog: prog["mem_section"][0][1].usage, 0xFFFFFFFFFFFFFFFF, "saved"),
    # A part of the table of sections that no section is in.
    (lambda prog: prog["mem_section"][9], 0xE0, "info"),
    (lambda prog: prog["mem_section"][9], 0xE0, "account"),
    # Lists that become rings.
    (lambda prog: _module(prog).list.next, None, "top --by module"),
    (lambda prog: _task(prog).tasks.next, None, "leaks --all"),
    (lambda prog: _cache(prog).list.next, None, "leaks --slab"),
    (lambda prog: prog["iomem_resource"].child.sibling, None, "account"),
    # Values used as divisors or shifts, and names.
    (lambda prog: _cache(prog).size, 0, "leaks --slab"),
    (lambda prog: _cache(prog).size, 0xFFFFFFFF, "leaks --slab"),
    (lambda prog: _zone(prog).name, 0x10, "frag"),
    (lambda prog: prog["migrate_reason_names"][0], 0x10, "list --freed --format debugfs"),
]
REFUSED: list[tuple[Place, int, str]] = [
    (lambda prog: prog["page_ext_size"], 0xFFFFFFFFFFFFF018, "page_ext_size"),
    (lambda prog: prog["page_owner_ops"].offset, 0, "page_owner_ops"),
]


def _judge(dump: Dump, place: Place, value: int | None, question: str, vital: bool) -> Outcome:
    target = place(dump.prog)
    address, size = int(target.address_ or 0), target.type_.size
    number = address if value is None else value
    patch = Patch(address, (number & (1 << 8 * size) - 1).to_bytes(size, "little"))
    outcomes = judge(dump, (patch,), (question,), vital=vital)
    faults = [outcome for outcome in outcomes if outcome.kind == "fault"]
    assert not faults, f"{faults[0].question}: {faults[0].detail}"
    return outcomes[0]


@pytest.mark.parametrize("place, value, question", ANSWERED)
def test_damage_that_costs_no_record_is_answered(
    one_dump: Dump, place: Place, value: int | None, question: str
) -> None:
    if question == "saved":
        pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")
    assert _judge(one_dump, place, value, question, False).kind == "answered"


def _without(dump: Dump, name: str) -> Patch:
    """Remove the page that contains a variable."""
    address = int(dump.prog[name].address_ or 0)
    return Patch(address & -4096, bytes(4096), missing=True)


@pytest.mark.parametrize(
    "name, question",
    [
        ("page_group_by_mobility_disabled", "top --by migratetype"),
        ("page_owner_inited", "snapshot"),
        ("nr_vmap_nodes", "account"),
    ],
)
def test_a_page_of_the_kernels_data_that_is_missing_costs_no_record(
    one_dump: Dump, name: str, question: str
) -> None:
    outcomes = judge(one_dump, (_without(one_dump, name),), (question,), vital=False)
    assert [outcome.kind for outcome in outcomes if outcome.kind != "answered"] == []


@pytest.mark.parametrize("question", ["frag all --order 4 --format json", "account --zones"])
def test_what_needs_no_records_is_answered_without(one_dump: Dump, question: str) -> None:
    patch = _without(one_dump, "page_ext_size")
    asked, records = judge(one_dump, (patch,), (question,), vital=True)
    assert (asked.kind, records.kind) == ("answered", "refused")
    assert "page_ext_size" in records.detail


def test_a_part_of_mem_section_that_cannot_be_read_is_told(one_dump: Dump) -> None:
    pointer = one_dump.prog["mem_section"][9]
    patch = Patch(int(pointer.address_ or 0), (0xE0).to_bytes(8, "little"))
    prog = open_program(ProgramOptions(core=str(one_dump.vmcore), symbols=(str(one_dump.vmlinux),)))
    apply(prog, (patch,))
    problems = snapshot(prog).problems
    assert len(problems) == 1
    assert problems[0].startswith("cannot read a part of mem_section (")
    assert len(snapshot(prog)) == len(snapshot(one_dump.prog))


def test_a_size_that_no_entry_has_is_none(one_dump: Dump) -> None:
    address = int(one_dump.prog["page_ext_size"].address_ or 0)
    patch = Patch(address, (0xDEAD000000000100).to_bytes(8, "little"))
    assert judge(one_dump, (patch,), ("account",), vital=True)[0].kind == "answered"


def test_without_heads_nothing_is_on_a_list(one_dump: Dump) -> None:
    pfns = np.array([5, 9], np.int64)
    assert lists_of(one_dump.linux, [], pfns, np.zeros(2, np.uint64)).tolist() == [-1, -1]


@pytest.mark.parametrize("place, value, word", REFUSED)
def test_damage_that_costs_all_is_said_in_a_line(
    one_dump: Dump, place: Place, value: int, word: str
) -> None:
    target = place(one_dump.prog)
    patch = Patch(int(target.address_ or 0), value.to_bytes(8, "little"))
    outcome = judge(one_dump, (patch,), ("list",), vital=True)[0]
    assert outcome.kind == "refused"
    assert word in outcome.detail
