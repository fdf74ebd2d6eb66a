# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find the pages that a dump file contains, from the tables in the file.

makedumpfile marks a file that it could not finish (``DUMP_DH_COMPRESSED_INCOMPLETE`` in the status
of a kdump file, ``DUMP_ELF_INCOMPLETE`` in ``e_flags`` of an ELF file). In such a file, the
descriptors of pages that were not written are zero. A file that was cut off later is not marked,
but its tables point past its end.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

from drgn_pageowner.model.arrays import Array, ranges
from drgn_pageowner.model.contents import DumpContents, PfnRanges, RangeBuilder

__all__ = (
    "KDUMP_SIGNATURE",
    "KdumpLayout",
    "elf_contents",
    "extents",
    "kdump_contents",
    "kdump_layout",
)

KDUMP_SIGNATURE = b"KDUMP   "
_HEADER_BYTES = 4096
# Offset of the member status of struct disk_dump_header (diskdump_mod.h of makedumpfile), by the
# size of the kernel's long. The members block_size, sub_hdr_size and bitmap_blocks follow it.
_STATUS = {8: 424, 4: 412}
_INCOMPLETE = 0x8
# Members of struct kdump_sub_header: phys_base, dump_level, split, start_pfn, end_pfn; then the
# offsets and sizes of VMCOREINFO, the notes and the erased data; since version 6, then start_pfn_64
# and end_pfn_64.
_SUB_HEADER = {8: "<QiiQQ6QQQ", 4: "<IiiIIQIQIQIQQ"}
_WIDE_PFNS = 6
# page_desc_t: offset, size, flags, page_flags.
_DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page", "<u8")])
_BITMAP_BYTES = 1 << 16
"""Number of bytes of a bitmap that are processed at once. They stand for 512 Ki pages, whose
descriptors take 12 MiB. Larger pieces take up to four times as long, because memory is mapped for
each of them."""

_MOST_EXTENTS = 1 << 20
"""Maximum number of parts of a sparse file to search for."""

_PT_LOAD = 1
_PN_XNUM = 0xFFFF
_ELF_INCOMPLETE = 0x1


class KdumpLayout(NamedTuple):
    """Offsets and sizes of the parts of a kdump file."""

    version: int
    """``header_version``."""
    word: int
    """Size of the kernel's ``long``, in bytes: 4 or 8."""
    status: int
    """``status``: flags such as ``DUMP_DH_COMPRESSED_INCOMPLETE``."""
    block_size: int
    """Size of a block, in bytes. All parts of the file consist of blocks; it is the kernel's page
    size."""
    sub_header_blocks: int
    """Size of the sub header, in blocks."""
    bitmap_blocks: int
    """Size of both bitmaps together, in blocks."""

    @property
    def bitmap(self) -> int:
        """Return the offset of the first bitmap, which marks the pages that exist, in bytes."""
        return (1 + self.sub_header_blocks) * self.block_size

    @property
    def bitmap_bytes(self) -> int:
        """Return the size of one of the two bitmaps, in bytes."""
        return self.bitmap_blocks * self.block_size // 2

    @property
    def descriptors(self) -> int:
        """Return the offset of the table of page descriptors, in bytes."""
        return self.bitmap + 2 * self.bitmap_bytes


def kdump_layout(header: bytes) -> KdumpLayout | None:
    """
    Parse the headers of a kdump file.

    :param header: The first bytes of a file.
    :return: ``None`` if the file is not a kdump file, or its layout is unknown.
    """
    if not header.startswith(KDUMP_SIGNATURE) or len(header) < 12:
        return None
    (version,) = struct.unpack_from("<i", header, 8)
    for word, place in _STATUS.items():
        if len(header) < place + 16:
            continue
        status, block, sub_header, bitmap = struct.unpack_from("<IiiI", header, place)
        # Try the offset for 64-bit kernels first. There, the file of a 32-bit kernel has a number
        # of pages and zeroes, which this check rejects.
        if 512 <= block <= 1 << 20 and block & (block - 1) == 0 and 0 < sub_header < 1 << 20:
            return KdumpLayout(version, word, status, block, sub_header, bitmap)
    return None


