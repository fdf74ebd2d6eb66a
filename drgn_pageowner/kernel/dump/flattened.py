# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read dumps in makedumpfile's flattened format (``makedumpfile -F``), even if they are cut off.

A flattened file consists of a header of 4096 bytes, and of the pieces of the original dump file in
the order in which they were written. Each piece has its offset in the original file, its size (both
``int64``, big-endian) and its bytes. A piece with a negative offset marks the end. libkdumpfile
reads complete flattened files, but refuses a file whose end is missing.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
from typing import IO, Any, BinaryIO, cast

import numpy as np

from drgn_pageowner.errors import PageOwnerError

__all__ = ("Flattened", "rearranged")

_SIGNATURE = b"makedumpfile\0"
_HEADER_BYTES = 4096
_PIECE = struct.Struct(">qq")
_LARGEST_PIECE = 1 << 30
"""Maximum plausible size of a piece, in bytes. makedumpfile writes its buffers, which have a few
MiB."""


class Flattened(io.RawIOBase):
    """
    Read-only file object with the contents of the original dump file.

    If the flattened file is cut off, only the pieces before its end are available.
    """

    def __init__(self, file: BinaryIO) -> None:
        """:param file: The flattened file, which must stay open."""
        super().__init__()
        self._file = file
        self._position = 0
        offsets, sizes, places = [], [], []
        self.whole = False
        """Whether the flattened file is complete, which means that it has its end marker."""
        size = file.seek(0, os.SEEK_END)
        place = _HEADER_BYTES
        while True:
            file.seek(place)
            head = file.read(_PIECE.size)
            if len(head) < _PIECE.size:
                break
            offset, length = _PIECE.unpack(head)
            if offset < 0:
                self.whole = True
                break
            if not 0 < length <= _LARGEST_PIECE:
                break
            place += _PIECE.size
            there = min(length, max(size - place, 0))
            if there:
                offsets.append(offset)
                sizes.append(there)
                places.append(place)
            place += length
        order = np.argsort(np.array(offsets, np.int64), kind="stable")
        self._offsets = np.array(offsets, np.int64)[order]
        self._sizes = np.array(sizes, np.int64)[order]
        self._places = np.array(places, np.int64)[order]
        self._end = int((self._offsets + self._sizes).max(initial=0))

    @classmethod
    def of(cls, file: BinaryIO) -> Flattened | None:
        """Open the original dump file in *file*; return ``None`` if *file* is not flattened."""
        file.seek(0)
        return cls(file) if file.read(len(_SIGNATURE)) == _SIGNATURE else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """
        Read into *buffer*, up to the end of the last piece. Bytes that are in no piece are zero.

        :return: Number of bytes read.
        """
        view = memoryview(buffer).cast("B")
        start = self._position
        end = min(start + len(view), self._end)
        if end <= start:
            return 0
        view[: end - start] = bytes(end - start)
        first = int(np.searchsorted(self._offsets, start, "right"))
        # A piece that begins before this range may extend into it.
        while first and self._offsets[first - 1] + self._largest() > start:
            first -= 1
        last = int(np.searchsorted(self._offsets, end, "left"))
        # Apply the pieces in the order in which they were written, because a later piece replaces
        # the bytes of earlier pieces.
        for piece in first + np.argsort(self._places[first:last], kind="stable"):
            offset, size = int(self._offsets[piece]), int(self._sizes[piece])
            low, high = max(offset, start), min(offset + size, end)
            if low < high:
                self._file.seek(int(self._places[piece]) + low - offset)
                view[low - start : high - start] = self._file.read(high - low)
        self._position = end
        return end - start

    def _largest(self) -> int:
        return int(self._sizes.max(initial=0))


def rearranged(path: str) -> IO[bytes] | None:
    """
    Convert a flattened file that is cut off to a regular dump in an unnamed temporary file.

    :return: The temporary file; ``None`` if *path* is not flattened or is complete, because
        libkdumpfile reads such files itself.
    :raises PageOwnerError: if the file cannot be read, or there is no space for the temporary file
    """
    if not os.path.isfile(path):
        # drgn reports the error when it opens the file.
        return None
    try:
        with open(path, "rb") as file:
            inner = Flattened.of(file)
            if inner is None or inner.whole:
                return None
            needed = inner.seek(0, os.SEEK_END)
            inner.seek(0)
            folder = tempfile.gettempdir()
            if shutil.disk_usage(folder).free < needed:
                raise PageOwnerError(
                    f"{path} is a flattened dump that is cut off: to read it, {needed:,} bytes are "
                    f"needed in {folder}; set TMPDIR to a folder with that much room"
                )
            out = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the program
            shutil.copyfileobj(cast("BinaryIO", inner), out, 1 << 22)
            out.flush()
            return out
    except OSError as error:
        raise PageOwnerError(f"cannot read {path}: {error.strerror or error}") from error
