# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Work on parts of large arrays in several threads.

Threads have the arrays in common, and NumPy releases Python's global interpreter lock while it
indexes, sorts or computes: two threads take 50 to 60 % of the time of one. (drgn holds the lock
while it reads, so dumps are read by processes: :mod:`drgn_pageowner.kernel.dump.parallel`.)
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

__all__ = (
    "allow_threads",
    "allowed_threads",
    "from_threads",
    "in_threads",
    "usable_cpus",
    "while_next",
)

T = TypeVar("T")
R = TypeVar("R")

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")

# Number of calls for each thread that are begun or waiting.
_AHEAD = 4

# malloc.h
_M_ARENA_MAX = -8

_allowed = 1
_IN_THREAD: ContextVar[bool] = ContextVar("in_thread", default=False)


def usable_cpus() -> int:
    """
    Return the number of CPUs that this process may use.

    It is limited by the CPU affinity of the process and by the CPU time of its container
    (``cpu.max`` of cgroup v2).
    """
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_MAX.read_text().split()
        return max(min(cpus, round(int(quota) / int(period))), 1)
    except (OSError, ValueError):
        # There is no such file outside of a container, and no number in it if there is no limit.
        return cpus


def allow_threads(number: int) -> None:
    """Let :func:`in_threads` use *number* threads from now on; at first, it uses none."""
    global _allowed
    _allowed = number
    if number > 1:
        _share_heap()


@functools.cache
def _share_heap() -> None:
    """
    Let threads that are started later use the same heap as this one.

    The GNU C library gives each thread a heap of its own, which keeps what the thread has freed: on
    a machine of 128 GiB, some 80 MB.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def allowed_threads() -> int:
    """Return what :func:`allow_threads` was called with."""
    return _allowed


def while_next(work: Callable[[T], object], items: Iterable[T]) -> None:
    """
    Call *work* for one item after the other, if several threads are allowed in another thread while
    the next item is made.

    The process may fork while the first item is made, but not later.

    :raises Exception: the first that *work* raised
    """
    with contextlib.ExitStack() as stack:
        pool: Executor | None = None
        before: Future[object] | None = None
        for number, item in enumerate(items):
            if not number or _allowed < 2:
                work(item)
                continue
            if pool is None:
                from concurrent.futures import ThreadPoolExecutor

                pool = stack.enter_context(ThreadPoolExecutor(1))
            if before is not None:
                before.result()
            before = pool.submit(work, item)
        if before is not None:
            before.result()


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """
    Call *work* for each of *items*, in several threads if that is allowed and there are several.

    The threads have ended when this function returns, so that the process may fork. What *work*
    computes once and keeps is best computed before.

    :param work: Function that NumPy does most of; calls do not write to the same memory.
    :return: The results, in the order of *items*.
    :raises Exception: the first that *work* raised
    """
    return [*from_threads(work, items)]


def from_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """
    Yield the results of :func:`in_threads`; few of them are computed before they are asked for.

    The process must not fork before the last one.
    """
    every: Sequence[T] = [*items]
    threads = min(_allowed, len(every))
    if threads < 2 or _IN_THREAD.get():
        yield from map(work, every)
        return
    # Most commands on most dumps need no threads.
    from concurrent.futures import ThreadPoolExecutor

    def call(item: T) -> R:
        # Nothing in a thread starts more of them.
        _IN_THREAD.set(True)
        return work(item)

    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in every:
                waiting.append(pool.submit(copy_context().run, call, item))
                if len(waiting) >= _AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
