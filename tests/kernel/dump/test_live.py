# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test real dumps whose memory changes between two readings, as that of a running kernel does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import drgn
import numpy as np
import pytest
from conftest import Dump
from drgn import FaultError
from live import Changing, fresh_program, taken_for_live

from drgn_pageowner import read_memory, snapshot
from drgn_pageowner.analysis.owners.summary import summarize
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout
from drgn_pageowner.kernel.linux.sections import Section, find_sections
from drgn_pageowner.kernel.linux.stackdepot import depot_layout
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.render.info import info_json, info_table

NOTHING = {"changed": 0, "unstable": 0, "vanished": 0}


Change = Callable[..., Changing]


@pytest.fixture(scope="module")
def fresh(one_dump: Dump) -> drgn.Program:
    return fresh_program(one_dump)


@pytest.fixture
def change(fresh: drgn.Program) -> Iterator[Change]:
    """Return a function that makes memory change during a test."""
    made = []

    def make(address: int, versions: Sequence[bytes | None]) -> Changing:
        made.append(Changing(fresh, address, versions))
        return made[-1]

    yield make
    for memory in made:
        memory.rest()


@pytest.fixture
def running(fresh: drgn.Program, monkeypatch: pytest.MonkeyPatch) -> drgn.Program:
    """Return a program that is treated as a running kernel."""
    taken_for_live(monkeypatch)
    return fresh


def records(prog: drgn.Program, number: int) -> tuple[Section, int, int, bytes]:
    """Return *number* entries of page_ext in the middle of a section: section, first PFN, address,
    bytes."""
    layout = page_ext_layout(Kernel(prog))
    section = find_sections(Kernel(prog))[1]
    address = section.page_ext + 5000 * layout.stride
    return section, section.start_pfn + 5000, address, prog.read(address, number * layout.stride)


def torn(entries: bytes) -> bytes:
    """Return *entries* as if the kernel had written half of each."""
    return bytes(byte ^ 0xFF if index % 8 >= 4 else byte for index, byte in enumerate(entries))


def same_records(one: Snapshot, other: Snapshot, *, outside: range = range(0)) -> bool:
    kept = [~np.isin(s["pfn"], outside) for s in (one, other)]
    return one.columns.keys() == other.columns.keys() and all(
        np.array_equal(one[name][kept[0]], other[name][kept[1]]) for name in one.columns
    )


def test_a_dump_is_read_once(one_dump: Dump, fresh: drgn.Program, change: Change) -> None:
    _, _, address, entries = records(fresh, 100)
    memory = change(address, [entries])
    decoded = snapshot(fresh, freed=True)
    assert memory.readings == 1
    assert decoded.coverage["live"] is None
    assert same_records(decoded, one_dump.snapshot)


def test_what_stays_as_it_is_is_read_twice(
    one_dump: Dump, running: drgn.Program, change: Change
) -> None:
    _, _, address, entries = records(running, 100)
    memory = change(address, [entries])
    decoded = snapshot(running, freed=True)
    assert memory.readings == 2
    assert decoded.coverage["live"] == {"page_ext": NOTHING, "memmap": NOTHING}
    assert same_records(decoded, one_dump.snapshot)
    assert decoded.problems == one_dump.snapshot.problems


def test_a_torn_record_is_read_once_more(
    one_dump: Dump, running: drgn.Program, change: Change
) -> None:
    _, _, address, entries = records(running, 10)
    memory = change(address, [torn(entries), entries])
    decoded = snapshot(running, freed=True)
    assert memory.readings == 3
    assert decoded.coverage["live"]["page_ext"] == {"changed": 10, "unstable": 0, "vanished": 0}
    assert same_records(decoded, one_dump.snapshot)
    assert [line for line in decoded.problems if "changed while they were read" in line] == [
        "10 records changed while they were read, 0 of them once more when read again"
    ]


def test_what_never_rests_is_counted_and_the_others_come_out(
    one_dump: Dump, running: drgn.Program, change: Change
) -> None:
    random = np.random.default_rng(3)
    _, first, address, entries = records(running, 50)
    versions = [random.bytes(len(entries)) for _ in range(20)]
    memory = change(address, versions)
    decoded = snapshot(running, freed=True)
    assert memory.readings == 3
    assert decoded.coverage["live"]["page_ext"] == {"changed": 50, "unstable": 50, "vanished": 0}
    # Because of a torn order, a record may appear to belong to an earlier block.
    assert same_records(decoded, one_dump.snapshot, outside=range(first, first + 50))


