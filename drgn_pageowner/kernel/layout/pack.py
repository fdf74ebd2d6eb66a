# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Make a layout pack: an ELF file with the DWARF of a kernel's types and variables and its symbols.

It has the build ID of the kernel, so drgn accepts it as the kernel's debugging symbols. Most
functions are left out, with their inlined calls and source lines; the names of functions are in the
dump's kallsyms.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from types import CodeType
from typing import Any

import numpy as np
from drgn import Object, ObjectAbsentError, Program, Type

from drgn_pageowner.elf import LAYOUT_SECTION, Elf
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.vmcoreinfo import vmcoreinfo
from drgn_pageowner.kernel.layout.dwarf import DwarfWriter
from drgn_pageowner.kernel.layout.elf_file import (
    SHF_ALLOC,
    SHT_NOBITS,
    SHT_NOTE,
    SHT_PROGBITS,
    SHT_STRTAB,
    SHT_SYMTAB,
    STT_FUNC,
    STT_OBJECT,
    ElfFile,
    ElfSection,
    names_of,
    packed,
    write_elf,
)
from drgn_pageowner.model.arrays import Array

__all__ = ("layout_pack",)

_KEYWORDS = ("struct ", "union ", "enum ", "")
# Functions that libdrgn looks up, in linux_kernel_get_vmemmap_address().
_OF_DRGN = ("vmemmap_populate",)
_UNDERSCORE = ord("_")
_STB_LOCAL = 0
_SHN_LORESERVE = 0xFF00
# Prefixes of symbols that the build generates: for exports (include/linux/export-internal.h), for
# constants, and the mapping symbols of the assembler.
_MADE = (b"__ksymtab_", b"__kstrtab_", b"__kstrtabns_", b"__crc_", b"__flags_", b".L", b"$", b".")


def layout_pack(prog: Program) -> bytes:
    """
    Make the layout pack of the kernel of *prog*, whose DWARF must be loaded.

    :return: The contents of an ELF file.
    :raises PageOwnerError: if the vmlinux has no build ID, or cannot be read
    """
    main = prog.main_module()
    path = main.debug_file_path
    if path is None or main.build_id is None:
        raise PageOwnerError(
            "a layout pack is found by the build ID, which this dump's kernel does not tell "
            "(before v5.9): keep its vmlinux"
        )
    known = Elf.read(path)
    if known is not None and known.is_layout:
        return Path(path).read_bytes()
    elf = ElfFile(path)
    symbols, strings = elf.symbols()
    symbol_names = names_of(symbols, strings)
    mine = _own_names()
    texts = {text.decode() for text in (*_debug_strings(elf), *symbol_names) if text.isascii()}
    dwarf = DwarfWriter(elf.order, 8 if elf.wide else 4)
    with _only_dwarf(prog):
        _add_all(prog, dwarf, (texts | mine).union(_short()), main.debug_file_bias or 0)
        _add_declared(prog, dwarf)
        _add_functions(prog, dwarf, mine, main.debug_file_bias or 0)
        _add_of_files(prog, dwarf, mine, main.debug_file_bias or 0)
    sections = _image_sections(elf)
    places = np.zeros(1 << 16, np.uint16)
    places[_SHN_LORESERVE:] = np.arange(_SHN_LORESERVE, 1 << 16)
    for new, (old, _) in enumerate(sections, 1):
        places[old] = new
    wanted = _wanted(symbols, symbol_names, {name.encode() for name in mine})
    out = [section for _, section in sections]
    out += [packed(ElfSection(name, SHT_PROGBITS, data=data, align=1), elf)
            for name, data in dwarf.sections().items()]  # fmt: skip
    about = {"format": 1, "release": vmcoreinfo(prog).text("OSRELEASE")}
    out.append(ElfSection(LAYOUT_SECTION, SHT_PROGBITS, data=json.dumps(about).encode()))
    out += _symbol_sections(elf, symbols[wanted], [symbol_names[i] for i in wanted], places,
                            len(out))  # fmt: skip
    return write_elf(elf, out)


# --- names --------------------------------------------------------------------------------------


def _debug_strings(elf: ElfFile) -> set[bytes]:
    """
    Return all strings of DWARF. Among them are the names of all types and variables.

    The linker may store a name as the end of a longer string, so the part after every ``_`` of a
    string is also returned.
    """
    section = elf.section(".debug_str")
    found = set(elf.contents(section).split(b"\0")) if section is not None else set()
    return found | {
        text[at + 1 :] for text in found for at, byte in enumerate(text) if byte == _UNDERSCORE
    }


def _short() -> Iterator[str]:
    """
    Yield all lower-case names of up to three characters. DWARF may have such names inline instead
    of in a string table.
    """
    for length in (1, 2, 3):
        yield from map("".join, product(ascii_lowercase + "_", repeat=length))


def _own_names() -> set[str]:
    """
    Return all words of the string constants in the code of drgn_pageowner/kernel/ and of drgn's
    helpers. Among them are the names of the types, functions, variables and source files that this
    code looks up.
    """
    found = set(_OF_DRGN)
    for package in ("drgn_pageowner.kernel", "drgn.helpers.linux"):
        where = find_spec(package)
        assert where is not None
        for module in pkgutil.walk_packages(where.submodule_search_locations, f"{package}."):
            spec = find_spec(module.name)
            code: Any = spec.loader.get_code(module.name) if spec and spec.loader else None  # type: ignore[attr-defined]
            if code is not None:
                found.update(_constants(code.co_consts))
    return {word for text in found for word in text.split() if len(text) < 100}


