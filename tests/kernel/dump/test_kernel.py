# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that facts about a kernel are computed once per dump, or once per reading of a running
kernel."""

from __future__ import annotations

import functools
import gc
import itertools
from collections import Counter
from collections.abc import Callable
from types import ModuleType

import drgn
import pytest
from conftest import Dump
from drgn import FaultError
from live import fresh_program, taken_for_live

from drgn_pageowner import for_each_page_owner
from drgn_pageowner.kernel.dump.kernel import Kernel, once, once_per_reading
from drgn_pageowner.kernel.linux import sections, topology
from drgn_pageowner.kernel.linux.sections import find_sections, page_ext_stride
from drgn_pageowner.kernel.session import ProgramSession


@pytest.fixture
def established() -> list[str]:
    """Return the names of the computed facts, in order."""
    return []


Fact = Callable[[Kernel], object]


@pytest.fixture
def facts(established: list[str]) -> tuple[Fact, Fact]:
    @once
    def lasting(kernel: Kernel) -> object:
        established.append("lasting")
        return object()

    @once_per_reading
    def passing(kernel: Kernel) -> object:
        established.append("passing")
        return object()

    return lasting, passing


def test_a_dump_is_asked_once(facts: tuple[Fact, Fact], established: list[str]) -> None:
    kernel = Kernel.of(drgn.Program())
    for fact in facts:
        assert fact(kernel) is fact(kernel.reading()) is fact(Kernel.of(kernel.prog))
    assert established == ["lasting", "passing"]


def test_a_running_kernel_is_asked_anew_for_each_reading(
    facts: tuple[Fact, Fact], established: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_for_live(monkeypatch)
    lasting, passing = facts
    first = Kernel.of(drgn.Program()).reading()
    second = Kernel.of(first.prog).reading()
    assert lasting(first) is lasting(second)
    assert passing(first) is passing(first) is not passing(second)
    assert established == ["lasting", "passing", "passing"]


def test_programs_share_nothing(facts: tuple[Fact, Fact]) -> None:
    for fact in facts:
        assert fact(Kernel.of(drgn.Program())) is not fact(Kernel.of(drgn.Program()))


def test_an_error_is_not_kept() -> None:
    attempts: list[int] = []

    @once
    def fact(kernel: Kernel) -> int:
        attempts.append(0)
        if len(attempts) == 1:
            raise FaultError("gone", 0)
        return len(attempts)

    kernel = Kernel(drgn.Program())
    with pytest.raises(FaultError):
        fact(kernel)
    assert fact(kernel) == fact(kernel) == 2


def test_a_dump_has_one_session_and_a_running_kernel_a_new_one_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prog = drgn.Program()
    assert ProgramSession.of(prog) is ProgramSession.of(prog)
    taken_for_live(monkeypatch)
    assert ProgramSession.of(prog) is not ProgramSession.of(prog)


# Functions that read the sections, the distance of page_ext entries, and the possible CPUs.
READERS = (
    (sections, "_sparsemem_sections"),
    (sections, "_read_page_ext_size"),
    (topology, "cpu_possible_mask"),
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of each of :data:`READERS`."""
    counts: Counter[str] = Counter()

    def counted(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        @functools.wraps(original)
        def call(*args: object) -> object:
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(module, name, call)

    for module, name in READERS:
        counted(module, name)
    return counts


def test_facts_do_not_keep_the_program(one_dump: Dump) -> None:
    class Probe:
        freed = False

        def __del__(self) -> None:
            Probe.freed = True

    gc.collect()
    gc.disable()
    try:
        prog = fresh_program(one_dump)
        prog.cache["probe"] = Probe()
        session = ProgramSession(prog)
        session.page("pfn:0x1000")
        session.heap()
        session.crash()
        list(itertools.islice(for_each_page_owner(prog), 3))
        del session, prog
        # The program is freed without the garbage collector, because there is no reference cycle.
        assert Probe.freed
    finally:
        gc.enable()


QUESTIONS: dict[str, Callable[[ProgramSession], object]] = {
    "page": lambda session: session.page("pfn:0x1000"),
    "account": lambda session: session.inventory(),
    "leaks": lambda session: session.heap(),
    "list": lambda session: session.snapshot(None),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_command_reads_each_fact_once(
    one_dump: Dump, calls: Counter[str], question: str
) -> None:
    QUESTIONS[question](ProgramSession(fresh_program(one_dump)))
    assert dict(calls) == {name: 1 for _, name in READERS}


def test_a_new_section_is_seen_by_the_next_reading(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_for_live(monkeypatch)
    kernel = Kernel.of(fresh_program(one_dump)).reading()
    known = find_sections(kernel)
    # Simulate memory hotplug, which removes the last section.
    original = sections._sparsemem_sections
    monkeypatch.setattr(sections, "_sparsemem_sections", lambda *args: [*original(*args)][:-1])
    assert find_sections(kernel) == known
    assert find_sections(kernel.reading()) == known[:-1]
    assert page_ext_stride(kernel.reading()) == page_ext_stride(kernel)


def test_the_same_damage_to_many_things_takes_one_line() -> None:
    kernel = Kernel.of(drgn.Program())
    cost = "the objects of {} cannot be read"
    for name in ("dentry", "inode", "file", "sock", "dentry"):
        with kernel.tolerate(cost, of=name):
            raise FaultError(f"no memory for {name}", 0)
        with kernel.tolerate("something else"):
            pass
    with kernel.tolerate("the log cannot be read"):
        raise FaultError("cut off", 0)
    many, other = kernel.losses
    assert many.startswith("the objects of dentry, inode, file and sock cannot be read (")
    assert "no memory for dentry" in many
    assert other.startswith("the log cannot be read")
    for name in ("page", "folio"):
        with kernel.tolerate(cost, of=name):
            raise FaultError("no memory", 0)
    assert "objects of dentry, inode, file and 3 more cannot" in kernel.losses[0]
    assert not kernel.gaps
