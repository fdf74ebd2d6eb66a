# SPDX-License-Identifier: LGPL-2.1-or-later
"""
kdump files that are cut off: what is left of them is read, what is not is not in the dump.

libkdumpfile maps the file; touching what lies behind its end kills the process (SIGBUS), and what
lies in its last page reads as zeroes. So nothing of such a file is read but through here.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

import drgn
import numpy as np
from drgn import FaultError, Program

# What drgn.helpers.linux.mm.access_remote_vm() is made of; that needs debugging symbols, which are
# not there yet.
from drgn.helpers.linux.mm import _linux_helper_read_vm  # type: ignore[attr-defined]

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.vmcoreinfo import vmcoreinfo
from drgn_pageowner.model.arrays import Array

__all__ = ("check_headers", "keep_to_the_file")

_SIGNATURE = b"KDUMP   "
# struct disk_dump_header of makedumpfile's diskdump_mod.h, of a 64-bit and of a 32-bit kernel:
# where block_size, sub_hdr_size and bitmap_blocks are.
_BLOCK_SIZE = {8: 428, 4: 416}
_HEADER_BYTES = 4096
# struct kdump_sub_header of the same: offset and size of VMCOREINFO, of the notes and of what was
# erased, and where they begin.
_SUB_HEADER_PIECES = {8: ("<6Q", 32), 4: ("<QIQIQI", 20)}
# page_desc_t: offset, size, flags, page_flags.
_DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page", "<u8")])


def check_headers(path: str) -> None:
    """
    See that what a kdump file's headers lead to is in the file, before it is opened.

    :raises PageOwnerError: if it is not: to open it would end the process
    """
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
            word, block, sub_header, bitmap = _layout(header)
            if not header.startswith(_SIGNATURE) or not block:
                return
            file.seek(block)
            second = file.read(_HEADER_BYTES)
    except OSError:
        # Whoever opens it says so.
        return
    ends = [(1 + sub_header + bitmap) * block]
    pieces, place = _SUB_HEADER_PIECES[word]
    if len(second) >= place + struct.calcsize(pieces):
        numbers = struct.unpack_from(pieces, second, place)
        ends += [sum(numbers[at : at + 2]) for at in (0, 2, 4)]
    if max(ends) > size:
        raise PageOwnerError(
            f"{path} cannot be opened as a dump: its headers lead to {max(ends)} bytes, and it has "
            f"{size}: it is cut off there, or damaged"
        )


def keep_to_the_file(prog: Program, path: str) -> str | None:
    """
    See that no page is read that a kdump file lacks because it was cut off.

    :param prog: Has the file open, and nothing read yet.
    :return: What to say about it; ``None`` if the file is whole, or no kdump file.
    :raises PageOwnerError: if not even the table of its pages is there
    """
    with open(path, "rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            return None
        size = os.fstat(file.fileno()).st_size
        there, lost = _pages(file, path, size)
    if not lost:
        return None
    _Guard(prog, path, there).install()
    return (
        f"{path} is cut off after {size} bytes: {lost} of {lost + int(there.sum())} pages that "
        "were dumped are lost"
    )


def _pages(file: BinaryIO, path: str, size: int) -> tuple[Array, int]:
    """Which PFNs have their page in the file: ``bool``; and how many do not."""
    file.seek(0)
    header = file.read(_HEADER_BYTES)
    _, block, sub_header, bitmap = _layout(header)
    start = (1 + sub_header) * block
    half = bitmap * block // 2
    table = start + 2 * half
    if not (block and bitmap and table + _DESCRIPTOR.itemsize <= size):
        raise PageOwnerError(
            f"{path} is cut off after {size} bytes, before its first page: it holds nothing"
        )
    file.seek(start + half)
    bits = np.unpackbits(np.frombuffer(file.read(half), np.uint8), bitorder="little")
    pfns = np.flatnonzero(bits)
    file.seek(table)
    data = file.read(len(pfns) * _DESCRIPTOR.itemsize)
    rows = np.frombuffer(data, _DESCRIPTOR, len(data) // _DESCRIPTOR.itemsize)
    whole = (rows["offset"] >= 0) & (rows["offset"] <= size - rows["size"].astype(np.int64))
    there = np.zeros(len(bits), bool)
    there[pfns[: len(rows)][whole]] = True
    return there, len(pfns) - int(whole.sum())


def _layout(header: bytes) -> tuple[int, int, int, int]:
    """
    Bytes of a word, block size, blocks of the second header and of the bitmaps; zeroes for no known
    layout.
    """
    for word, place in _BLOCK_SIZE.items():
        if len(header) < place + 12:
            continue
        block, sub_header, bitmap = struct.unpack_from("<iiI", header, place)
        # Where a 64-bit kernel has them, a 32-bit one has the number of its pages, and zeroes.
        if 512 <= block <= 1 << 20 and block & (block - 1) == 0 and 0 < sub_header < 1 << 20:
            return word, block, sub_header, bitmap
    return 0, 0, 0, 0


class _Guard:
    """Reads for a program what is in the file, and nothing else."""

    def __init__(self, prog: Program, path: str, there: Array) -> None:
        self._prog = prog
        self._there = there
        # Reads pages: those of the program are this class's.
        self._file = drgn.Program()
        self._file.set_core_dump(path)
        info = vmcoreinfo(prog)
        self._page_size = info.integer("PAGESIZE") or 4096
        self._page_table = info.symbol("swapper_pg_dir") or 0

    def install(self) -> None:
        end = (1 << 64) - 1
        self._prog.add_memory_segment(0, end, self._physical, True)
        self._prog.add_memory_segment(0, end, self._virtual, False)

    def _physical(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        first, last = address // self._page_size, (address + count - 1) // self._page_size
        there = self._there[first : last + 1]
        if len(there) <= last - first or not there.all():
            gone = first + (int(np.argmin(there)) if not there.all() else len(there))
            where = max(gone * self._page_size, address)
            raise FaultError("the dump is cut off before this page, or does not have it", where)
        return bytes(self._file.read(address, count, True))

    def _virtual(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            return bytes(_linux_helper_read_vm(self._prog, self._page_table, address, count))
        except FaultError as fault:
            # It names a physical address, of this page or of a page table.
            position, end = address, address + count
            while position < end:
                following = min((position // self._page_size + 1) * self._page_size, end)
                try:
                    _linux_helper_read_vm(
                        self._prog, self._page_table, position, following - position
                    )
                except FaultError:
                    break
                position = following
            raise FaultError(str(fault), min(position, end - 1)) from None
