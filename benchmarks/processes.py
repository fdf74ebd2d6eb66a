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
        main = _main_thread(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and process.returncode not in also:
            errors.seek(0)
            said = errors.read().decode(errors="replace")
            sys.exit(f"failed: {shlex.join(command)}\n{said}")
    seconds = time.perf_counter() - start
    peak = usage.ru_maxrss * 1024
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(seconds, cpu, main, peak, written, bytes(kept))


def _environment() -> dict[str, str]:
    """
    Return an environment in which Python keeps modules that it has compiled, as it does for users.

    Images for containers set it otherwise, and to compile all modules takes as long as to read 8 GB
    of memory.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _main_thread(pid: int) -> float:
    """Return the seconds of CPU time that the main thread of a process took, which has ended."""
    # The name, which is in parentheses, may contain spaces.
    text = Path(f"/proc/{pid}/task/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()
    # Fields 14 and 15 of proc_pid_stat(5), utime and stime; the first here is field 3.
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reader_of(core: str, symbols: str) -> list[str]:
    """Return the command that runs one of the programs of peers.py with a dump."""
    return [sys.executable, str(HERE / "peers.py"), core, symbols]
