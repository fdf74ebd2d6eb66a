# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Ingest one dump into a dataset.

A worker identifies the dump, finds the kernel's symbols, and runs ``save --dataset`` in a separate
process with limited time and memory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import IO, Any

from drgn_pageowner.errors import INTERNAL, PageOwnerError
from drgn_pageowner.fleet.dumps import identity_of, on_this_machine
from drgn_pageowner.fleet.symbols import NoSymbolsError, SymbolStore, fits
from drgn_pageowner.model.dataset import day_of
from drgn_pageowner.render.dataset import rows_table
from drgn_pageowner.storage.dataset import Dataset, Partition, dataset_file
from drgn_pageowner.storage.identity import new_id

__all__ = ("FAILURES", "IngestRun", "Job", "note_lost", "run_job")

FAILURES = ("failed", "timeout", "memory", "lost", "no symbols", "unreadable")
"""Every status that a job can end with, besides ``"ok"`` and ``"present"``."""

# Statuses after which a dump is not tried again by a later ingest of the same version. A dump
# without symbols is tried again, because its symbols may have been installed since.
_FINAL = ("failed", "timeout", "memory", "unreadable")
_ATTEMPTS = 2
_POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Job:
    """The instructions for one dump, as they are sent to a worker."""

    dump: str
    """Path or URL of the dump."""
    dataset: str
    symbols: Sequence[str] = ()
    """Paths of files with symbols. The first file that matches the dump's kernel is used."""
    stores: Sequence[str] = ()
    """Directories to search for symbols."""
    cache: str | None = None
    seconds: float = 1800.0
    """Maximum duration of an attempt, in seconds."""
    memory: int = 8 << 30
    """Maximum resident memory of an attempt that no file backs, in bytes."""
    leaks: bool = True
    rules: Sequence[str] = ()
    """Directories of rules."""
    scratch: str | None = None
    retry_failed: bool = False
    """Whether to try a dump again that failed in an earlier ingest."""


@dataclass(frozen=True)
class IngestRun:
    """The outcome of a job: a row of the table ``runs``."""

    dump: str
    status: str
    """``"ok"``, ``"present"`` (the dump was in the dataset already), or one of :data:`FAILURES`."""
    reason: str | None = None
    snapshot: str = ""
    dump_bytes: int | None = None
    release: str | None = None
    build_id: str | None = None
    symbols: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    earlier: bool = False
    """Whether the dump failed in an earlier ingest, and was not tried again."""
    partition: Partition = field(default_factory=lambda: Partition(None, None))

    def summary(self) -> dict[str, Any]:
        """Return the members that explain a failure, by name."""
        names = ("dump", "status", "reason", "snapshot", "release", "build_id", "attempts")
        return {name: getattr(self, name) for name in names}

    def row(self, tool: str) -> dict[str, Any]:
        """
        Return the row of the table ``runs`` for this outcome: column -> value.

        :param tool: Version of this program.
        """
        row = asdict(self)
        del row["partition"], row["earlier"]
        return {**row, "finished": datetime.now(UTC), "tool": tool}


def run_job(job: Job) -> IngestRun:
    """
    Ingest a dump, write the outcome to the table ``runs``, and return it.

    Failures are reported in :attr:`IngestRun.status`, not raised.
    """
    try:
        return _run(job)
    except PageOwnerError as error:
        # The dump cannot be identified, or the dataset cannot be read.
        run = IngestRun(job.dump, "unreadable", str(error), new_id("unreadable", job.dump))
        return _noted(job, run)


def _run(job: Job) -> IngestRun:
    identity = identity_of(job.dump)
    partition = Partition(identity.release, day_of(identity.crash_time))
    run = IngestRun(
        job.dump, "ok", None, identity.id, identity.size, identity.release, identity.build_id,
        partition=partition,
    )  # fmt: skip
    dataset = Dataset(job.dataset)
    if dataset.has(partition, identity.id):
        # The worker that wrote the snapshot may have been killed before it wrote the table "runs".
        if not dataset.place.exists(dataset_file("runs", partition, identity.id)):
            _noted(job, run)
        return replace(run, status="present")
    if not job.retry_failed and (reason := _failed_before(dataset, run)) is not None:
        return replace(run, status=reason[0], reason=reason[1], earlier=True)
    if not identity.is_dump:
        return _noted(job, replace(run, status="unreadable", reason="it begins like no dump"))
    try:
        run = replace(run, symbols=_symbols(job, identity.build_id, identity.release))
    except NoSymbolsError as error:
        return _noted(job, replace(run, status="no symbols", reason=str(error)))
    with on_this_machine(job.dump, job.scratch) as path:
        run = replace(run, symbols=_lighter(job, run, path))
        while run.attempts < _ATTEMPTS:
            run = _attempt(job, replace(run, attempts=run.attempts + 1), path)
            if run.status == "ok":
                break
    return _noted(job, run)


def _symbols(job: Job, build_id: str | None, release: str | None) -> str:
    store = SymbolStore([*map(os.path.abspath, job.stores)], job.cache)
    given = [path for path in job.symbols if fits(path, build_id, release)]
    return given[0] if given else store.find(build_id, release)


def _program(path: str, symbols: str | None) -> list[str]:
    """Return the words of a command line in front of the command, for one dump."""
    # A worker of the cluster takes the place of a second process.
    words = [sys.executable, "-m", "drgn_pageowner", "--core", path, "--jobs", "1"]
    return [*words, "--main-symbols", *(("--symbols", symbols) if symbols else ())]


