# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write an answer to the file of ``-o``, or to the stream that the command prints to."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from drgn_pageowner.errors import UsageError
from drgn_pageowner.escape import escaped
from drgn_pageowner.render.terminal import columns, fold, paint
from drgn_pageowner.storage.files import cannot_write, replacing

__all__ = ("escaping", "for_people", "output_to", "unescaped", "write_bytes")


class _Escaping:
    """A stream that escapes unprintable characters, which could change the state of a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        return self._out.write(escaped(text))

    def writelines(self, pieces: Iterable[str]) -> None:
        self._out.writelines(map(escaped, pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


class _Folding(_Escaping):
    """A stream that also wraps lines at the width of the terminal, and may colour them."""

    def __init__(self, out: TextIO, width: int, colour: bool) -> None:
        super().__init__(out)
        self._width = width
        self._colour = colour
        self._begun = ""

    def write(self, text: str) -> int:
        self.writelines([text])
        return len(text)

    def writelines(self, pieces: Iterable[str]) -> None:
        for piece in pieces:
            *lines, self._begun = (self._begun + piece).split("\n")
            self._out.writelines(map(self._fitted, lines))

    def flush(self) -> None:
        if self._begun:
            # Write the beginning of a line as well, because the caller asked to flush it.
            self._out.write(escaped(self._begun))
            self._begun = ""
        self._out.flush()

    def _fitted(self, line: str) -> str:
        parts = fold(escaped(line), self._width)
        return "".join([(paint(part) if self._colour else part) + "\n" for part in parts])


def for_people(out: TextIO, *, colour: bool = False) -> TextIO:
    """
    Return a stream to *out* for text that people read.

    Unprintable characters are escaped, and lines that are wider than the terminal are wrapped.

    :param colour: Whether to colour severities and modules.
    """
    return cast(TextIO, _Folding(out, columns(), colour))


def escaping(out: TextIO) -> TextIO:
    """
    Return a stream to *out* for text in a format of the kernel.

    Unprintable characters are escaped; lines are not wrapped.
    """
    return cast(TextIO, _Escaping(unescaped(out)))


def unescaped(out: TextIO) -> TextIO:
    """
    Return the stream to which :func:`for_people` and :func:`escaping` write.

    Text with escape sequences for colours must be written to this stream.
    """
    return out._out if isinstance(out, _Escaping) else out


class _OutputFile(io.RawIOBase):
    """A file whose errors contain its name."""

    def __init__(self, path: str, file: io.RawIOBase) -> None:
        super().__init__()
        self._path = path
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        try:
            return self._file.write(data)
        except OSError as error:
            raise cannot_write(self._path, error) from error


@contextmanager
def output_to(path: str | None, out: TextIO) -> Iterator[TextIO]:
    """
    Yield the stream to print to: the file *path*, or *out* if it is ``None`` or ``-``.

    If the block ends with an exception, the file is as it was before.

    :raises PageOwnerError: if the file cannot be written
    """
    if path is None or path == "-":
        yield out
        return
    target = replacing(path)
    try:
        file = target.__enter__()
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        buffer = io.BufferedWriter(_OutputFile(path, file))
        # Task names are bytes: those that are not UTF-8 are written as they are.
        text = io.TextIOWrapper(buffer, encoding="utf-8", errors="surrogateescape")
        with text:
            yield text
    except BaseException as error:
        try:
            target.__exit__(type(error), error, error.__traceback__)
        except OSError as again:
            if isinstance(error, OSError) or again.errno != errno.EPIPE:
                raise cannot_write(path, again) from error
            raise
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            # Buffered data are only written when the stream is closed.
            raise cannot_write(path, error) from error
        raise
    try:
        target.__exit__(None, None, None)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_bytes(data: bytes, out: TextIO) -> None:
    """
    Write a binary format.

    :raises UsageError: if *out* is a terminal, or accepts only text
    """
    buffer = getattr(out, "buffer", None)
    if buffer is None or out.isatty():
        raise UsageError("this format is binary: give a file with -o, or redirect the output")
    out.flush()
    buffer.write(data)
    buffer.flush()
