# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recognize a text file, read it in pieces, and count its unreadable lines."""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from drgn_pageowner.errors import PageOwnerError

__all__ = ("KINDS", "Damage", "TextFile", "kind_of_text")

KINDS = {
    "allocinfo": "/proc/allocinfo",
    "sorted": "the output of page_owner_sort",
    "page_owner": "/sys/kernel/debug/page_owner",
    "stacks": "a file of /sys/kernel/debug/page_owner_stacks",
}
"""Description of each kind of text."""

_SIGNS = {
    "allocinfo": re.compile(rb"^allocinfo - version: ", re.MULTILINE),
    "sorted": re.compile(rb"^\d+ times(?:, \d+ pages|:\r?$)", re.MULTILINE),
    "page_owner": re.compile(rb"^Page allocated via order \d", re.MULTILINE),
    "stacks": re.compile(rb"^(?:nr_base_pages|handle): -?\d+\r?$", re.MULTILINE),
}
# Number of bytes from the start of a text by which its kind is recognized. A stack has at most 16
# frames, so this is enough even if a few lines of a shell precede the first record.
_HEAD = 1 << 16
_PIECE = 1 << 24


def kind_of_text(path: str) -> str | None:
    """
    Recognize the kind of the text file *path*.

    :return: A key of :data:`KINDS`; ``None`` if the file is not a text of a known kind.
    :raises PageOwnerError: if the file cannot be read
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise PageOwnerError(f"cannot read {path}: {error.strerror or error}") from error
    if head.startswith((b"PAR1", b"\x7fELF", b"KDUMP", b"DISKDUMP", b"makedumpfile")):
        return None
    found = [(sign.search(head), kind) for kind, sign in _SIGNS.items()]
    # Sorted texts contain the lines of unsorted ones, so the first match decides.
    places = [(match.start(), order, kind) for order, (match, kind) in enumerate(found) if match]
    return min(places)[2] if places else None


@dataclass
class Damage:
    """Counts the lines of a text that could not be parsed."""

    lines: int = 0
    first: int = 0
    """Line number of the first such line; lines are numbered from 1."""
    cut: bool = False
    """Whether the text ends in the middle of a line."""

    def add(self, line: int, lines: int = 1) -> None:
        """Count *lines* unreadable lines, of which the first is line number *line*."""
        if lines and (not self.lines or line < self.first):
            self.first = line
        self.lines += lines

    def problems(self) -> list[str]:
        """Return one line for each problem."""
        result = []
        if self.lines:
            first = f"line {self.first}"
            result.append(
                f"1 line of the text makes no sense and is left out: {first}"
                if self.lines == 1
                else f"{self.lines} lines of the text make no sense and are left out: the first "
                f"is {first}"
            )
        if self.cut:
            result.append("the text ends in the middle of a line: what follows is missing")
        return result


class TextFile:
    """The contents of a text, which may be too large to hold in memory at once."""

    def __init__(self, path: str) -> None:
        """
        :raises PageOwnerError: if *path* cannot be read
        """
        self._data: bytes | mmap.mmap
        try:
            with open(path, "rb") as file:
                about = os.fstat(file.fileno())
                # Files of debugfs and procfs have no size.
                mappable = stat.S_ISREG(about.st_mode) and about.st_size > 0
                self._data = (
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    if mappable
                    else file.read()
                )
        except OSError as error:
            raise PageOwnerError(f"cannot read {path}: {error.strerror or error}") from error
        self._carriage_returns = b"\r\n" in self._data[:_HEAD]

    def pieces(self, first: bytes, damage: Damage) -> Iterator[bytes]:
        """
        Yield the text in pieces that begin with a record and end with a newline.

        :param first: Beginning of a record's first line; a newline if records are only separated by
            blank lines.
        :param damage: ``damage.cut`` is set if the text ends in the middle of a line.
        """
        data, begin = self._data, 0
        mark = b"\n" + first
        while begin < len(data):
            end = begin + _PIECE
            if end < len(data):
                cut = data.rfind(mark, begin + 1, end)
                cut = cut if cut >= 0 else data.find(mark, end)
                end = cut + 1 if cut >= 0 else len(data)
            piece = bytes(data[begin:end])
            if not piece.endswith(b"\n"):
                damage.cut = True
                piece += b"\n"
            yield piece.replace(b"\r\n", b"\n") if self._carriage_returns else piece
            begin = end