def _constants(constants: Iterable[object]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _constants(constant.co_consts)
        elif isinstance(constant, tuple | frozenset):
            yield from _constants(constant)


# --- DWARF --------------------------------------------------------------------------------------


def _add_all(prog: Program, dwarf: DwarfWriter, names: Iterable[str], bias: int) -> None:
    """Add the types and variables named in *names*, and the enums with constants named so."""
    variables: list[tuple[str, Object]] = []
    for name in sorted(names):
        if not name.isidentifier():
            continue
        for keyword in _KEYWORDS:
            type_ = _type(prog, keyword + name)
            if type_ is not None:
                dwarf.add_type(type_)
        with suppress(LookupError):
            dwarf.add_type(prog.constant(name).type_)
        variable = _variable(prog, name)
        if variable is not None:
            variables.append((name, variable))
    # Add variables after all types: drgn finds the first of several types of the same name, which
    # is the one that was looked up by name above.
    for name, variable in variables:
        dwarf.add_variable(name, variable, int(variable.address_ or 0) - bias, None)


def _add_of_files(prog: Program, dwarf: DwarfWriter, names: Iterable[str], bias: int) -> None:
    """Add the types and variables whose name and source file are both in *names*."""
    files = [name for name in names if name.endswith((".c", ".h"))]
    for name in sorted(names):
        if not name.isidentifier():
            continue
        for file in files:
            type_ = _type(prog, f"struct {name}", file)
            if type_ is not None:
                dwarf.add_type(type_, file)
            variable = _variable(prog, name, file)
            if variable is not None:
                dwarf.add_variable(name, variable, int(variable.address_ or 0) - bias, file)


def _add_declared(prog: Program, dwarf: DwarfWriter) -> None:
    """Add the definitions of types that other types refer to by declarations."""
    seen: set[str] = set()
    while more := dwarf.write_references() - seen:
        seen |= more
        for name in sorted(more):
            for keyword in _KEYWORDS[:3]:
                type_ = _type(prog, keyword + name)
                if type_ is not None:
                    dwarf.add_type(type_)


def _add_functions(prog: Program, dwarf: DwarfWriter, names: Iterable[str], bias: int) -> None:
    """Add the functions named in *names*."""
    for name in sorted(names):
        if name.isidentifier():
            try:
                found = prog.function(name)
            except LookupError:
                continue
            if not found.absent_ and found.address_ is not None:
                dwarf.add_function(name, found, found.address_ - bias)


@contextmanager
def _only_dwarf(prog: Program) -> Iterator[None]:
    """Use only DWARF to find objects: without drgn's constants, such as ``PAGE_SIZE``."""
    before = prog.enabled_object_finders()
    prog.set_enabled_object_finders(["dwarf"])
    try:
        yield
    finally:
        prog.set_enabled_object_finders(list(before))


def _type(prog: Program, name: str, file: str | None = None) -> Type | None:
    try:
        return prog.type(name, file)
    except (LookupError, SyntaxError):
        return None


def _variable(prog: Program, name: str, file: str | None = None) -> Object | None:
    try:
        found = prog.variable(name, file)
    except (LookupError, ObjectAbsentError):
        return None
    return None if found.absent_ or found.address_ is None else found


# --- ELF ----------------------------------------------------------------------------------------


def _image_sections(elf: ElfFile) -> list[tuple[int, ElfSection]]:
    """
    Return the sections of the kernel's image (``SHF_ALLOC``). Only notes keep their contents.

    :return: The number of each section in *elf*, and the section.
    """
    found = []
    for number, section in enumerate(elf.sections):
        if not section.flags & SHF_ALLOC:
            continue
        note = section.type == SHT_NOTE
        found.append((number, ElfSection(
            section.name, SHT_NOTE if note else SHT_NOBITS, section.flags, section.address,
            size=section.size, align=section.align,
            data=elf.contents(section) if note else b"",
        )))  # fmt: skip
    return found


def _wanted(symbols: Array, names: list[bytes], mine: set[bytes]) -> list[int]:
    """
    Return the indices of the symbols to keep, in ascending order: symbols of data, and those named
    in *mine*.
    """
    kinds = (symbols["info"] & 0xF).tolist()
    return [
        index
        for index, (kind, name) in enumerate(zip(kinds, names, strict=True))
        if kind == STT_OBJECT
        or name in mine
        or (kind < STT_FUNC and name and not name.startswith(_MADE))
    ]


def _symbol_sections(
    elf: ElfFile, symbols: Array, names: list[bytes], places: Array, before: int
) -> list[ElfSection]:
    """
    Make the sections ``.symtab`` and ``.strtab``.

    :param places: New section number, indexed by the section number in *elf*.
    :param before: Number of sections before ``.symtab``, not counting the empty first one.
    """
    table = np.zeros(len(symbols) + 1, symbols.dtype)
    table[1:] = symbols
    table["shndx"] = places[table["shndx"]]
    lengths = np.array([len(name) + 1 for name in names], np.int64)
    table["name"][1:] = np.cumsum(lengths) - lengths + 1
    local = int((table["info"] >> 4 == _STB_LOCAL).sum())
    text = b"\0" + b"".join(name + b"\0" for name in names)
    return [
        packed(
            ElfSection(".symtab", SHT_SYMTAB, link=before + 2, info=local, align=8,
                    entry_size=symbols.dtype.itemsize, data=table.tobytes()), elf,
        ),
        packed(ElfSection(".strtab", SHT_STRTAB, data=text), elf),
    ]  # fmt: skip
