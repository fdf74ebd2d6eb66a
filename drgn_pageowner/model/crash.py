# SPDX-License-Identifier: LGPL-2.1-or-later
"""Facts about the crash and the machine, from the kernel log and global variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ("Crash", "LogLine", "Oom", "Taint")


@dataclass(frozen=True)
class Taint:
    """One reason why the kernel is tainted."""

    letter: str
    """The letter that ``print_tainted()`` prints."""
    meaning: str
    """The reason in words."""


@dataclass(frozen=True)
class LogLine:
    """One record of the kernel log."""

    ts_nsec: int
    """Nanoseconds since boot."""
    level: int
    """0 (emergency) to 7 (debug)."""
    text: str
    """The message; bytes that are not UTF-8 are written as ``\\xNN``."""


@dataclass(frozen=True)
class Oom:
    """Activity of the out-of-memory killer: counts, and its lines in the kernel log."""

    kills: int | None
    """Number of processes killed since boot, ``oom_kill`` of ``/proc/vmstat``; ``None`` if it
    cannot be read. Added in Linux kernel commit 8e675f7af507 ("mm/oom_kill: count global and memory
    cgroup oom kills") (in v4.13)."""
    victims: int | None
    """Number of tasks that were being killed at the time of the dump (``oom_victims``)."""
    log: Sequence[LogLine] = ()
    """Lines of the kernel log about the task that invoked the OOM killer, and the tasks that were
    killed."""


@dataclass(frozen=True)
class Crash:
    """Facts about the machine and its crash; ``None`` for those that are not in the dump."""

    crash_time: int | None = None
    """``CRASHTIME`` of vmcoreinfo: seconds since 1970, UTC."""
    hardware: str | None = None
    """The hardware, as the kernel prints it in every backtrace (``dump_stack_arch_desc_str``)."""
    cpus: int | None = None
    """Number of CPUs that were online at the crash."""
    command_line: str | None = None
    """``saved_command_line``."""
    task: tuple[int, str] | None = None
    """pid and comm of the task that crashed the machine."""
    tainted: int | None = None
    """``tainted_mask``."""
    taints: Sequence[Taint] = ()
    oom: Oom = field(default_factory=lambda: Oom(None, None))
    log: Sequence[LogLine] = ()
    """The last lines of the kernel log."""
    build_id: str | None = None
    """Build ID of the kernel, in hex."""
