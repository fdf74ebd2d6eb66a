# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several threads find what one finds, in order, and none is left."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import ask

from drgn_pageowner.analysis.frag import mobility
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model import threads
from drgn_pageowner.model.arrays import slices
from drgn_pageowner.model.kept import keeping_results, kept
from drgn_pageowner.model.threads import (
    allow_threads,
    allowed_threads,
    from_threads,
    in_threads,
    usable_cpus,
    while_next,
)

ITEMS = list(range(50))


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """As many threads are allowed as before, and none is left."""
    before = allowed_threads()
    yield
    allow_threads(before)
    assert threading.active_count() == 1


@pytest.fixture
def three() -> None:
    """Three threads work."""
    allow_threads(3)


@pytest.mark.usefixtures("three")
def test_results_are_in_order() -> None:
    meet = threading.Barrier(3)

    def work(item: int) -> tuple[int, int]:
        if item < 3:
            # Three are at work at the same time.
            meet.wait(timeout=60)
        return item, threading.get_ident()

    found = in_threads(work, iter(ITEMS))
    assert [item for item, _ in found] == ITEMS
    assert len({thread for _, thread in found}) == 3
    assert in_threads(work, []) == []


def test_one_thread_is_enough_by_default() -> None:
    allow_threads(1)
    assert set(in_threads(lambda _: threading.get_ident(), ITEMS)) == {threading.get_ident()}


@pytest.mark.usefixtures("three")
def test_few_results_are_computed_ahead() -> None:
    begun: list[int] = []
    results = from_threads(begun.append, ITEMS)
    next(results)
    assert len(begun) < len(ITEMS)
    results.close()


@pytest.mark.usefixtures("three")
def test_an_exception_is_the_first_one() -> None:
    def work(item: int) -> int:
        if item >= 7:
            raise ValueError(str(item))
        return item

    results = from_threads(work, ITEMS)
    assert [next(results) for _ in range(7)] == ITEMS[:7]
    with pytest.raises(ValueError, match=r"^7$"):
        next(results)


@pytest.mark.usefixtures("three")
def test_a_thread_starts_no_threads() -> None:
    def work(item: int) -> set[int]:
        return {threading.get_ident(), *in_threads(lambda _: threading.get_ident(), ITEMS)}

    assert {len(found) for found in in_threads(work, ITEMS)} == {1}


@pytest.mark.usefixtures("three")
def test_threads_keep_results_for_each_other() -> None:
    calls = []

    @kept
    def computed(text: str) -> str:
        calls.append(text)
        return text + text

    with keeping_results():
        computed("a")
        assert in_threads(lambda _: computed("a"), ITEMS) == ["aa"] * len(ITEMS)
    assert calls == ["a"]


@pytest.mark.parametrize(
    ("limit", "cpus"),
    [("max 100000", 6), ("150000 100000", 2), ("10000 100000", 1), ("900000 100000", 6), (None, 6)],
)
def test_cpus_are_those_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, cpus: int
) -> None:
    file = tmp_path / "cpu.max"
    if limit is not None:
        file.write_text(limit + "\n")
    monkeypatch.setattr(threads, "_CPU_MAX", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    assert usable_cpus() == cpus


COMMANDS = (
    "account --zones --format json", "frag all --format json", "leaks --format json",
    "leaks --slab", "leaks --suspects --format json", "top --by allocator,order", "why pfn:4000",
)  # fmt: skip


def made(log: list[str]) -> Iterator[int]:
    for item in range(5):
        log.append(f"made {item}")
        yield item


@pytest.mark.usefixtures("three")
def test_one_thread_works_while_the_next_item_is_made() -> None:
    own, log, third = threading.get_ident(), list[str](), threading.Event()

    def work(item: int) -> None:
        # The process may fork while the first item is made, so there is no thread before.
        assert (threading.get_ident() == own) == (item == 0)
        if item == 1:
            assert third.wait(timeout=60)
        log.append(f"worked {item}")

    def items() -> Iterator[int]:
        for item in made(log):
            if item == 2:
                third.set()
            yield item

    while_next(work, items())
    assert [line for line in log if line.startswith("worked")] == [f"worked {n}" for n in range(5)]
    assert log.index("made 2") < log.index("worked 1")
    while_next(work, [])


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("bad", [0, 1, 3, 4])
def test_what_fails_in_between_is_raised(bad: int) -> None:
    done = []

    def work(item: int) -> None:
        if item == bad:
            raise OSError("the disk is full")
        done.append(item)

    with pytest.raises(OSError, match="the disk is full"):
        while_next(work, made([]))
    assert done == list(range(bad))


def test_one_thread_works_on_one_item_after_the_other() -> None:
    log = list[str]()
    allow_threads(1)
    while_next(lambda item: log.append(f"worked {item}"), made(log))
    assert log == [f"{verb} {item}" for item in range(5) for verb in ("made", "worked")]


@pytest.mark.once
@pytest.mark.parametrize("name", ["linux-6.12/traps", "linux-6.1/traps"])
def test_commands_print_the_same(
    monkeypatch: pytest.MonkeyPatch, dump_named: Callable[[str], Any], name: str
) -> None:
    dump = dump_named(name)
    prog = open_program(ProgramOptions(core=str(dump.vmcore), symbols=(str(dump.vmlinux),)))

    def answers(jobs: int) -> dict[str, Any]:
        prog.cache.clear()
        kernel = Kernel.of(prog)
        kernel.contents = contents
        allow_threads(jobs)
        session = ProgramSession(prog)
        return {command: ask(session, command) for command in COMMANDS}

    contents = Kernel.of(prog).contents
    whole = answers(1)
    assert {status for status, _, _ in whole.values()} <= {0, 1}
    # Arrays are worked on in so many pieces that threads take turns.
    monkeypatch.setattr(slices, "__defaults__", (4999,))
    monkeypatch.setattr(mobility, "_PIECE", 4096)
    assert answers(4) == whole
