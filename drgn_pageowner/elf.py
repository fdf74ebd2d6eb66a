# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the headers of an ELF file: its kind, its build ID and its debug link."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ("ET_CORE", "ET_REL", "LAYOUT_SECTION", "Elf")

ET_REL, ET_CORE = 1, 4
LAYOUT_SECTION = ".drgn_pageowner.layout"
"""Section that layout packs have: JSON with ``format`` and ``release``."""
_SHT_NOBITS = 8
_SHT_NOTE, _PT_NOTE = 7, 4
_NT_GNU_BUILD_ID = 3
# NT_PRPSINFO is a note about a process; kernel dumps do not have it.
_NT_PRPSINFO = 3
# Maximum size of a table, a note or a name; a larger size is damaged.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Elf:
    """Facts from the headers of an ELF file, 32-bit or 64-bit."""

    kind: int
    """``e_type``."""
    build_id: str | None
    """Contents of the note ``NT_GNU_BUILD_ID``, in hex; ``None`` if the file has none."""
    debug_link: str | None
    """Name of the file with the debugging information that was stripped from this file
    (``.gnu_debuglink``); ``None`` if the file has no such link."""
    has_dwarf: bool
    """Whether the file has the contents of a section ``.debug_info`` or ``.zdebug_info``."""
    is_layout: bool
    """Whether the file is a layout pack: it has a section :data:`LAYOUT_SECTION`."""
    of_a_process: bool
    """Whether the file has a note about a process, as core dumps of processes do."""

    @classmethod
    def read(cls, path: str) -> Elf | None:
        """Read the headers of the file *path*; return ``None`` if it is not a valid ELF file."""
        try:
            with open(path, "rb") as file:
                return _read(file)
        except (OSError, struct.error, IndexError, ValueError):
            return None


def _read(file: BinaryIO) -> Elf | None:
    head = file.read(64)
    if head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    order, wide = "<>"[head[5] - 1], head[4] == 2
    (kind,) = struct.unpack_from(order + "H", head, 16)
    if wide:
        segments, sections = struct.unpack_from(order + "QQ", head, 32)
        sizes = struct.unpack_from(order + "5H", head, 54)
    else:
        segments, sections = struct.unpack_from(order + "II", head, 28)
        sizes = struct.unpack_from(order + "5H", head, 42)
    notes: list[tuple[bytes, int, bytes]] = []
    for type_, offset, size in _segments(file, order, wide, segments, sizes[0], sizes[1]):
        if type_ == _PT_NOTE:
            notes += _notes(_bytes(file, offset, size), order)
    names: dict[str, bytes | None] = {}
    for name, type_, offset, size in _sections(file, order, wide, sections, *sizes[2:]):
        if type_ == _SHT_NOTE:
            notes += _notes(_bytes(file, offset, size), order)
        link = name == ".gnu_debuglink"
        names[name] = _bytes(file, offset, size) if link and type_ != _SHT_NOBITS else None
        if name == ".debug_info" and type_ == _SHT_NOBITS:
            del names[name]
    ids = [data.hex() for owner, number, data in notes
           if owner == b"GNU\0" and number == _NT_GNU_BUILD_ID]  # fmt: skip
    found = names.get(".gnu_debuglink")
    return Elf(
        kind=kind,
        build_id=ids[0] if ids else None,
        debug_link=found.split(b"\0", 1)[0].decode() if found else None,
        has_dwarf=".debug_info" in names or ".zdebug_info" in names,
        is_layout=LAYOUT_SECTION in names,
        of_a_process=any(owner == b"CORE\0" and number == _NT_PRPSINFO
                         for owner, number, _ in notes),
    )  # fmt: skip


def _bytes(file: BinaryIO, offset: int, size: int) -> bytes:
    if not 0 <= size <= _MOST_BYTES or offset < 0:
        return b""
    file.seek(offset)
    return file.read(size)


def _segments(
    file: BinaryIO, order: str, wide: bool, offset: int, size: int, number: int
) -> Iterator[tuple[int, int, int]]:
    """Yield the type, the offset in the file and the size of each segment, in bytes."""
    table = _bytes(file, offset, size * number)
    for at in range(0, size * number, size or 1):
        if wide:
            type_, _, start, _, _, length = struct.unpack_from(order + "IIQQQQ", table, at)
        else:
            type_, start, _, _, length = struct.unpack_from(order + "5I", table, at)
        yield type_, start, length


def _sections(
    file: BinaryIO, order: str, wide: bool, offset: int, size: int, number: int, names: int
) -> Iterator[tuple[str, int, int, int]]:
    """Yield the name, the type, the offset in the file and the size of each section, in bytes."""
    if not offset or not number:
        return
    table = _bytes(file, offset, size * number)
    fields = order + ("IIQQQQ" if wide else "6I")
    rows = [struct.unpack_from(fields, table, at * size) for at in range(number)]
    texts = _bytes(file, rows[names][4], rows[names][5]) if names < number else b""
    for name, type_, _, _, start, length in rows:
        end = texts.find(b"\0", name)
        yield texts[name:end].decode(errors="replace"), type_, start, length


def _notes(data: bytes, order: str) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield the owner, the type and the contents of each note."""
    position = 0
    while position + 12 <= len(data):
        name, length, kind = struct.unpack_from(order + "III", data, position)
        start = position + 12 + (name + 3 & ~3)
        yield data[position + 12 : position + 12 + name], kind, data[start : start + length]
        position = start + (length + 3 & ~3)
