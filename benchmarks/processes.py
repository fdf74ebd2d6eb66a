# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run processes and measure what they cost."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

__all__ = ("Cost", "measure", "reader_of")

HERE = Path(__file__).resolve().parent


class Cost(NamedTuple):
    """The cost of one process."""

    seconds: float
    """Elapsed."""
    cpu: float
    """Seconds of CPU time, user and system, with that of its children."""
    main: float
    """That of its main thread alone."""
    children: float
    """That of its children."""
    peak: int
    """Largest resident set, in bytes."""
    written: int
    """Bytes written to standard output."""
    output: bytes
    """What was written there; empty unless it was asked for."""


def measure(
    command: list[str],
    *,
    given: bytes = b"",
    output: bool = False,
    discard: bool = False,
    also: Collection[int] = (),
) -> Cost:
    """
    Run *command*; end this program if it fails.

    :param given: Its standard input.
    :param output: Keep what is written to standard output.
    :param discard: Let it write to /dev/null, so that reading what it writes takes no CPU.
    :param also: Exit statuses besides 0 that are no failure.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as source:
        source.write(given)
        source.seek(0)
        to = subprocess.DEVNULL if discard else subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=source, stdout=to, stderr=errors, env=_environment()
        )
        written, kept = 0, bytearray()
        while process.stdout is not None and (piece := process.stdout.read(1 << 20)):
            written += len(piece)
            if output:
                kept += piece
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # Fields of proc_pid_stat(5): utime and stime, and cutime and cstime.
        main = _ticks(f"{process.pid}/task/{process.pid}", 14)
        children = _ticks(str(process.pid), 16)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and process.returncode not in also:
            errors.seek(0)
            said = errors.read().decode(errors="replace")
            sys.exit(f"failed: {shlex.join(command)}\n{said}")
    seconds = time.perf_counter() - start
    peak = usage.ru_maxrss * 1024
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(seconds, cpu, main, children, peak, written, bytes(kept))


def _environment() -> dict[str, str]:
    """
    Return an environment in which Python keeps modules that it has compiled, as it does for users.

    Images for containers set it otherwise, and to compile all modules takes as long as to read 8 GB
    of memory.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _ticks(process: str, first: int) -> float:
    """
    Return the sum of two neighbouring fields of a ``stat`` file in /proc, in seconds.

    :param process: Its directory there.
    :param first: Number of the first, from 1 on: user time; the second is system time.
    """
    # The name, which is in parentheses, may contain spaces. It is the second field.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[first - 3]) + int(fields[first - 2])) / os.sysconf("SC_CLK_TCK")


def reader_of(core: str, symbols: str) -> list[str]:
    """Return the command that runs one of the programs of peers.py with a dump."""
    return [sys.executable, str(HERE / "peers.py"), core, symbols]
