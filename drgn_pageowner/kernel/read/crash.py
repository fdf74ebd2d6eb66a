# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read facts about the crash: taints, the OOM killer's activity, the end of the kernel log."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from drgn import FaultError, Object, ProgramFlags

from drgn_pageowner.kernel.dump.bulk import find_object, has_member, symbol_address
from drgn_pageowner.kernel.dump.damage import suppress_damage
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.percpu import cpu_variable
from drgn_pageowner.kernel.linux.printk import log_records
from drgn_pageowner.kernel.linux.topology import online_cpus, possible_cpus
from drgn_pageowner.model.crash import Crash, LogLine, Oom, Taint

__all__ = ("read_crash",)

T = TypeVar("T")

_LOG_LINES = 60
_OOM_LINES = 40
# mm/oom_kill.c: the line about the task that invoked it, and the lines about its victims.
_OOM = re.compile(
    r"invoked oom-killer:|Out of memory: |Out of memory \(|Memory cgroup out of memory: |"
    r"Out of memory and no killable processes|oom-kill:constraint="
)

# The letters of Documentation/admin-guide/tainted-kernels.rst, by bit. The kernel's own table
# (taint_flags) has letters since Linux kernel commit 7fd8329ba502 ("taint/module: Clean up global
# and module taint flags handling") (in v4.10), and words since 2f183c68345a ("kernel/panic: add
# verbose logging of kernel taints in backtraces") (in v6.11).
_TAINTS = (
    ("P", "a proprietary module was loaded"),
    ("F", "a module was loaded by force"),
    ("S", "the kernel runs on a system it was not made for"),
    ("R", "a module was unloaded by force"),
    ("M", "a processor reported a machine check exception"),
    ("B", "a page was bad: an unexpected reference or flag"),
    ("U", "userspace asked for it"),
    ("D", "the kernel died before: there was an oops or a BUG"),
    ("A", "an ACPI table was overridden"),
    ("W", "the kernel issued a warning before"),
    ("C", "a staging driver was loaded"),
    ("I", "a bug of the firmware was worked around"),
    ("O", "a module from outside the kernel tree was loaded"),
    ("E", "an unsigned module was loaded"),
    ("L", "there was a soft lockup"),
    ("K", "the kernel was live patched"),
    ("X", "the distribution's own reason"),
    ("T", "the kernel was built with randomized structures"),
    ("N", "an in-kernel test was run"),
    ("J", "userspace used a mutating debug operation of fwctl"),
)


def read_crash(kernel: Kernel) -> Crash:
    """Read all facts about the crash; parts that cannot be read are ``None`` or empty."""
    live = bool(kernel.prog.flags & ProgramFlags.IS_LIVE)
    lines = [
        LogLine(record.timestamp, record.level, record.text.decode(errors="backslashreplace"))
        for record in log_records(kernel)
    ]
    read = partial(_or_none, kernel)
    mask = read("taints", lambda: int(kernel.prog["tainted_mask"]))
    return Crash(
        crash_time=None if live else read("its time", lambda: _crash_time(kernel)),
        hardware=read("the hardware", lambda: _hardware(kernel)),
        cpus=read("CPUs", lambda: len(online_cpus(kernel))),
        command_line=read(
            "the command line", lambda: _text(kernel.prog["saved_command_line"].string_())
        ),
        task=None if live else read("the task", lambda: _crashed_task(kernel)),
        tainted=mask,
        taints=_taints(kernel, mask or 0),
        oom=Oom(
            kills=read("OOM kills", lambda: _oom_kills(kernel)),
            victims=read("OOM victims", lambda: int(kernel.prog["oom_victims"].counter)),
            log=[line for line in lines if _OOM.search(line.text)][-_OOM_LINES:],
        ),
        log=lines[-_LOG_LINES:],
        build_id=read("the build ID", lambda: _build_id(kernel)),
    )


def _or_none(kernel: Kernel, what: str, read: Callable[[], T]) -> T | None:
    """Return the result of *read*, or ``None`` if it fails; note a problem if memory is missing."""
    with suppress_damage():
        try:
            return read()
        except FaultError:
            with kernel.tolerate("facts about the crash cannot be read: {}", of=what):
                raise
    return None


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace").strip()


def _crash_time(kernel: Kernel) -> int | None:
    # crash_save_vmcoreinfo() of kernel/vmcore_info.c appends it when the kernel crashes.
    return kernel.vmcoreinfo.integer("CRASHTIME")


def _build_id(kernel: Kernel) -> str | None:
    # In VMCOREINFO since Linux kernel commit 0935288c6e00 ("kdump: append kernel build-id string to
    # VMCOREINFO") (in v5.9).
    known = kernel.vmcoreinfo.text("BUILD-ID")
    if known:
        return known
    built = kernel.prog.main_module().build_id
    return built.hex() if built is not None else None


def _hardware(kernel: Kernel) -> str | None:
    # static char dump_stack_arch_desc_str[128] of lib/dump_stack.c.
    address = symbol_address(kernel.prog, "dump_stack_arch_desc_str")
    if address is None:
        return None
    return _text(kernel.prog.read(address, 128).split(b"\0", 1)[0]) or None


def _command_line(kernel: Kernel) -> str:
    return _text(kernel.prog["saved_command_line"].string_())


def _crashed_task(kernel: Kernel) -> tuple[int, str]:
    # panic_cpu was added in Linux kernel commit 1717f2096b54 ("panic, x86: Fix re-entrance problem
    # due to panic on NMI") (in v4.5). It is -1 if no CPU called panic().
    panic_cpu = find_object(kernel.prog, "panic_cpu")
    if panic_cpu is not None and int(panic_cpu.counter) >= 0:
        task = cpu_variable(kernel, "runqueues", int(panic_cpu.counter)).curr
        return int(task.pid), _text(task.comm.string_())
    # drgn does not find the crashed thread if KASLR relocated the per-CPU variables.
    thread = kernel.prog.crashed_thread()
    return int(thread.tid), _text(thread.object.comm.string_())


def _oom_kills(kernel: Kernel) -> int:
    # Added in Linux kernel commit 8e675f7af507 ("mm/oom_kill: count global and memory cgroup oom
    # kills") (in v4.13). CPUs that were offlined have drained their counters.
    number = kernel.prog.constant("OOM_KILL")
    return sum(
        int(cpu_variable(kernel, "vm_event_states", cpu).event[number])
        for cpu in possible_cpus(kernel)
    )


def _taints(kernel: Kernel, mask: int) -> list[Taint]:
    table = find_object(kernel.prog, "taint_flags")
    bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    return [_taint(kernel, table, bit) for bit in bits]


def _taint(kernel: Kernel, table: Object | None, bit: int) -> Taint:
    """
    Get the letter and the meaning of a taint.

    The meaning is taken from :data:`_TAINTS` if *table* has the same letter for this bit, otherwise
    from *table*.

    :param table: The kernel's ``taint_flags``, if it has this table.
    :param bit: Number of the bit in ``tainted_mask``.
    """
    known = _TAINTS[bit] if bit < len(_TAINTS) else None
    letter, words = known if known is not None else ("?", f"flag {bit}")
    if table is None or bit >= len(table):
        return Taint(letter, words)
    flag = table[bit]
    own = _or_none(kernel, "taints", lambda: chr(int(flag.c_true)))
    if own is None or own == letter:
        return Taint(letter, words)
    named = None
    if has_member(flag.type_, "desc"):
        named = _or_none(kernel, "taints", lambda: _text(flag.desc.string_()))
    return Taint(own, named or f"flag {bit}")
