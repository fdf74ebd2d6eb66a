# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare facts about the crash with the files that the kernel printed."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from conftest import Dump
from drgn.helpers.linux.cpumask import for_each_online_cpu

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.percpu import cpu_variable
from drgn_pageowner.kernel.linux.printk import local_clock_ns
from drgn_pageowner.kernel.read.crash import read_crash


def test_machine_and_log(dump: Dump) -> None:
    crash = read_crash(dump.linux)
    assert crash.cpus == 2
    assert crash.task == (1, "truth")
    assert crash.command_line == dump.truth("proc/cmdline").decode().strip()
    # On arm64, the log continues with the start of the capture kernel.
    [panic] = [line for line in crash.log[-4:] if line.level == 0]
    assert panic.text == "Kernel panic - not syncing: sysrq triggered crash"
    assert len(crash.log) == 60
    assert [line.ts_nsec for line in crash.log] == sorted(line.ts_nsec for line in crash.log)
    assert crash.crash_time is not None
    if dump.prog["init_uts_ns"].name.machine.string_() == b"aarch64":
        # These guests have no real-time clock, so they began in 1970.
        assert crash.crash_time == pytest.approx(local_clock_ns(dump.linux) / 10**9, abs=2)
    else:
        # The recipe was not run before 2026.
        assert crash.crash_time > 1_767_225_600


def test_modules_from_outside_taint(dump: Dump) -> None:
    crash = read_crash(dump.linux)
    # With memory allocation profiling, v6.12 warns if a module is unloaded whose allocations still
    # exist.
    warned = "profiling" in dump.name
    assert crash.tainted == 1 << 12 | (warned << 9)
    assert sorted(taint.letter for taint in crash.taints) == ["O", "W"][: 1 + warned]
    assert "(O)" in dump.truth("proc/modules").decode()


def test_what_is_not_tainted(dump_named: Callable[[str], Dump]) -> None:
    crash = read_crash(dump_named("linux-6.12-noowner/kdump").linux)
    assert crash.tainted == 0
    assert crash.taints == []


def test_processes_killed_for_memory(dump: Dump) -> None:
    [kills] = re.findall(r"^oom_kill (\d+)$", dump.truth("proc/vmstat").decode(), re.MULTILINE)
    oom = read_crash(dump.linux).oom
    assert oom.kills == int(kills)
    assert oom.victims == 0
    assert oom.log == []


def test_the_clock_is_that_of_the_run_queues(dump: Dump) -> None:
    """Per-CPU variables are found, even with KASLR: the run queues' clock is just before the last
    message."""
    now, last = local_clock_ns(dump.linux), read_crash(dump.linux).log[-1].ts_nsec
    assert now is not None
    if now == last:
        # On i386, the clock is jiffies.
        cpus = for_each_online_cpu(dump.prog)
        assert now in [int(cpu_variable(dump.linux, "runqueues", cpu).clock) for cpu in cpus]
    assert abs(now - last) < 10**8


def test_taint_letters_are_the_kernels(dump: Dump) -> None:
    from drgn_pageowner.kernel.read.crash import _TAINTS, _taint

    table = dump.prog["taint_flags"]
    assert len(table) <= len(_TAINTS)
    for bit in range(len(table)):
        assert _taint(Kernel.of(dump.prog), table, bit).letter == chr(int(table[bit].c_true))
        assert _taint(Kernel.of(dump.prog), table, bit).meaning == _TAINTS[bit][1]


@pytest.mark.parametrize("bit", [40, 63])
def test_a_taint_that_nobody_knows(one_dump: Dump, bit: int) -> None:
    from drgn_pageowner.kernel.read.crash import _taint

    assert (
        _taint(Kernel.of(one_dump.prog), one_dump.prog["taint_flags"], bit).meaning == f"flag {bit}"
    )
