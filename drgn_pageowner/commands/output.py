# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where an answer goes: a file, or where the command was told to print."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from drgn_pageowner.errors import PageOwnerError, UsageError

__all__ = ("write_bytes", "write_text")


def write_text(pieces: Iterable[str], path: str | None, out: TextIO) -> None:
    """
    :param path: The file to write, or ``None`` for *out*.
    :raises PageOwnerError: if it cannot be written
    """
    if path is None:
        out.writelines(pieces)
        return
    try:
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(pieces)
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_bytes(data: bytes, path: str | None, out: TextIO) -> None:
    """
    :param path: The file to write, or ``None`` for what is behind *out*, unless a terminal is.
    :raises UsageError: if that takes no bytes
    :raises PageOwnerError: if the file cannot be written
    """
    if path is not None:
        try:
            Path(path).write_bytes(data)
        except OSError as error:
            raise _cannot_write(path, error) from error
        return
    buffer = getattr(out, "buffer", None)
    if buffer is None or out.isatty():
        raise UsageError("this format is binary: give a file with -o, or redirect the output")
    out.flush()
    buffer.write(data)
    buffer.flush()


def _cannot_write(path: str, error: OSError) -> PageOwnerError:
    return PageOwnerError(f"cannot write {path}: {error.strerror or error}")
