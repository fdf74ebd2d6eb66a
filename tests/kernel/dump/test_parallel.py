# SPDX-License-Identifier: LGPL-2.1-or-later
"""The results of several processes are those of one, in order, whatever happens to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import ask
from drgn import FaultError
from incomplete import Kdump

from drgn_pageowner.analysis.leaks import reach as reach_module
from drgn_pageowner.analysis.leaks.leaks import find_leaks
from drgn_pageowner.kernel.dump import parallel
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program
from drgn_pageowner.kernel.dump.parallel import (
    at_once,
    beside,
    in_order,
    processes_for,
    shared_empty,
)
from drgn_pageowner.kernel.helpers import use_jobs
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model import threads

ITEMS = list(range(40))


@pytest.fixture
def kernel(dump_named: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """The kernel of a dump; as many processes are used for it as :attr:`Kernel.jobs` says."""
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1)
    kernel = Kernel(dump_named("linux-6.12/kdump").prog, {}, {})
    kernel.jobs = 3
    yield kernel
    # No child is left, not even one that has exited.
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def arrays(number: int) -> tuple[int, Any, Any]:
    """Return results of some bytes and of more than a pipe holds."""
    return number, np.arange(number * 3000), np.full(number % 3, number, np.uint8)


def test_results_are_in_order(kernel: Kernel) -> None:
    process = os.getpid()
    found = list(in_order(kernel, lambda n: (*arrays(n), os.getpid()), ITEMS, size=1 << 30))
    for number, result in zip(ITEMS, found, strict=True):
        assert result[0] == number
        for got, wanted in zip(result[1:3], arrays(number)[1:], strict=True):
            assert got.dtype == wanted.dtype
            assert np.array_equal(got, wanted)
        # As if they had been made here.
        result[1][:] = 0
    assert found[0][3] == process
    assert process not in {result[3] for result in found[1:]}


def test_functions_are_called_in_processes_of_their_own(kernel: Kernel) -> None:
    process = os.getpid()
    called: list[int] = []

    def function(number: int) -> Callable[[], tuple[int, int, Any]]:
        def work() -> tuple[int, int, Any]:
            called.append(number)
            if number == 2 and os.getpid() != process:
                os.kill(os.getpid(), signal.SIGKILL)
            return number, os.getpid(), np.arange(number * 3000)

        return work

    found = at_once(kernel, [function(number) for number in range(5)], size=1 << 30)
    assert [number for number, _, _ in found] == list(range(5))
    assert all(len(array) == number * 3000 for number, _, array in found)
    # The function whose process died was called again.
    assert called == [0, 2]
    assert [pid == process for _, pid, _ in found] == [True, False, True, False, False]
    kernel.jobs = 1
    found = at_once(kernel, [function(number) for number in range(5)], size=1 << 30)
    assert {pid for _, pid, _ in found} == {process}
    assert called[2:] == [1, 2, 3, 4, 0]


def test_a_function_is_begun_and_waits_for_what_is_found_meanwhile(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_allowed", 5)
    begun, ready = os.pipe()

    def function(receive: Callable[[], Any]) -> tuple[int, int, int, Any]:
        os.write(ready, b"!")
        given = receive()
        # It reads alone, because the others read, too.
        return os.getpid(), kernel.jobs, threads.allowed_threads(), given["numbers"] * 2

    jobs = kernel.jobs
    with beside(kernel, function, size=1 << 30) as finish:
        assert finish is not None
        assert os.read(begun, 1) == b"!"
        # Other processes do not keep it from noticing that this one is gone.
        assert len(list(in_order(kernel, lambda number: number, ITEMS, size=1 << 30))) == len(ITEMS)
        process, its_jobs, its_threads, doubled = finish({"numbers": np.arange(300_000)})
    assert (its_jobs, its_threads) == (1, 5)
    assert process != os.getpid()
    assert kernel.jobs == jobs
    assert np.array_equal(doubled, 2 * np.arange(300_000))
    with pytest.raises(ChildProcessError):
        os.waitpid(process, 0)
    os.close(begun)
    os.close(ready)


def _dies(receive: Callable[[], Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fails(receive: Callable[[], Any]) -> None:
    raise FaultError("not there", 0x9000)


def _fails_later(receive: Callable[[], Any]) -> None:
    receive()
    raise FaultError("not there", 0x9000)


@pytest.mark.parametrize("function", [_dies, _fails, _fails_later])
def test_a_function_that_fails_beside_has_no_result(
    kernel: Kernel, function: Callable[[Callable[[], Any]], None]
) -> None:
    with beside(kernel, function, size=1 << 30) as finish:
        assert finish is not None
        assert finish(bytes(1 << 20)) is None


def test_a_function_may_be_done_before_it_is_given_anything(kernel: Kernel) -> None:
    with beside(kernel, lambda receive: 7, size=1 << 30) as finish:
        assert finish is not None
        assert finish(bytes(1 << 20)) == 7


def test_nothing_is_left_of_a_function_that_is_not_needed_any_more(kernel: Kernel) -> None:
    before = len(os.listdir("/proc/self/fd"))

    def interrupted() -> None:
        with beside(kernel, lambda receive: receive(), size=1 << 30):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_process_is_started_beside_unless_several_may_read(kernel: Kernel) -> None:
    kernel.jobs = 1
    with beside(kernel, _dies, size=1 << 30) as finish:
        assert finish is None
    kernel.jobs = 2
    with beside(kernel, _dies, size=1) as finish:
        assert finish is None


def test_functions_use_threads_and_what_reads_sections_does_not(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_allowed", 5)
    allowed = threads.allowed_threads
    assert at_once(kernel, [allowed, allowed, allowed], size=1 << 30) == [5, 5, 5]
    found = list(in_order(kernel, lambda _: (os.nice(0), allowed()), ITEMS, size=1 << 30))
    mine = os.nice(0)
    assert found == [(mine, 5), *[(min(mine + 10, 19), 1)] * (len(ITEMS) - 1)]


@pytest.mark.skipif(
    not os.access("/proc/self/oom_score_adj", os.W_OK), reason="this system kills any process first"
)
def test_memory_is_taken_from_the_other_processes_first(kernel: Kernel) -> None:
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    found = list(in_order(kernel, lambda _: score.read_text(), ITEMS, size=1 << 30))
    assert found == [before, *["1000\n"] * (len(ITEMS) - 1)]
    assert score.read_text() == before


def test_an_exception_of_a_function_is_that_of_the_caller(kernel: Kernel) -> None:
    def fails() -> int:
        raise FaultError("not there", 0x9000)

    with pytest.raises(FaultError, match="not there"):
        at_once(kernel, [lambda: 1, lambda: 2, fails, lambda: 3], size=1 << 30)


def test_few_results_are_made_ahead(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_AHEAD_BYTES", 1)
    begun = shared_empty(kernel, len(ITEMS), bool, size=1 << 30)
    begun[:] = False

    def work(number: int) -> int:
        begun[number] = True
        return number

    results = in_order(kernel, work, ITEMS, size=1 << 30)
    for number in range(12):
        assert next(results) == number
        assert not begun[number + 2 * kernel.jobs + 1 :].any()
    results.close()  # type: ignore[attr-defined]


def test_a_program_is_read_by_one_process_unless_told_otherwise(
    dump_named: Callable[[str], Any],
) -> None:
    prog = dump_named("linux-6.12/kdump").prog
    kernel = Kernel.of(prog)
    assert processes_for(kernel, 1 << 40) == kernel.jobs == 1
    try:
        use_jobs(prog, 4)
        assert processes_for(kernel, 1 << 40) == Kernel.of(prog).jobs == 4
    finally:
        use_jobs(prog, 1)
    with pytest.raises(ValueError, match="0 processes"):
        use_jobs(prog, 0)


def test_small_work_starts_no_process(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "LEAST_BYTES", 64 << 20)
    assert [processes_for(kernel, size << 20) for size in (1, 127, 128, 192, 1000)] == [
        1,
        1,
        2,
        3,
        3,
    ]
    monkeypatch.setattr(os, "fork", None)
    assert list(in_order(kernel, str, ITEMS, size=127 << 20)) == [str(item) for item in ITEMS]


@pytest.mark.parametrize("deaths", [{7}, {3, 5, 7, 9, 11}])
def test_the_work_of_processes_that_die_is_done_again(kernel: Kernel, deaths: set[int]) -> None:
    process = os.getpid()

    def work(number: int) -> int:
        if number in deaths and os.getpid() != process:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    assert list(in_order(kernel, work, ITEMS, size=1 << 30)) == ITEMS


def test_an_exception_is_raised_where_one_process_would(kernel: Kernel) -> None:
    def work(number: int) -> int:
        if number == 9:
            raise FaultError("not there", 0x9000)
        return number

    results = in_order(kernel, work, ITEMS, size=1 << 30)
    assert [next(results) for _ in range(9)] == ITEMS[:9]
    with pytest.raises(FaultError, match="not there"):
        next(results)


def test_work_that_is_not_finished_leaves_no_process(kernel: Kernel) -> None:
    for number in in_order(kernel, lambda number: number, ITEMS, size=1 << 30):
        if number == 5:
            break


def test_losses_are_those_of_one_process(kernel: Kernel) -> None:
    def work(number: int) -> int:
        with kernel.tolerate("page {} is lost", of=f"{number:#x}"):
            if number % 7 == 3:
                raise FaultError("not there", number)
        with kernel.tolerate(f"item {number}", gap=True):
            if number % 11 == 4:
                raise FaultError("not there", number)
        return number

    alone = Kernel(kernel.prog, {}, {})
    for one in (alone, kernel):
        kernel = one
        assert list(in_order(one, work, ITEMS, size=1 << 30)) == ITEMS
    assert alone.losses
    assert len(alone.gaps) == 4
    assert (kernel.losses, kernel.gaps) == (alone.losses, alone.gaps)


COMMANDS = (
    "top --by comm,order --format json", "top --freed", "list --format debugfs",
    "list --format json", "account", "frag all", "leaks --suspects", "leaks",
)  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize(("kind", "jobs"), [("kdump", 2), ("elf", 3), ("pages left out", 3)])
def test_commands_print_the_same(
    monkeypatch: pytest.MonkeyPatch,
    dump_named: Callable[[str], Any],
    tmp_path: Path,
    kind: str,
    jobs: int,
) -> None:
    dump = dump_named("linux-6.12/kdump")
    path = dump.vmcore
    if kind != "kdump":
        whole, path = Kdump(path), tmp_path / "vmcore"
        path.write_bytes(whole.elf() if kind == "elf" else whole.without(whole.pfns[5::97]))
    # The search for leaks takes longest.
    commands = COMMANDS if kind == "kdump" else COMMANDS[:-1]
    prog = open_program(ProgramOptions(core=str(path), symbols=(str(dump.vmlinux),)))
    started = []
    really = parallel._Workers._start
    monkeypatch.setattr(parallel._Workers, "_start", lambda self: started.append(1) or really(self))

    def answers(processes: int) -> dict[str, Any]:
        prog.cache.clear()
        Kernel.of(prog).jobs = processes
        Kernel.of(prog).contents = contents
        session = ProgramSession(prog)
        return {command: ask(session, command) for command in commands}

    contents = Kernel.of(prog).contents
    alone = answers(1)
    assert not started
    assert {status for status, _, _ in alone.values()} == {0}
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1 << 16)
    assert answers(jobs) == alone
    assert len(started) >= 2 * len(commands)


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("name", ["linux-6.12/traps", "linux-6.12-noowner/kdump"])
def test_another_process_finds_allocations(
    dump_named: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str, types: bool
) -> None:
    prog = dump_named(name).prog
    alone = reach_module.reach(ProgramSession(prog).heap(types=types))
    here = []
    function = reach_module._allocations
    monkeypatch.setattr(reach_module, "_allocations", lambda heap: here.append(1) or function(heap))
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1 << 16)
    use_jobs(prog, 2)
    try:
        found = reach_module.reach(ProgramSession(prog).heap(types=types))
    finally:
        use_jobs(prog, 1)
    assert not here
    for column in ("allocation", "role", "parent", "verdict", "evidence"):
        assert np.array_equal(getattr(found, column), getattr(alone, column)), column
    assert find_leaks(found) == find_leaks(alone)
