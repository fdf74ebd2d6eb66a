# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read sections and symbols of an ELF file, and write an ELF file with other sections."""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.arrays import Array

__all__ = (
    "SHF_ALLOC",
    "SHT_NOBITS",
    "SHT_NOTE",
    "SHT_PROGBITS",
    "SHT_STRTAB",
    "SHT_SYMTAB",
    "STT_FUNC",
    "STT_OBJECT",
    "ElfFile",
    "ElfSection",
    "names_of",
    "packed",
    "write_elf",
)

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOTE, SHT_NOBITS = 1, 2, 3, 7, 8
SHF_ALLOC, _SHF_COMPRESSED = 0x2, 0x800
STT_OBJECT, STT_FUNC = 1, 2
_PT_LOAD = 1
_ELFCOMPRESS_ZLIB = 1
_ELF_HEADER = {True: "16sHHIQQQIHHHHHH", False: "16sHHIIIIIHHHHHH"}
_SECTION_HEADER = {True: "IIQQQQIIQQ", False: "IIIIIIIIII"}
_SYMBOL = {
    True: [("name", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2"), ("value", "u8"),
           ("size", "u8")],
    False: [("name", "u4"), ("value", "u4"), ("size", "u4"), ("info", "u1"), ("other", "u1"),
            ("shndx", "u2")],
}  # fmt: skip


@dataclass(frozen=True)
class ElfSection:
    """A section header; for a file to be written, also the contents of the section."""

    name: str
    type: int
    """``sh_type``."""
    flags: int = 0
    address: int = 0
    offset: int = 0
    size: int = 0
    """``sh_size``, in bytes."""
    link: int = 0
    info: int = 0
    align: int = 1
    entry_size: int = 0
    data: bytes = b""


class ElfFile:
    """An ELF file that is mapped into memory; contents are only read when they are requested."""

    def __init__(self, path: str) -> None:
        """
        :raises PageOwnerError: if the file cannot be read, or is damaged
        """
        try:
            with open(path, "rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            self.wide = self.data[4] == 2
            """Whether it is an ELF64 file."""
            self.order = "<>"[self.data[5] - 1]
            """Byte order, as NumPy writes it."""
            self.sections = self._read_sections()
        except OSError as error:
            raise PageOwnerError(f"cannot read {path}: {error.strerror or error}") from error
        except (struct.error, ValueError, IndexError) as error:
            raise PageOwnerError(f"{path} is a damaged ELF file: {error}") from error
        self._path = path

    @property
    def header(self) -> tuple[Any, ...]:
        """The fields of ``Elf64_Ehdr`` or ``Elf32_Ehdr``."""
        return struct.unpack_from(self.order + _ELF_HEADER[self.wide], self.data)

    def _read_sections(self) -> list[ElfSection]:
        header = self.header
        offset, size, number, names = header[6], header[11], header[12], header[13]
        fields = self.order + _SECTION_HEADER[self.wide]
        rows = [struct.unpack_from(fields, self.data, offset + at * size) for at in range(number)]
        texts = rows[names][4] if rows else 0
        found = []
        for name, *row in rows:
            end = self.data.find(b"\0", texts + name)
            found.append(ElfSection(self.data[texts + name : end].decode("latin-1"), *row))
        return found

    def section(self, name: str) -> ElfSection | None:
        """Find a section by name, among those that have contents in the file."""
        return next((s for s in self.sections if s.name == name and s.type != SHT_NOBITS), None)

    def contents(self, section: ElfSection) -> bytes:
        """
        Read the contents of a section, and decompress them.

        :raises PageOwnerError: if the contents are damaged, or compressed otherwise than by zlib
        """
        data = self.data[section.offset : section.offset + section.size]
        if not section.flags & _SHF_COMPRESSED:
            return data
        kind, size = struct.unpack_from(self.order + ("I4xQ" if self.wide else "II"), data)
        if kind != _ELFCOMPRESS_ZLIB:
            raise PageOwnerError(f"{self._path}: {section.name} is not packed by zlib")
        try:
            return zlib.decompress(data[24 if self.wide else 12 :], bufsize=max(size, 1))
        except zlib.error as error:
            raise PageOwnerError(f"{self._path}: {section.name} is damaged: {error}") from error

    def symbols(self) -> tuple[Array, bytes]:
        """
        Read the symbol table.

        :return: ``Elf64_Sym`` or ``Elf32_Sym`` as a structured array of shape ``(n,)``; and the
            string table. Empty if the file has none.
        """
        dtype = np.dtype(_SYMBOL[self.wide]).newbyteorder(">" if self.order == ">" else "<")
        table = self.section(".symtab")
        if table is None or not 0 <= table.link < len(self.sections):
            return np.zeros(0, dtype), b""
        data = self.contents(table)
        whole = len(data) // dtype.itemsize * dtype.itemsize
        return np.frombuffer(data[:whole], dtype), self.contents(self.sections[table.link])


def names_of(symbols: Array, strings: bytes) -> list[bytes]:
    """Return the name of every symbol."""
    return [strings[at : strings.find(b"\0", at)] for at in symbols["name"].tolist()]


def packed(section: ElfSection, elf: ElfFile) -> ElfSection:
    """Return the section with its contents compressed by zlib, if this makes them smaller."""
    fields = elf.order + ("IIQQ" if elf.wide else "III")
    middle = (0,) if elf.wide else ()
    head = struct.pack(fields, _ELFCOMPRESS_ZLIB, *middle, len(section.data), section.align)
    data = head + zlib.compress(section.data, 9)
    if len(data) >= len(section.data):
        return section
    return replace(section, data=data, flags=section.flags | _SHF_COMPRESSED)


def write_elf(elf: ElfFile, sections: list[ElfSection]) -> bytes:
    """
    Return the contents of an ELF file for the machine of *elf* with *sections*.

    :param sections: All sections except the empty first one and ``.shstrtab``, which are added. A
        section of type :data:`SHT_NOBITS` keeps its size.
    """
    header = list(elf.header)
    fields = elf.order + _SECTION_HEADER[elf.wide]
    out = bytearray(struct.calcsize(elf.order + _ELF_HEADER[elf.wide]))
    # drgn needs the program headers to compute the KASLR offset.
    segments = _segments(elf)
    header[5], header[10] = len(out), len(segments)
    out += b"".join(segments)
    names = bytearray(b"\0")
    rows = [(0,) * 10]
    for section in [*sections, ElfSection(".shstrtab", SHT_STRTAB)]:
        name = len(names)
        names += section.name.encode("latin-1") + b"\0"
        data = bytes(names) if section.name == ".shstrtab" else section.data
        nothing = section.type == SHT_NOBITS
        out += bytes(-len(out) % max(section.align, 8))
        rows.append((
            name, section.type, section.flags, section.address, len(out),
            section.size if nothing else len(data), section.link, section.info, section.align,
            section.entry_size,
        ))  # fmt: skip
        out += b"" if nothing else data
    out += bytes(-len(out) % 8)
    header[6] = len(out)
    header[11], header[12], header[13] = struct.calcsize(fields), len(rows), len(rows) - 1
    for row in rows:
        out += struct.pack(fields, *row)
    struct.pack_into(elf.order + _ELF_HEADER[elf.wide], out, 0, *header)
    return bytes(out)


def _segments(elf: ElfFile) -> list[bytes]:
    """Return the program headers of type PT_LOAD, changed to have no contents in the file."""
    offset, size, number = elf.header[5], elf.header[9], elf.header[10]
    fields = elf.order + ("IIQQQQQQ" if elf.wide else "IIIIIIII")
    found = []
    for at in range(number):
        row = list(struct.unpack_from(fields, elf.data, offset + at * size))
        if row[0] == _PT_LOAD:
            # p_offset and p_filesz.
            row[2 if elf.wide else 1] = row[5 if elf.wide else 4] = 0
            found.append(struct.pack(fields, *row))
    return found
