# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the real command line on dump files with changed bytes, or cut off."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from conftest import Dump
from questions import COMMANDS
from verdict import LIMIT_BYTES, LIMIT_SECONDS, Outcome

__all__ = ("Change", "changed", "changes", "judge_file")

_HEADERS = 8192


class Change(NamedTuple):
    """A change of a file."""

    size: int
    """Size at which the file is cut off."""
    bytes: tuple[tuple[int, int], ...] = ()
    """Offset and new value of each changed byte."""

    def __str__(self) -> str:
        return ",".join([str(self.size), *(f"{at}:{value}" for at, value in self.bytes)])

    @classmethod
    def parse(cls, text: str) -> Change:
        """The inverse of ``str()``."""
        size, *pairs = text.split(",")
        return cls(
            int(size), tuple((int(at), int(value)) for at, value in (p.split(":") for p in pairs))
        )


def changes(dump: Dump, seed: int) -> Iterator[tuple[Change, str]]:
    """Yield changes of the file of *dump* without end, each with a command to run on it."""
    random = np.random.default_rng(seed)
    size = dump.vmcore.stat().st_size
    while True:
        if random.random() < 0.3:
            # Change bytes anywhere in the file, and others in its headers and tables.
            change = Change(int(random.integers(0, size if random.random() < 0.6 else 1 << 19)))
        else:
            end = (_HEADERS, 1 << 19, size)[int(random.integers(0, 3))]
            places = random.integers(0, end, int(2 ** random.integers(0, 11))).tolist()
            values = random.choice([0, 1, 0x7F, 0x80, 0xFF, *range(256)], len(places)).tolist()
            change = Change(size, tuple(zip(places, values, strict=True)))
        yield change, str(random.choice(COMMANDS))


@contextmanager
def changed(dump: Dump, change: Change, directory: Path) -> Iterator[Path]:
    """Yield the path of the file of *dump* with *change*; it is removed afterwards."""
    path = directory / "vmcore"
    shutil.copy(dump.vmcore, path)
    with path.open("r+b") as file:
        for at, value in change.bytes:
            file.seek(at)
            file.write(bytes([value]))
        file.truncate(change.size)
    try:
        yield path
    finally:
        path.unlink()


def judge_file(dump: Dump, change: Change, command: str, directory: Path) -> Outcome:
    """Run *command* on the changed file, with limits on memory and time."""
    with changed(dump, change, directory) as path:
        start = time.monotonic()
        try:
            result = subprocess.run(
                [sys.executable, "-m", "drgn_pageowner", "-q", "-c", str(path),
                 "-s", str(dump.vmlinux), *command.split()],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=20 * LIMIT_SECONDS,
                preexec_fn=_limit, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                encoding="utf-8", errors="surrogateescape", check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(command, "fault", "hangs", 20.0 * LIMIT_SECONDS)
    return Outcome(command, *_kind(result), time.monotonic() - start)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS))


def _kind(result: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    lines = result.stderr.splitlines()
    ours = all(line.startswith(("drgn-pageowner: ", "drgn: ")) for line in lines)
    if result.returncode not in (0, 1, 2) or not ours or (result.returncode and not lines):
        return "fault", f"exit status {result.returncode}\n{result.stderr[-3000:]}"
    return ("refused" if result.returncode else "answered"), (lines or [""])[-1]
