# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Large arrays, with a row per page, record, pointer or node: in memory, or beyond a limit in a file.

The file is temporary and has no name. It is mapped into memory, so the operating system keeps of it
what there is room for. Arrays in it are slower, but a machine with little memory can read the dump
of a large one.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.threads import in_threads

__all__ = (
    "anonymous",
    "fits_in_memory",
    "held_bytes",
    "hold",
    "large_empty",
    "large_full",
    "large_shared",
    "limit_memory",
    "memory_limit",
)

# Arrays of fewer bytes are always in memory, and do not count.
_LARGE = 1 << 20
# Number of elements that are filled in together.
_PIECE = 1 << 20

_limit: int | None = None
# The number of bytes of each array that is in memory, by its ID.
_held: dict[int, int] = {}


def limit_memory(size: int | None) -> None:
    """
    Let large arrays take no more than *size* bytes of memory from now on; others are in temporary
    files in the directory that the environment variable ``TMPDIR`` names, or else in ``/tmp``.

    Intermediate results, symbols and the program itself take memory besides. Results do not depend
    on this.

    :param size: ``None`` for no limit, as it is at first.
    :raises ValueError: if *size* is negative
    """
    global _limit
    if size is not None and size < 0:
        raise ValueError(f"{size} bytes are less than none")
    _limit = size


def memory_limit() -> int | None:
    """Return what :func:`limit_memory` was called with."""
    return _limit


def held_bytes() -> int:
    """Return the number of bytes of the large arrays that are in memory."""
    return sum(_held.values())


def fits_in_memory(size: int) -> bool:
    """Return whether *size* more bytes may be in memory."""
    return _limit is None or size < _LARGE or held_bytes() + size <= _limit


def hold(array: NDArray[Any], owner: Any = None) -> None:
    """
    Note that *array* is in memory, as large as it is now, until it is freed. Arrays that do not own
    their memory do not count.

    :param owner: Object that lives as long as the memory, and has no other; by default, *array*
        itself.
    """
    kept = array if owner is None else owner
    if array.nbytes < _LARGE or not (array.flags.owndata or isinstance(owner, mmap.mmap)):
        _held.pop(id(kept), None)
        return
    if id(kept) not in _held:
        weakref.finalize(kept, _held.pop, id(kept), None).atexit = False
    _held[id(kept)] = array.nbytes


def large_empty(length: int, dtype: DTypeLike) -> NDArray[Any]:
    """
    Make an array as ``np.empty()`` does, in a file if it does not fit in memory.

    :raises PageOwnerError: if there is no room for the file
    """
    size = length * np.dtype(dtype).itemsize
    if not fits_in_memory(size):
        return np.frombuffer(_in_file(size), dtype, length)
    result = np.empty(length, dtype)
    hold(result)
    return result


def large_full(length: int, value: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Make an array as ``np.full()`` does, in a file if it does not fit in memory."""
    result = large_empty(length, dtype)

    def fill(start: int) -> None:
        result[start : start + _PIECE] = value

    # The system takes as long to find memory for the array as NumPy to fill it.
    in_threads(fill, range(0, length, _PIECE))
    return result


def large_shared(length: int, dtype: DTypeLike) -> NDArray[Any]:
    """
    Make an array of zeros that processes which are forked later have in common with this one, in a
    file if it does not fit in memory.

    :param length: Greater than 0.
    """
    size = length * np.dtype(dtype).itemsize
    if not fits_in_memory(size):
        return np.frombuffer(_in_file(size), dtype, length)
    memory = anonymous(size, mmap.MAP_SHARED)
    result = np.frombuffer(memory, dtype, length)
    hold(result, memory)
    return result


def anonymous(size: int, flags: int) -> mmap.mmap:
    """
    Map *size* bytes of memory that are zero.

    :param flags: ``mmap.MAP_PRIVATE`` or ``mmap.MAP_SHARED``.
    :raises MemoryError: if there is no room for it
    """
    try:
        return mmap.mmap(-1, size, flags=flags | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"Unable to map {size:,} bytes") from error


def _in_file(size: int) -> mmap.mmap:
    """
    Map *size* bytes of a new temporary file, which are zero.

    :raises PageOwnerError: if there is no room for it
    """
    try:
        with tempfile.TemporaryFile(prefix="drgn-pageowner-", buffering=0) as file:
            # Without room on the disk, writing to the memory would kill this process.
            os.posix_fallocate(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise PageOwnerError(
            f"no room for {size:,} bytes of arrays in {tempfile.gettempdir()} "
            f"({error.strerror}): name another directory in TMPDIR, or allow more --memory"
        ) from error
