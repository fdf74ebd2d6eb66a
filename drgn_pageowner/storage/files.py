# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write files atomically: if writing fails, an existing file is left unchanged."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from drgn_pageowner.errors import PageOwnerError

__all__ = ("cannot_write", "is_stdout", "remove_unfinished", "replacing")

# Maximum number of symbolic links to follow, as in the kernel; more are taken for a loop.
_MOST_LINKS = 40
_UNFINISHED = re.compile(r"[0-9a-f]{16}\Z")
_DESCRIPTOR = re.compile(r"/proc/(\d+)/fd/(\d+)")


class _Counted(io.RawIOBase):
    """A file that counts the bytes written to it, because a pipe has no position."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._size += len(view)
        return len(view)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        # When this object is deleted, Python flushes and closes it; by then the file may be closed
        # already.
        if not self._file.closed:
            self._file.flush()


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[_Counted]:
    """
    Open a file for writing bytes that replaces *path* when the block ends without an exception.

    - If *path* is a symbolic link, the link is kept, and its target is replaced or created.
    - Mode, owner and extended attributes of an existing file are kept.
    - Devices, pipes and descriptors (``/dev/stdout``) are written to directly.

    :raises OSError: if the file cannot be written; an existing file is left unchanged
    """
    target, descriptor = _resolve(os.fspath(path))
    if descriptor is not None:
        if descriptor == 1:
            sys.stdout.flush()
        with open(os.dup(descriptor), "wb") as file:
            yield _Counted(file)
        return
    old = _status(target)
    if old is None or stat.S_ISREG(old.st_mode):
        with _beside(target, old) as file:
            yield _Counted(file)
    elif stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory", target)
    else:
        with open(os.open(target, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), "wb") as file:
            yield _Counted(file)


def remove_unfinished(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """
    Remove what processes left that were killed while they wrote files with :func:`replacing`. No
    other process may be writing them.

    :param names: Names of the files in *folder*.
    :raises OSError: if that is not possible
    """
    prefixes = {_prefix(name) for name in names}
    for left in os.listdir(folder):
        if _UNFINISHED.sub("", left) in prefixes:
            os.unlink(os.path.join(folder, left))


def is_stdout(path: str) -> bool:
    """Return whether *path* refers to standard output."""
    try:
        return _resolve(path)[1] == 1
    except OSError:
        return False


def cannot_write(path: str | os.PathLike[str], error: OSError) -> PageOwnerError:
    """Return the exception to raise for an *error* of :func:`replacing`."""
    return PageOwnerError(f"cannot write {os.fspath(path)}: {error.strerror or error}")


def _resolve(path: str) -> tuple[str, int | None]:
    """Follow symbolic links; return the target, and the descriptor if *path* names an open one."""
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(os.path.abspath(path))
        path = os.path.join(os.path.realpath(folder), name)
        descriptor = _DESCRIPTOR.fullmatch(path)
        if descriptor is not None and int(descriptor.group(1)) == os.getpid():
            return path, int(descriptor.group(2))
        if not os.path.islink(path):
            return path, None
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None


@contextmanager
def _beside(target: str, old: os.stat_result | None) -> Iterator[BinaryIO]:
    """
    Create a temporary file that replaces *target* at the end of the block.

    It is created in the same directory. If *target* cannot be replaced by a rename, the contents
    are copied into it.
    """
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)
    try:
        new, descriptor = _create(target, old)
    except PermissionError:
        if old is None:
            raise
        # The file may be writable while its directory is not.
        with tempfile.TemporaryFile() as spool:
            yield spool
            _overwrite(target, spool)
        return
    try:
        with open(descriptor, "w+b") as file:
            keeps_identity = old is None or _become(file.fileno(), target, old)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if keeps_identity:
                os.replace(new, target)
            else:
                _overwrite(target, file)
    finally:
        with suppress(OSError):
            os.unlink(new)


def _create(target: str, old: os.stat_result | None) -> tuple[str, int]:
    """Create a new file with a random name; fail if a file of that name exists."""
    folder, name = os.path.split(target)
    new = os.path.join(folder, _prefix(name) + secrets.token_hex(8))
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # A new file gets its mode from the umask. A file that will get the mode of an existing file is
    # inaccessible to other users until then.
    return new, os.open(new, flags, 0o666 if old is None else 0o600)


def _prefix(name: str) -> str:
    """Return how the name of the temporary file for *name* begins; 16 digits follow."""
    # A file name has at most 255 bytes, so shorten *name* before extending it.
    return f".{name[:64]}."


def _become(descriptor: int, target: str, old: os.stat_result) -> bool:
    """
    Give a new file the owner, the mode and the attributes of *target*.

    :return: Whether it can replace *target*; false if the owner cannot be kept, or *target* has
        other hard links.
    """
    if old.st_nlink > 1:
        return False
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except OSError:
            return False
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    # Some file systems do not support extended attributes.
    with suppress(OSError):
        for name in os.listxattr(target):
            os.setxattr(descriptor, name, os.getxattr(target, name))
    return True


def _overwrite(target: str, content: BinaryIO) -> None:
    """Copy *content* into the file *target*, after making sure that there is enough space."""
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    with open(os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "wb") as file:
        before = os.fstat(file.fileno()).st_size
        try:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            os.ftruncate(file.fileno(), before)
            raise
        shutil.copyfileobj(content, file)
        file.truncate(size)