def test_far_apart_changes_are_read_once_more_each(
    one_dump: Dump, running: drgn.Program, change: Change
) -> None:
    layout = page_ext_layout(Kernel(running))
    section = find_sections(Kernel(running))[1]
    places = [section.page_ext + row * layout.stride for row in (100, 9000, 20000)]
    memories = [
        change(place, [torn(entries), entries])
        for place in places
        for entries in [running.read(place, layout.stride)]
    ]
    decoded = snapshot(running, freed=True)
    assert [memory.readings for memory in memories] == [3, 3, 3]
    assert decoded.coverage["live"]["page_ext"]["changed"] == 3
    assert same_records(decoded, one_dump.snapshot)


def test_memory_that_is_taken_away_meanwhile_is_counted(
    one_dump: Dump, running: drgn.Program, change: Change
) -> None:
    layout = page_ext_layout(Kernel(running))
    section = find_sections(Kernel(running))[1]
    page = (section.page_ext + 9000 * layout.stride) // 4096 * 4096
    change(page, [running.read(page, 4096), None])
    decoded = snapshot(running, freed=True)
    vanished = decoded.coverage["live"]["page_ext"]["vanished"]
    assert 4096 // layout.stride <= vanished <= 4096 // layout.stride + 2
    assert decoded.coverage["missing"] == vanished
    first = section.start_pfn + (page - section.page_ext) // layout.stride
    gone = range(first, first + vanished)
    assert same_records(decoded, one_dump.snapshot, outside=gone)
    # Only half of the first and of the last entry is missing.
    assert not np.isin(decoded["pfn"], gone[1:-1]).any()
    assert any(f"{vanished} vanished" in line for line in decoded.problems)


def test_a_stack_that_is_saved_meanwhile_is_found(
    one_dump: Dump, running: drgn.Program, change: Change
) -> None:
    layout = depot_layout(Kernel(running))
    pool = int(running[layout.pools][0])
    data = running.read(pool, layout.pool_size)
    half = layout.pool_size // 2
    change(pool, [data[:half] + bytes(half), data])
    decoded = snapshot(running, freed=True)
    assert len(decoded.stacks) == len(one_dump.snapshot.stacks)
    assert decoded.problems == one_dump.snapshot.problems


def test_struct_pages_that_change_are_counted(
    one_dump: Dump, running: drgn.Program, change: Change
) -> None:
    section = find_sections(Kernel(running))[1]
    size = running.type("struct page").size
    address = section.memmap + 5000 * size
    pages = running.read(address, 20 * size)
    change(address, [torn(pages), pages])
    memory = read_memory(running, columns=("flags", "refcount"))
    whole = read_memory(one_dump.prog, columns=("flags", "refcount"))
    for name in ("state", "flags", "refcount"):
        assert np.array_equal(memory.pages[name], whole.pages[name])
    assert "20 struct pages changed while they were read" in " ".join(memory.problems)


def test_info_says_what_changed(running: drgn.Program, change: Change) -> None:
    _, _, address, entries = records(running, 10)
    change(address, [torn(entries), entries])
    info = summarize(snapshot(running, freed=True), [], None)
    said = json.loads("".join(info_json(info)))["coverage"]["live"]
    assert said == {"page_ext": {"changed": 10, "unstable": 0, "vanished": 0}, "memmap": NOTHING}
    assert "10 records changed while they were read" in "".join(info_table(info))


@pytest.mark.parametrize("error", [FaultError("gone", 0), LookupError("no"), ValueError("odd")])
def test_what_a_running_kernel_takes_away_is_looked_for_once_more(
    running: drgn.Program, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(times: int) -> Callable[..., str]:
        attempts: list[int] = []

        def read(prog: drgn.Program, **kwargs: object) -> str:
            attempts.append(0)
            if len(attempts) <= times:
                raise error
            assert len(attempts) == times + 1
            return "read"

        return read

    read_once_more = ProgramSession(running)
    monkeypatch.setattr("drgn_pageowner.kernel.session.read_all_pages", failing(1))
    assert read_once_more.memory(()) == "read"
    monkeypatch.setattr("drgn_pageowner.kernel.session.read_all_pages", failing(2))
    with pytest.raises(PageOwnerError, match="changed while it was read, twice") as said:
        ProgramSession(running).memory(())
    assert "\n" not in str(said.value)
