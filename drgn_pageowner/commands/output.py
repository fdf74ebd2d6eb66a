# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write an answer to the file of ``-o``, or to the stream that the command prints to."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TextIO, TypeVar, cast

from drgn_pageowner.errors import PageOwnerError, UsageError

__all__ = ("output_to", "write_bytes")

T = TypeVar("T")


class _OutputFile(io.TextIOBase):
    """A file that is opened when it is first written to: an error before leaves it as it is."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: TextIO | None = None

    def opened(self) -> TextIO:
        """
        Return the file, open.

        :raises PageOwnerError: if it cannot be written
        """
        if self._file is None:
            # Task names are bytes: those that are not UTF-8 are written as they are.
            self._file = self._attempt(self._open)
        return self._file

    def _open(self) -> TextIO:
        return open(self._path, "w", encoding="utf-8", errors="surrogateescape")

    def write(self, text: str) -> int:
        """Write *text*."""
        file = self.opened()
        return self._attempt(lambda: file.write(text))

    def flush(self) -> None:
        """Write what is buffered."""
        if self._file is not None:
            self._attempt(self._file.flush)

    def close(self) -> None:
        """Close the file, if it was opened."""
        file, self._file = self._file, None
        if file is not None:
            self._attempt(file.close)
        super().close()

    @property
    def buffer(self) -> BinaryIO:
        """The file that takes bytes."""
        return self.opened().buffer

    def _attempt(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            raise PageOwnerError(f"cannot write {self._path}: {error.strerror or error}") from error


@contextmanager
def output_to(path: str | None, out: TextIO) -> Iterator[TextIO]:
    """
    Yield the stream to print to: the file *path*, or *out* if it is ``None`` or ``-``.

    :raises PageOwnerError: if the file cannot be written
    """
    if path is None or path == "-":
        yield out
        return
    file = _OutputFile(path)
    try:
        yield cast(TextIO, file)
        # An empty answer is a file, too.
        file.opened()
    finally:
        file.close()


def write_bytes(data: bytes, out: TextIO) -> None:
    """
    Write a binary format.

    :raises UsageError: if *out* takes no bytes, or is a terminal
    """
    buffer = getattr(out, "buffer", None)
    if buffer is None or out.isatty():
        raise UsageError("this format is binary: give a file with -o, or redirect the output")
    out.flush()
    buffer.write(data)
    buffer.flush()
