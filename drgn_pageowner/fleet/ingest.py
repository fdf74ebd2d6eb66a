# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ingest many dumps with dask.distributed, on workers on this machine or of a cluster."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.extras import extra
from drgn_pageowner.fleet.job import IngestRun, Job, note_lost, run_job
from drgn_pageowner.progress import warn

__all__ = ("Ingest", "ingest")

# Number of workers that may die while they run a job, before dask gives the job up. The job is
# seldom the reason, because the dump is decoded in a process of its own.
_LOST_WORKERS = 3
_SUBMISSIONS = 2
_STARTS = 5
_CHECK_SECONDS = 5.0
# Fraction of the available memory that jobs may use.
_SHARE = 0.8


@dataclass
class Ingest:
    """The outcome of an ingest."""

    runs: list[IngestRun] = field(default_factory=list)
    seconds: float = 0.0
    workers: int = 0
    """Largest number of workers at any time."""
    peak_bytes: int = 0
    """Largest resident memory of any job, in bytes."""

    def numbers(self) -> dict[str, int]:
        """Return the number of dumps with each status: status -> number."""
        result: dict[str, int] = {}
        for run in self.runs:
            result[run.status] = result.get(run.status, 0) + 1
        return result

    @property
    def failed(self) -> list[IngestRun]:
        """The outcomes of the jobs whose dumps are not in the dataset."""
        return [run for run in self.runs if run.status not in ("ok", "present")]

    @property
    def per_minute(self) -> float:
        """Number of dumps decoded per minute, including those that failed."""
        decoded = sum(run.attempts > 0 for run in self.runs)
        return 60 * decoded / self.seconds if self.seconds else 0.0


def ingest(jobs: Sequence[Job], *, scheduler: str | None, most_jobs: int | None) -> Ingest:
    """
    Run *jobs* and wait for them.

    :param scheduler: Address of a dask scheduler (``tcp://HOST:PORT``); ``None`` to start workers
        on this machine.
    :param most_jobs: Maximum number of workers on this machine; ``None`` for one per CPU.
    :raises PageOwnerError: if dask.distributed is not installed, or there is no scheduler
    """
    result, start = Ingest(), time.monotonic()
    if not jobs:
        return result
    with _client(scheduler, most_jobs, len(jobs)) as (client, cluster):
        limit = _most_workers(most_jobs, len(jobs))
        for run in _finished(client, jobs):
            result.runs.append(run)
            result.workers = max(
                result.workers, len(client.scheduler_info(n_workers=-1)["workers"])
            )
            if run.peak_bytes > result.peak_bytes:
                result.peak_bytes = run.peak_bytes
                if cluster is not None:
                    cluster.scale(_fitting(limit, result.peak_bytes))
    result.seconds = time.monotonic() - start
    return result


def _finished(client: Any, jobs: Sequence[Job]) -> Iterator[IngestRun]:
    """
    Run all jobs, and yield the outcome of each as soon as the job ends.

    :param client: ``distributed.Client``.
    """
    distributed = extra("distributed", "fleet", "fleet ingest")
    waiting = distributed.as_completed(raise_errors=False)
    of_key: dict[str, tuple[Job, int]] = {}

    def submit(job: Job, number: int) -> None:
        future = client.submit(run_job, job, pure=False)
        of_key[future.key] = (job, number)
        waiting.add(future)

    for job in jobs:
        submit(job, 1)
    for future in _shown(waiting, len(jobs)):
        job, number = of_key.pop(future.key)
        if future.status == "finished":
            yield future.result()
        elif number < _SUBMISSIONS:
            submit(job, number + 1)
        else:
            yield note_lost(job, _why_lost(future))


def _why_lost(future: Any) -> str:
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return "every worker that ran it was killed"
    return f"a worker failed: {' '.join(str(error).split()) or type(error).__name__}"


def _shown(futures: Iterable[Any], total: int) -> Iterator[Any]:
    """Yield *futures* as they complete, with a progress bar on stderr if it is a terminal."""
    if not sys.stderr.isatty():
        yield from futures
        return
    from tqdm import tqdm

    yield from tqdm(futures, desc="ingest", total=total, unit=" dump", leave=False)


@contextmanager
def _client(scheduler: str | None, most_jobs: int | None, jobs: int) -> Iterator[tuple[Any, Any]]:
    """
    Yield a ``distributed.Client``, and the ``LocalCluster`` that was started on this machine.

    The cluster is ``None`` if *scheduler* is given.

    :param most_jobs: Maximum number of workers on this machine; ``None`` for one per CPU.
    :param jobs: Number of jobs.
    """
    dask = extra("dask", "fleet", "fleet ingest")
    distributed = extra("distributed", "fleet", "fleet ingest")
    # Do not print messages about workers that are killed and connections that close: dask handles
    # these cases by itself.
    for name in ("distributed", "tornado", "asyncio", "bokeh"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings = {
        "distributed.scheduler.allowed-failures": _LOST_WORKERS,
        "distributed.logging.distributed": "critical",
        "distributed.worker.daemon": False,
        "distributed.comm.timeouts.connect": "30s",
    }
    with dask.config.set(settings):
        if scheduler is not None:
            try:
                client = distributed.Client(scheduler, timeout=30)
            except (OSError, ValueError) as error:
                raise PageOwnerError(
                    f"no dask scheduler answers at {scheduler}: {error}"
                ) from error
            with client:
                if not client.scheduler_info(n_workers=-1)["workers"]:
                    warn(f"the scheduler at {scheduler} has no workers yet: waiting for one")
                yield client, None
            return
        # Start two workers. The number of workers that fit into memory is known when the first job
        # has ended.
        cluster = _local_cluster(distributed, min(2, _most_workers(most_jobs, jobs)))
        try:
            with distributed.Client(cluster) as client, _complete(cluster):
                yield client, cluster
        finally:
            with suppress(Exception):
                cluster.close(timeout=10)


def _local_cluster(distributed: Any, workers: int) -> Any:
    """
    Start a ``LocalCluster`` with *workers* processes; if that fails, try it again a few times.

    :raises PageOwnerError: if it fails every time
    """
    why = ""
    for _ in range(_STARTS):
        try:
            return distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        except (RuntimeError, OSError) as error:
            why = " ".join(str(error).split())
    raise PageOwnerError(f"workers cannot be started on this machine: {why}")


@contextmanager
def _complete(cluster: Any, seconds: float = _CHECK_SECONDS) -> Iterator[None]:
    """
    Replace workers that are killed while they start, which dask itself only does for running ones.

    :param cluster: ``distributed.LocalCluster``.
    :param seconds: Time between two checks, in seconds.
    """
    stop = Event()

    def check() -> None:
        while not stop.wait(seconds):
            wanted = len(cluster.worker_spec)
            if len(cluster.workers) < wanted:
                with suppress(Exception):
                    cluster.scale(wanted)

    thread = Thread(target=check, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _most_workers(most_jobs: int | None, jobs: int) -> int:
    return max(1, min(most_jobs or len(os.sched_getaffinity(0)), jobs))


def _fitting(limit: int, peak: int) -> int:
    """Return how many jobs of *peak* bytes fit into the available memory; at most *limit*."""
    try:
        with open("/proc/meminfo") as file:
            known = dict(line.split(":", 1) for line in file)
        free = int(known["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return limit
    return max(1, min(limit, int(free * _SHARE) // max(peak, 1)))