def kdump_contents(file: BinaryIO) -> DumpContents | None:
    """
    Find the pages that a kdump file lists and contains.

    :return: ``None`` if *file* is not a kdump file. If the file ends before its page descriptors,
        no page is present.
    """
    file.seek(0)
    layout = kdump_layout(file.read(_HEADER_BYTES))
    if layout is None:
        return None
    size = file.seek(0, 2)
    file.seek(layout.block_size)
    second = file.read(_HEADER_BYTES)
    level, part = _sub_header(layout, second)
    found = _Pages(layout, size, part)
    for first in range(0, layout.bitmap_bytes, _BITMAP_BYTES):
        number = min(layout.bitmap_bytes - first, _BITMAP_BYTES)
        exists = _bitmap(file, layout.bitmap + first, number)
        listed = _bitmap(file, layout.bitmap + layout.bitmap_bytes + first, number)
        found.add(file, first * 8, exists, listed)
    return DumpContents(
        format="kdump",
        page_size=layout.block_size,
        listed=found.listed.ranges(),
        present=found.present.ranges(),
        excluded=found.excluded.ranges(),
        level=level,
        incomplete=bool(layout.status & _INCOMPLETE),
        part=part,
        size=size,
    )


class _Pages:
    """Accumulates the pages of a kdump file, whose tables are read piece by piece."""

    def __init__(self, layout: KdumpLayout, size: int, part: tuple[int, int] | None) -> None:
        self.listed, self.present, self.excluded = RangeBuilder(), RangeBuilder(), RangeBuilder()
        self._layout = layout
        self._size = size
        self._part = part
        self._place = layout.descriptors

    def add(self, file: BinaryIO, first: int, exists: Array, listed: Array) -> None:
        """
        Add the pages of one piece of the bitmaps, and read their descriptors from *file*.

        :param first: PFN of the first row of *exists* and *listed*.
        :param exists: First bitmap: whether the kernel had the page: ``bool``, a row per PFN.
        :param listed: Second bitmap: whether the dump has the page: ``bool``, a row per PFN.
        """
        common = min(len(exists), len(listed))
        self.listed.add(listed, first)
        self.excluded.add(exists[:common] & ~listed[:common], first)
        mine = listed
        if self._part is not None:
            # In a split dump, the bitmaps describe the whole dump, but each file has only the
            # descriptors of its own pages.
            mine = np.zeros(len(listed), bool)
            own = slice(*np.clip(np.array(self._part) - first, 0, len(listed)))
            mine[own] = listed[own]
        number = int(np.count_nonzero(mine))
        file.seek(self._place)
        data = file.read(number * _DESCRIPTOR.itemsize)
        rows = np.frombuffer(data, _DESCRIPTOR, len(data) // _DESCRIPTOR.itemsize)
        self._place += number * _DESCRIPTOR.itemsize
        # A descriptor that was not written is zero; no page can be at offset 0.
        whole = (rows["offset"] >= self._layout.descriptors) & (rows["size"] > 0)
        whole &= rows["offset"] <= self._size - rows["size"].astype(np.int64)
        if len(whole) == number and whole.all():
            self.present.add(mine, first)
            return
        there = np.zeros(len(listed), bool)
        there[np.flatnonzero(mine)[: len(rows)][whole]] = True
        self.present.add(there, first)


def _sub_header(layout: KdumpLayout, data: bytes) -> tuple[int | None, tuple[int, int] | None]:
    """
    Parse the sub header of a kdump file.

    :return: The dump level, and the PFN range ``(first, end)`` if the file is one part of a split
        dump; ``None`` for each that the file does not have.
    """
    form = _SUB_HEADER[layout.word]
    if len(data) < struct.calcsize(form) or layout.version < 1:
        return None, None
    _, level, split, start, end, *rest = struct.unpack_from(form, data)
    if not split or layout.version < 2:
        return level, None
    if layout.version >= _WIDE_PFNS:
        start, end = rest[-2:]
    return level, (start, end)


def _bitmap(file: BinaryIO, offset: int, length: int) -> Array:
    """Read a bitmap: ``bool``, a row per PFN; shorter if the file ends before the bitmap does."""
    file.seek(offset)
    return np.unpackbits(np.frombuffer(file.read(length), np.uint8), bitorder="little").view(bool)


def elf_contents(file: BinaryIO, page_size: int) -> DumpContents | None:
    """
    Find the pages in the ``PT_LOAD`` segments of an ELF core dump of a kernel.

    :param page_size: The kernel's page size, in bytes.
    :return: ``None`` if *file* is not an ELF core dump.
    """
    segments = _segments(file)
    if segments is None:
        return None
    size = file.seek(0, 2)
    flags, offset, physical, in_file, in_memory = segments
    # /proc/kcore and QEMU's paging dumps have segments with virtual addresses only.
    known = physical + in_memory <= np.uint64(1) << np.uint64(62)
    offset, physical = offset[known].astype(np.int64), physical[known].astype(np.int64)
    in_file, in_memory = in_file[known].astype(np.int64), in_memory[known].astype(np.int64)
    there = np.clip(size - offset, 0, in_file)
    first = -(-physical // page_size)
    listed = PfnRanges.union(first, (physical + in_file) // page_size)
    present = PfnRanges.union(first, (physical + there) // page_size)
    exists = PfnRanges.union(first, (physical + np.maximum(in_memory, in_file)) // page_size)
    return DumpContents(
        format="ELF",
        page_size=page_size,
        listed=listed,
        present=present,
        excluded=exists.minus(listed),
        zero=present.minus(_stored(file, offset, physical, there, page_size)),
        incomplete=bool(flags & _ELF_INCOMPLETE),
        size=size,
    )


def _stored(
    file: BinaryIO, offset: Array, physical: Array, sizes: Array, page_size: int
) -> PfnRanges:
    """
    Find the pages of segments that are not entirely in holes of the file.

    :param offset: Offset of each segment in the file, in bytes: ``int64``; *physical* is its
        physical address, and *sizes* the size of what is in the file.
    """
    start, end = extents(file)
    # Each pair of a segment and an extent that overlap; extents are ascending and disjoint.
    low = np.searchsorted(end, offset, "right")
    number = np.maximum(np.searchsorted(start, offset + sizes) - low, 0)
    segment, extent = np.repeat(np.arange(len(offset)), number), ranges(low, number)
    first = np.maximum(start[extent] - offset[segment], 0) + physical[segment]
    last = np.minimum(end[extent] - offset[segment], sizes[segment]) + physical[segment]
    return PfnRanges.union(first // page_size, -(-last // page_size))


def extents(file: BinaryIO) -> tuple[Array, Array]:
    """
    Find the parts of a sparse file that are not holes: start and end of each (``int64``),
    ascending.

    If the file system does not report holes, or there are very many parts, the rest of the file is
    returned as one part.
    """
    size = file.seek(0, 2)
    found: list[tuple[int, int]] = []
    place = 0
    try:
        descriptor = file.fileno()
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            while place < size and len(found) < _MOST_EXTENTS:
                start = os.lseek(descriptor, place, os.SEEK_DATA)
                place = os.lseek(descriptor, start, os.SEEK_HOLE)
                found.append((start, place))
        finally:
            # Restore the position, because the file object buffers the data at its position.
            os.lseek(descriptor, before, os.SEEK_SET)
    except OSError as error:
        if error.errno == errno.ENXIO:
            # The rest of the file is a hole.
            place = size
        else:
            # Not a file of the operating system, or the file system does not report holes.
            found, place = [], 0
    if place < size:
        found.append((place, size))
    parts = np.array(found, np.int64).reshape(-1, 2)
    return parts[:, 0], parts[:, 1]


def _segments(file: BinaryIO) -> tuple[int, Array, Array, Array, Array] | None:
    """
    Read ``e_flags`` and the ``PT_LOAD`` program headers of an ELF core dump.

    :return: ``e_flags``; and the offset in the file, the physical address, the size in the file and
        the size in memory of each segment, in bytes: ``uint64``. ``None`` if *file* is not an ELF
        core dump.
    """
    file.seek(0)
    header = file.read(64)
    if len(header) < 52 or header[:4] != b"\x7fELF" or header[4] not in (1, 2):
        return None
    wide, order = header[4] == 2, "<" if header[5] == 1 else ">"
    word = f"{order}u8" if wide else f"{order}u4"
    (kind,) = struct.unpack_from(order + "H", header, 16)
    if kind != 4:  # ET_CORE
        return None
    if wide:
        table, sections = struct.unpack_from(order + "QQ", header, 32)
        flags, _, entry, number = struct.unpack_from(order + "IHHH", header, 48)
        names = ["type", "flags", "offset", "virtual", "physical", "in_file", "in_memory"]
        formats = [f"{order}u4", f"{order}u4", *[word] * 5]
        offsets = [0, 4, 8, 16, 24, 32, 40]
    else:
        table, sections = struct.unpack_from(order + "II", header, 28)
        flags, _, entry, number = struct.unpack_from(order + "IHHH", header, 36)
        names = ["type", "offset", "virtual", "physical", "in_file", "in_memory"]
        formats, offsets = [word] * 6, [0, 4, 8, 12, 16, 20]
    if number == _PN_XNUM:
        # There are too many segments for e_phnum, so their number is in sh_info of the first
        # section header.
        file.seek(sections + (44 if wide else 28))
        data = file.read(4)
        number = struct.unpack(order + "I", data)[0] if len(data) == 4 else 0
    if entry < offsets[-1] + np.dtype(word).itemsize:
        return None
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": entry})
    file.seek(table)
    data = file.read(number * entry)
    rows = np.frombuffer(data, dtype, len(data) // entry)
    rows = rows[rows["type"] == _PT_LOAD]
    columns = (rows[name].astype(np.uint64) for name in ("offset", "physical", "in_file"))
    offset, physical, in_file = columns
    return flags, offset, physical, in_file, rows["in_memory"].astype(np.uint64)
