# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read dump files that do not contain all pages that their tables list.

libkdumpfile maps a kdump file into memory. An access past the end of a truncated file kills the
process (SIGBUS), except that the rest of the file's last page reads as zeroes; and a descriptor
that was never written is mistaken for a page at offset 0. Therefore, all pages of such a file are
read through this module, which makes reads of the missing pages fail.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, cast

import drgn
import numpy as np
from drgn import FaultError, Program

# The implementation of drgn.helpers.linux.mm.access_remote_vm(), which itself needs debugging
# symbols; they are not loaded yet.
from drgn.helpers.linux.mm import _linux_helper_read_vm  # type: ignore[attr-defined]

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.contents import elf_contents, kdump_contents, kdump_layout
from drgn_pageowner.kernel.dump.flattened import Flattened
from drgn_pageowner.kernel.dump.vmcoreinfo import vmcoreinfo
from drgn_pageowner.model.contents import DumpContents, PfnRanges

__all__ = ("check_headers", "keep_to_the_file")

_HEADER_BYTES = 4096
# Members of struct kdump_sub_header (diskdump_mod.h of makedumpfile), by the size of the kernel's
# long: offsets and sizes of VMCOREINFO, the notes and the erased data; and the offset of these
# members in the structure.
_SUB_HEADER_PIECES = {8: ("<6Q", 32), 4: ("<QIQIQI", 20)}


def check_headers(path: str) -> None:
    """
    Check that a kdump file is long enough for the tables that its headers describe.

    :raises PageOwnerError: if the file is too short; opening it with drgn would kill the process
    """
    try:
        with open(path, "rb") as file:
            layout = kdump_layout(file.read(_HEADER_BYTES))
            size = os.fstat(file.fileno()).st_size
            if layout is None:
                return
            file.seek(layout.block_size)
            second = file.read(_HEADER_BYTES)
    except OSError:
        # drgn will fail to open the file as well, and the error is reported then.
        return
    ends = [layout.descriptors]
    pieces, place = _SUB_HEADER_PIECES[layout.word]
    if len(second) >= place + struct.calcsize(pieces):
        numbers = struct.unpack_from(pieces, second, place)
        ends += [sum(numbers[at : at + 2]) for at in (0, 2, 4)]
    if max(ends) > size:
        raise PageOwnerError(
            f"{path} cannot be opened as a dump: its headers lead to {max(ends)} bytes, and it has "
            f"{size}: it is cut off there, or damaged"
        )


def keep_to_the_file(prog: Program, path: str, name: str | None = None) -> DumpContents | None:
    """
    Make reads fail for pages that a dump file lists but does not contain.

    :param prog: Program of the dump, which has not read any memory yet.
    :param path: Path of the file that *prog* has open.
    :param name: Path that the user gave, if *path* is a temporary copy in another format.
    :return: The pages in the file; ``None`` if the format of the file is not known.
    :raises PageOwnerError: if the file contains no pages
    """
    info = vmcoreinfo(prog)
    with open(path, "rb") as outer:
        file = cast("BinaryIO", Flattened.of(outer) or outer)
        found = kdump_contents(file) or elf_contents(file, info.integer("PAGESIZE") or 4096)
    if found is None:
        return None
    found.name = name or path
    found.size = os.path.getsize(found.name)
    if not len(found.present):
        lines = found.problems()
        raise PageOwnerError(
            f"{lines[0]}: it holds nothing" if lines else f"{path} is a dump without pages"
        )
    if len(found.lost):
        if found.format == "kdump":
            _Guard(prog, path, found, info.symbol("swapper_pg_dir") or 0).install()
        else:
            _refuse(prog, found)
    return found


def _missing(address: int) -> FaultError:
    return FaultError("the dump is cut off before this page, or does not have it", address)


def _refuse(prog: Program, contents: DumpContents) -> None:
    """
    Make reads of lost pages fail with the address of the page.

    Without this, the exceptions of drgn for a file that is too short have no address.
    """

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise _missing(address)

    size = contents.page_size
    lost = contents.lost
    for start, end in zip(lost.start.tolist(), lost.end.tolist(), strict=True):
        prog.add_memory_segment(start * size, (end - start) * size, read, True)


class _Guard:
    """Memory reader for a program; reads of pages that its kdump file does not contain fail."""

    def __init__(self, prog: Program, path: str, contents: DumpContents, page_table: int) -> None:
        """:param page_table: Virtual address of ``swapper_pg_dir``; 0 if unknown."""
        self._prog = prog
        self._lost: PfnRanges = contents.lost
        # A second program that reads the file; reads of the first program are handled by this
        # class.
        self._file = drgn.Program()
        self._file.set_core_dump(path)
        self._page_size = contents.page_size
        self._page_table = page_table

    def install(self) -> None:
        end = (1 << 64) - 1
        self._prog.add_memory_segment(0, end, self._physical, True)
        self._prog.add_memory_segment(0, end, self._virtual, False)

    def _physical(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        first, last = address // self._page_size, (address + count - 1) // self._page_size
        lost = self._lost.has(np.arange(first, last + 1))
        if lost.any():
            raise _missing(max((first + int(np.argmax(lost))) * self._page_size, address))
        return bytes(self._file.read(address, count, True))

    def _virtual(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            return bytes(_linux_helper_read_vm(self._prog, self._page_table, address, count))
        except NotImplementedError:
            # drgn cannot walk the page tables of i386, and we have not found their root.
            raise FaultError("the dump has lost the kernel's page tables", address) from None
        except FaultError as fault:
            # The fault has the physical address of the page or of a page table; find the virtual
            # address.
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
