# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Make incomplete dumps from a whole one, as left by a full disk, an interrupted copy or ``--split``.

The dumps of testdata/ are of 64-bit kernels and store pages uncompressed, unless stated otherwise.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drgn_pageowner.kernel.dump.contents import KdumpLayout, kdump_layout

DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page", "<u8")])
_STATUS = {8: 424, 4: 412}


class Kdump:
    """A kdump file in memory, to be damaged."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        layout = kdump_layout(bytes(self.data[:4096]))
        assert layout is not None
        self.layout: KdumpLayout = layout
        start = layout.bitmap + layout.bitmap_bytes
        bits = np.frombuffer(bytes(self.data[start : start + layout.bitmap_bytes]), np.uint8)
        self.pfns = np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    @property
    def rows(self) -> NDArray[np.void]:
        """The page descriptors, as a writable array."""
        return np.frombuffer(self.data, DESCRIPTOR, len(self.pfns), self.layout.descriptors)

    def full_disk(self, kept: int) -> bytes:
        """Return the file as makedumpfile leaves it if only *kept* pages could be written."""
        struct.pack_into("<I", self.data, _STATUS[self.layout.word], self.layout.status | 8)
        rows = self.rows.copy()
        end = max(
            int((rows["offset"][:kept] + rows["size"][:kept]).max(initial=0)),
            self.layout.descriptors + rows.nbytes,
        )
        rows[kept:] = 0
        start = self.layout.descriptors
        self.data[start : start + rows.nbytes] = rows.tobytes()
        return bytes(self.data[:end])

    def without(self, pfns: NDArray[np.int64]) -> bytes:
        """Return the file as written by a makedumpfile that excludes *pfns*."""
        kept = ~np.isin(self.pfns, pfns)
        rows = self.rows[kept].copy()
        bits = np.zeros(self.layout.bitmap_bytes * 8, np.uint8)
        bits[self.pfns[kept]] = 1
        start = self.layout.bitmap + self.layout.bitmap_bytes
        self.data[start : start + self.layout.bitmap_bytes] = np.packbits(
            bits, bitorder="little"
        ).tobytes()
        start = self.layout.descriptors
        self.data[start : start + rows.nbytes] = rows.tobytes()
        return bytes(self.data)

    def part(self, first: int, last: int) -> bytes:
        """Return one file of ``makedumpfile --split``, with the PFNs from *first* to *last*."""
        own = (self.pfns >= first) & (self.pfns < last)
        rows = self.rows[own].copy()
        start = self.layout.descriptors
        place = start + rows.nbytes
        pieces, places = [], {}
        for index, (offset, size) in enumerate(zip(rows["offset"], rows["size"], strict=True)):
            if offset not in places:
                places[offset] = place
                pieces.append(bytes(self.data[offset : offset + size]))
                place += int(size)
            rows["offset"][index] = places[offset]
        head = bytearray(self.data[:start])
        struct.pack_into("<i", head, 8, 6)
        second = self.layout.block_size
        struct.pack_into("<iiQQ", head, second + 8, 31, 1, first, last)
        struct.pack_into("<QQ", head, second + 80, first, last)
        return bytes(head) + rows.tobytes() + b"".join(pieces)

    def elf(self, incomplete: bool = False) -> bytes:
        """Return an ELF core of the same pages, with the physical segments of /proc/vmcore."""
        size = self.layout.block_size
        second = struct.unpack_from("<6Q", self.data, size + 32)
        notes = bytes(self.data[second[2] : second[2] + second[3]])
        runs = np.split(self.pfns, np.flatnonzero(np.diff(self.pfns) != 1) + 1)
        place = 64 + 56 * (len(runs) + 1)
        segments = [struct.pack("<IIQQQQQQ", 4, 0, place, 0, 0, len(notes), len(notes), 0)]
        place += len(notes)
        for run in runs:
            length = len(run) * size
            values = (1, 7, place, 0, int(run[0]) * size, length, length, 0)
            segments.append(struct.pack("<IIQQQQQQ", *values))
            place += length
        ident = b"\x7fELF\x02\x01\x01" + bytes(9)
        header = struct.pack(
            "<16sHHIQQQIHHHHHH",
            ident, 4, 62, 1, 0, 64, 0, int(incomplete), 64, 56, len(segments), 0, 0, 0,
        )  # fmt: skip
        pages = [bytes(self.data[row["offset"] : row["offset"] + row["size"]]) for row in self.rows]
        return header + b"".join(segments) + notes + b"".join(pages)


def flatten(data: bytes, piece: int = 1 << 16) -> bytes:
    """Return *data* in makedumpfile's flattened format."""
    text = [b"makedumpfile\0".ljust(4096, b"\0")]
    for place in range(0, len(data), piece):
        part = data[place : place + piece]
        text += [struct.pack(">qq", place, len(part)), part]
    return b"".join([*text, struct.pack(">qq", -1, -1)])
