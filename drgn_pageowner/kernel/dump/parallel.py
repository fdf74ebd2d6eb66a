# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Do the parts of a large piece of work in several processes, and return the results in order.

The processes are forked after the dump was opened and its symbols were loaded, so they have both
without loading them again. Threads would not help: drgn holds Python's global interpreter lock
while it reads and decompresses memory. (Two threads read the memmaps of a kdump file in the same
time as one, two processes in 55 % of it.)

The result of each part is the same as with one process. Its arrays are passed in memory that the
processes share, without being copied by this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import selectors
import signal
import socket
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

import _drgn  # type: ignore[import-not-found]
import numpy as np
from numpy.typing import DTypeLike

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.live import is_live
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.scratch import fits_in_memory, large_empty, large_shared
from drgn_pageowner.model.session import Begun, Finish, one_after_another
from drgn_pageowner.model.threads import allow_threads, allowed_threads

__all__ = ("LEAST_BYTES", "at_once", "beside", "in_order", "processes_for", "shared_empty")

T = TypeVar("T")
R = TypeVar("R")

LEAST_BYTES = 64 << 20
"""
Number of bytes that each process must have to read, or else fewer processes are started. Work of
less than twice this size is done by the calling process alone: that of the memmap of 8 GiB, or of
page_ext arrays of 3 to 6 GiB of memory.
"""

_AHEAD_BYTES = 64 << 20
"""Size of the results, estimated from those so far, that may be ready before they are asked for."""
_MOST_AHEAD = 1024
"""Maximum number of such results. At least two for each process are always allowed."""
_RUNS = 64
"""Least number of runs of items that each process does, if there are as many items. What is sent
for a run costs this process some 0.2 ms."""
_LONGEST_RUN = 8
"""Maximum number of items in a run, whose results are in memory together."""
_INLINE_BYTES = 1 << 12
"""Results up to this size are sent in a message, larger ones in shared memory."""
_MOST_PARTS = 1000
"""Maximum number of arrays of a result that are passed separately, without copies."""
_MESSAGE_BYTES = 1 << 16
_NICE = 10
"""How much lower the priority of the processes is than that of the calling process."""
_FIRST_TO_KILL = 1000
"""The largest ``oom_score_adj``, see proc_pid_oom_score_adj(5)."""
_ALIGNMENT = 64
_NUMBER = struct.Struct("<q")

# File descriptors of this process that its children must not keep open, so that they notice when
# this process exits.
_OWN_DESCRIPTORS: set[int] = set()


