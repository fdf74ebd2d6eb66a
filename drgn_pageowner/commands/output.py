# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where an answer goes: a file, or where the command was told to print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TextIO, cast

from drgn_pageowner.errors import UsageError
from drgn_pageowner.escape import escaped
from drgn_pageowner.storage.files import cannot_write, replacing

__all__ = ("for_people", "unescaped", "write_bytes", "write_text")


class _Escaping:
    """A stream that lets nothing through that could change how a terminal shows the rest."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        return self._out.write(escaped(text))

    def writelines(self, pieces: Iterable[str]) -> None:
        self._out.writelines(map(escaped, pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


def for_people(out: TextIO) -> TextIO:
    """*out*, on which everything that is not printable is escaped."""
    return cast(TextIO, _Escaping(out))


def unescaped(out: TextIO) -> TextIO:
    """The stream behind :func:`for_people`, for text that is made here, with colours."""
    return out._out if isinstance(out, _Escaping) else out


def write_text(pieces: Iterable[str], path: str | None, out: TextIO) -> None:
    """
    :param path: The file to write, or ``None`` for *out*.
    :raises PageOwnerError: if it cannot be written
    """
    if path is None:
        out.writelines(pieces)
        return
    escape = escaped if isinstance(out, _Escaping) else str
    try:
        with replacing(path) as file:
            for piece in pieces:
                file.write(escape(piece).encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise cannot_write(path, error) from error


def write_bytes(data: bytes, path: str | None, out: TextIO) -> None:
    """
    :param path: The file to write, or ``None`` for what is behind *out*, unless a terminal is.
    :raises UsageError: if that takes no bytes
    :raises PageOwnerError: if the file cannot be written
    """
    if path is not None:
        try:
            with replacing(path) as file:
                file.write(data)
        except OSError as error:
            raise cannot_write(path, error) from error
        return
    buffer = getattr(out, "buffer", None)
    if buffer is None or out.isatty():
        raise UsageError("this format is binary: give a file with -o, or redirect the output")
    out.flush()
    buffer.write(data)
    buffer.flush()