def _lighter(job: Job, run: IngestRun, path: str) -> str | None:
    """
    Return the path of the kernel's layout pack, to use instead of ``run.symbols``.

    The first job of a kernel makes the pack; later jobs use it.

    :param path: Path of the dump on this machine.
    :return: ``run.symbols`` if the kernel has no build ID, or its pack cannot be made.
    """
    if run.symbols is None or run.build_id is None or run.symbols in job.symbols:
        return run.symbols

    def make(pack: str) -> bool:
        command = [*_program(path, run.symbols), "layout", "-o", pack]
        with tempfile.TemporaryFile() as said:
            return _limited(command, said, job.seconds, job.memory)[0] == 0

    return SymbolStore([], job.cache).layout(run.build_id, make) or run.symbols


def _failed_before(dataset: Dataset, run: IngestRun) -> tuple[str, str | None] | None:
    """
    Return the status and the reason of an earlier failure that makes another attempt useless.

    :return: ``None`` if the dump was not tried by this version of the program, or may succeed now.
    """
    from drgn_pageowner import __version__

    [row] = dataset.rows("runs", run.partition, run.snapshot) or [{}]
    if row.get("status") in _FINAL and row.get("tool") == __version__:
        return row["status"], row["reason"]
    return None


def _noted(job: Job, run: IngestRun) -> IngestRun:
    """Write *run* to the table ``runs``, and return it; if that fails, an ``"ok"`` becomes
    ``"failed"``."""
    from drgn_pageowner import __version__

    try:
        dataset = Dataset(job.dataset)
        rows = rows_table("runs", [run.row(__version__)])
        dataset.write({"runs": (rows.schema, [rows])}, run.partition, run.snapshot)
    except PageOwnerError as error:
        return replace(run, status="failed", reason=str(error)) if run.status == "ok" else run
    return run


def _attempt(job: Job, run: IngestRun, path: str) -> IngestRun:
    """
    Run ``save --dataset`` in a separate process, and return *run* with the outcome.

    :param path: Path of the dump in the local file system.
    """
    command = [
        *_program(path, run.symbols),
        "save", "--dataset", job.dataset, "--dump-name", job.dump,
        *(("--leaks",) if job.leaks else ()),
        *(word for where in job.rules for word in ("--rules", where)),
    ]  # fmt: skip
    start = time.monotonic()
    with tempfile.TemporaryFile() as said:
        status, peak, stopped = _limited(command, said, job.seconds, job.memory)
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    run = replace(run, seconds=round(time.monotonic() - start, 3), peak_bytes=peak)
    if stopped is not None:
        limit = f"{job.seconds:g} s" if stopped == "timeout" else f"{job.memory:,} bytes"
        return replace(run, status=stopped, reason=f"it took more than {limit}")
    if status == 0:
        return replace(run, status="ok", reason=None)
    return replace(run, status="failed", reason=_reason(status, lines))


def _reason(status: int, lines: Sequence[str]) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    last = lines[-1].removeprefix("drgn-pageowner: ") if lines else "no reason given"
    return f"{last} (exit status {status})" if status == INTERNAL or not lines else last


def _limited(
    command: Sequence[str], said: IO[bytes], seconds: float, memory: int
) -> tuple[int, int, str | None]:
    """
    Run *command*, and kill it if it takes too much time or memory.

    :param said: File to which the command's stderr is written.
    :param seconds: Maximum duration, in seconds.
    :param memory: Maximum resident memory that no file backs, in bytes.
    :return: Exit status (negative: number of the signal that killed it); maximum resident memory,
        in bytes; and ``"timeout"`` or ``"memory"`` if it exceeded that limit, otherwise ``None``.
    """
    parent = os.getpid()

    def prepare() -> None:
        # Let the kernel kill the process if its worker is killed.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    with open(os.devnull, "rb") as nothing:
        process = subprocess.Popen(
            command, stdin=nothing, stdout=subprocess.DEVNULL, stderr=said, preexec_fn=prepare,
            start_new_session=True,
        )  # fmt: skip
    deadline, stopped = time.monotonic() + seconds, None
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if stopped is None:
                if time.monotonic() > deadline:
                    stopped = "timeout"
                elif _private_bytes(process.pid) > memory:
                    stopped = "memory"
                if stopped is not None:
                    process.kill()
            time.sleep(_POLL_SECONDS)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024, stopped


def _private_bytes(pid: int) -> int:
    """Return the resident memory of a process that no file backs, in bytes; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/status") as file:
            words = [line.split() for line in file if line.startswith(("RssAnon:", "RssShmem:"))]
    except (OSError, ValueError):
        return 0
    return sum(int(line[1]) for line in words) * 1024


def note_lost(job: Job, reason: str) -> IngestRun:
    """
    Write the outcome ``"lost"`` to the table ``runs`` for a job that no worker finished.

    The next ingest tries the dump again.
    """
    try:
        identity = identity_of(job.dump)
    except PageOwnerError as error:
        return IngestRun(job.dump, "unreadable", str(error))
    run = IngestRun(
        job.dump, "lost", reason, identity.id, identity.size, identity.release, identity.build_id,
        attempts=1, partition=Partition(identity.release, day_of(identity.crash_time)),
    )  # fmt: skip
    return _noted(job, run)