def processes_for(kernel: Kernel, size: int) -> int:
    """
    Return the number of processes to use for work that reads *size* bytes.

    :return: 1 if the calling process is to do the work alone: it was not allowed more
        (:attr:`Kernel.jobs <drgn_pageowner.kernel.dump.kernel.Kernel.jobs>`), the work is too
        small, or the kernel is running, because its memory is to be read at one time.
    """
    if is_live(kernel.prog) or not (hasattr(os, "memfd_create") and hasattr(os, "fork")):
        return 1
    return max(min(kernel.jobs, size // LEAST_BYTES), 1)


def in_order(
    kernel: Kernel, work: Callable[[T], R], items: Sequence[T], *, size: int
) -> Iterator[R]:
    """
    Yield the result of *work* for each of *items*, in their order.

    The first item is always done by the calling process, so that facts about the kernel that all
    items need are known before processes are started. Parts of memory that *work* could not read
    (:meth:`Kernel.tolerate <drgn_pageowner.kernel.dump.kernel.Kernel.tolerate>`) are recorded in
    the order of the items. If *work* raises an exception in another process, or the process dies
    (when the machine runs out of memory, for example), the calling process does the item again.

    :param work: Function without side effects on objects of this program, except for memory of
        :func:`shared_empty`. Its result is pickled.
    :param size: Number of bytes that *work* reads for all items together.
    """
    processes = min(processes_for(kernel, size), len(items) - 1)
    if processes < 2:
        yield from map(work, items)
        return
    yield work(items[0])
    length = min(max((len(items) - 1) // (processes * _RUNS), 1), _LONGEST_RUN)
    runs = [items[low : low + length] for low in range(1, len(items), length)]
    with _Workers(kernel, lambda run: list(map(work, run)), runs, processes) as workers:
        for number, run in enumerate(runs):
            results = workers.result(number)
            yield from map(work, run) if results is None else results


def at_once(kernel: Kernel, functions: Sequence[Callable[[], R]], *, size: int) -> list[R]:
    """
    Call *functions* at the same time: the first in the calling process, the others in processes
    that have a copy of its memory, and use as many threads.

    If a function raises an exception in another process, or the process dies, the calling process
    calls the function again.

    :param functions: Functions without side effects that the caller needs. The results are pickled,
        except for that of the first; none is ``None``.
    :param size: Number of bytes that the functions look at.
    :return: The results, in the order of *functions*.
    """
    others = functions[1:]
    processes = min(processes_for(kernel, size) - 1, len(others))
    if processes < 1:
        return one_after_another(functions)
    threads = allowed_threads()
    with _Workers(kernel, lambda function: function(), others, processes, threads) as workers:
        found = [functions[0]()]
        for number, function in enumerate(others):
            result = workers.result(number)
            found.append(function() if result is None else result)
    return found


@contextlib.contextmanager
def beside(kernel: Kernel, function: Begun, *, size: int) -> Iterator[Finish | None]:
    """
    Let another process begin to call *function*, and go on.

    It reads memory alone, and uses as many threads as this process. When the block ends, the
    process is ended.

    :param function: Function without side effects that the caller needs, with one argument: a
        function that waits for what the caller finds out meanwhile, and returns it. Its result is
        pickled, and not ``None``.
    :param size: Number of bytes that the function looks at.
    :return: Function to call once, with the value that *function* waits for (it is pickled); it
        returns the result of *function*, or ``None`` if that failed, or the process died. ``None``
        if no other process is to be started.
    """
    if processes_for(kernel, size) < 2:
        yield None
        return
    threads = allowed_threads()
    source, sink = os.pipe()
    _OWN_DESCRIPTORS.add(sink)

    def receive() -> Any:
        with open(source, "rb") as file:
            return pickle.load(file)

    def call(begun: Begun) -> Any:
        kernel.jobs = 1
        allow_threads(threads)
        return begun(receive)

    with contextlib.ExitStack() as stack:
        given = stack.enter_context(open(sink, "wb"))

        def disown() -> None:
            # Once it is closed, the number may be that of another file.
            if not given.closed:
                _OWN_DESCRIPTORS.discard(sink)

        stack.callback(disown)
        try:
            workers = stack.enter_context(_Workers(kernel, call, [function], 1))
        finally:
            os.close(source)

        def finish(value: Any) -> Any:
            # The process may be done without it, or have died.
            with contextlib.suppress(BrokenPipeError), given:
                disown()
                pickle.dump(value, given, 5)
            return workers.result(0)

        yield finish


def shared_empty(
    kernel: Kernel, rows: int, dtype: DTypeLike, *, size: int, zeroed: bool = False
) -> Array:
    """
    Make an array that the *work* of :func:`in_order` may write to.

    :param size: The same number as for :func:`in_order`.
    :param zeroed: Whether the array must be zero where *work* writes nothing.
    :return: Array of *dtype*, shape ``(rows,)``, with undefined contents; in memory that is shared
        with processes that are started later, if there will be any.
    """
    length = rows * np.dtype(dtype).itemsize
    if not length or processes_for(kernel, size) < 2:
        return (
            np.zeros(rows, dtype) if zeroed and fits_in_memory(length) else large_empty(rows, dtype)
        )
    return large_shared(rows, dtype)


class _Workers(Generic[T, R]):
    """
    Processes that take the numbers of items from a pipe and send back the results.

    Only a limited number of items is in the pipe, so that few results are in memory at once.
    """

    def __init__(
        self,
        kernel: Kernel,
        work: Callable[[T], R],
        items: Sequence[T],
        processes: int,
        threads: int = 1,
    ) -> None:
        """
        :param threads: Number of threads that each process may use.
        """
        self._kernel = kernel
        self._work = work
        self._threads = threads
        self._items = items
        # What was received of each result, which may take less memory than the result.
        self._results: dict[int, Sequence[bytes | memoryview]] = {}
        self._processes: dict[socket.socket, int] = {}
        self._selector = selectors.DefaultSelector()
        self._numbers, self._pipe = os.pipe()
        _OWN_DESCRIPTORS.add(self._pipe)
        self._given = self._received = self._received_bytes = 0
        try:
            for _ in range(processes):
                self._start()
        except OSError:
            # There may be no more processes, or no memory for one. Those that exist do the work.
            pass
        except BaseException:
            self._end()
            raise
        os.close(self._numbers)
        self._least_ahead = 2 * processes
        self._give(0)

    def __enter__(self) -> _Workers[T, R]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def result(self, index: int) -> R | None:
        """
        Return the result of an item. Items must be asked for in order.

        :return: ``None`` if there is none, because *work* failed or the process died.
        """
        while index not in self._results and self._processes:
            self._collect()
        parts = self._results.pop(index, ())
        self._give(index + 1)
        if not parts:
            return None
        found: tuple[R, list[Any]] = pickle.loads(parts[0], buffers=parts[1:])
        result, lost = found
        self._kernel.lose(lost)
        return result

    def _start(self) -> None:
        """
        Start a process.

        :raises OSError: if that is not possible
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # No process but this one handles Ctrl-C, and no signal handler may run before a child is
        # in _serve().
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of threads. Those of drgn (OpenMP) wait for work.
                warnings.simplefilter("ignore", DeprecationWarning)
                process = os.fork()
            if not process:
                _OWN_DESCRIPTORS.add(ours.fileno())
                _serve(self._kernel, self._work, self._items, self._numbers, theirs, self._threads)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _OWN_DESCRIPTORS.add(ours.fileno())
        self._processes[ours] = process
        self._selector.register(ours, selectors.EVENT_READ)

    def _give(self, wanted: int) -> None:
        """
        Put the numbers of more items into the pipe; close it after the last.

        :param wanted: Number of the item that is asked for next.
        """
        if self._pipe < 0:
            return
        mean = self._received_bytes // max(self._received, 1)
        ahead = min(_AHEAD_BYTES // mean if mean else 0, _MOST_AHEAD)
        end = min(wanted + max(ahead, self._least_ahead), len(self._items))
        new = range(self._given, end)
        try:
            os.write(self._pipe, b"".join(map(_NUMBER.pack, new)))
        except BrokenPipeError:
            # All processes have died.
            self._close_pipe()
            return
        self._given = max(end, self._given)
        if self._given == len(self._items):
            self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            _OWN_DESCRIPTORS.discard(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def _collect(self) -> None:
        """Wait for results, and store them."""
        for key, _ in self._selector.select():
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            try:
                message, descriptors, flags, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
            except ConnectionError:
                message, descriptors, flags = b"", [], 0
            if message:
                (index,) = _NUMBER.unpack_from(message)
                # The descriptor is missing if this process has too many files open.
                content = b"" if flags & socket.MSG_CTRUNC else message[_NUMBER.size :]
                size = len(content)
                if descriptors:
                    size += os.fstat(descriptors[0]).st_size
                self._received += 1
                self._received_bytes += size
                self._results[index] = _received(content, descriptors)
                continue
            # The process has exited. If there were items left, it died: let the others finish what
            # they began, and do the rest in this process.
            self._close_pipe()
            self._reap(connection)

    def _reap(self, connection: socket.socket) -> None:
        """Close the connection to a process that has exited, or will at once, and wait for it."""
        process = self._processes.pop(connection)
        self._selector.unregister(connection)
        _OWN_DESCRIPTORS.discard(connection.fileno())
        connection.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, 0)

    def _end(self) -> None:
        """End all processes."""
        self._close_pipe()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for connection in list(self._processes):
            self._reap(connection)
        self._selector.close()
        self._results.clear()


def _received(message: bytes, descriptors: Sequence[int]) -> Sequence[bytes | memoryview]:
    """
    Return what :func:`_send` sent: a pickled result with the parts of memory that could not be
    read, and its buffers.

    :return: Empty if there is no result, or no memory for it.
    """
    if not message or not descriptors:
        return [message] if message else []
    (descriptor,) = descriptors
    try:
        memory = memoryview(mmap.mmap(descriptor, 0))
    except OSError:
        return []
    finally:
        os.close(descriptor)
    parts, place = [], 0
    for length in np.frombuffer(message, "<i8").tolist():
        parts.append(memory[place : place + length])
        place += _padded(length)
    return parts


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _serve(
    kernel: Kernel,
    work: Callable[[T], R],
    items: Sequence[T],
    numbers: int,
    connection: socket.socket,
    threads: int,
) -> NoReturn:
    """
    Do items until there are no more, in a process that was just forked; then exit.

    :param numbers: Descriptor of the pipe that has the numbers of the items.
    :param threads: Number of threads that this process may use.
    """
    try:
        for descriptor in _OWN_DESCRIPTORS:
            os.close(descriptor)
        _OWN_DESCRIPTORS.clear()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _use_one_thread()
        allow_threads(threads)
        # What all wait for is mostly the calling process, so it comes first.
        os.nice(_NICE)
        # If memory is lacking, the calling process is to be left, which does this work again.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(_FIRST_TO_KILL))
        while number := os.read(numbers, _NUMBER.size):
            try:
                with kernel.noting() as lost:
                    result = work(items[_NUMBER.unpack(number)[0]])
                _send(connection, number, (result, lost))
            except ConnectionError:
                break
            except Exception:
                # The other process does the item again, and gets the same exception.
                connection.send(number)
    finally:
        # Do not return to the code that forked.
        os._exit(0)


def _use_one_thread() -> None:
    """
    Make drgn start no threads in this process.

    drgn uses OpenMP, whose threads do not exist after a fork, so it would wait for them forever.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(_drgn.__file__).omp_set_num_threads(1)


def _send(connection: socket.socket, number: bytes, result: Any) -> None:
    """
    Send the result of an item.

    :param number: Number of the item, packed.
    """
    buffers: list[pickle.PickleBuffer] = []
    parts: list[bytes | memoryview] = [pickle.dumps(result, 5, buffer_callback=buffers.append)]
    parts += [buffer.raw() for buffer in buffers]
    if len(parts) > _MOST_PARTS or sum(map(len, parts)) <= _INLINE_BYTES:
        parts = [pickle.dumps(result, 5)]
    if len(parts) == 1 and len(parts[0]) <= _INLINE_BYTES:
        connection.send(number + parts[0])
        return
    descriptor = os.memfd_create("drgn-pageowner")
    try:
        place = 0
        for part in parts:
            _write(descriptor, part, place)
            place += _padded(len(part))
        os.ftruncate(descriptor, place)
        lengths = np.array([len(part) for part in parts], "<i8").tobytes()
        socket.send_fds(connection, [number + lengths], [descriptor])
    finally:
        os.close(descriptor)


def _write(descriptor: int, part: bytes | memoryview, place: int) -> None:
    rest = memoryview(part)
    while len(rest):
        written = os.pwrite(descriptor, rest, place)
        rest, place = rest[written:], place + written
