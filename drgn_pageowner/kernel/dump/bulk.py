# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read memory in bulk, and make NumPy dtypes from the dump's own DWARF."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import drgn
import numpy as np
from drgn import FaultError, PlatformFlags, Program, Type, TypeKind

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.arrays import Array

__all__ = (
    "Bulk",
    "byte_order",
    "enumerators",
    "find_object",
    "find_type",
    "gather",
    "has_member",
    "page_size",
    "read_array",
    "read_bulk",
    "read_word",
    "readable",
    "struct_dtype",
    "symbol_address",
    "word_dtype",
    "words",
)


# Maximum size of one read. The memmap of a section takes 2 MiB, that of a FLATMEM node of 128 GiB
# takes 2 GiB; a larger size is garbage.
_MOST_BYTES = 1 << 31
# For gather(): maximum gap, in bytes, between two addresses that are read together, and maximum
# number of addresses per read.
_GAP = 2048
_MOST_OF_GATHER = 1 << 20


class Bulk(NamedTuple):
    """Contents of a range of memory, and a list of the parts that could not be read."""

    data: bytes | bytearray
    """Contents of the range; bytes that could not be read are zero."""
    missing: list[tuple[int, int]]
    """``(offset, size)`` of every part that is not in the dump, in bytes, in ascending order."""


def page_size(prog: Program) -> int:
    """Get ``PAGE_SIZE``, in bytes."""
    return int(prog["PAGE_SIZE"])


def byte_order(prog: Program) -> str:
    """Get the byte order of *prog* as NumPy writes it: ``"<"`` or ``">"``."""
    platform = prog.platform
    assert platform is not None
    return "<" if platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">"


def word_dtype(prog: Program) -> np.dtype[Any]:
    """
    Get the dtype of ``unsigned long``.

    Its size is taken from DWARF, because the dump of a 32-bit kernel may be an ELF64 file: QEMU
    writes ELF64 if the CPU could run 64-bit code.
    """
    return np.dtype(f"{byte_order(prog)}u{prog.type('unsigned long').size}")


def words(prog: Program, data: bytes | bytearray) -> Array:
    """
    Convert bytes of the kernel's memory to an array of ``unsigned long``.

    :param data: Contents of memory, a multiple of the kernel's word size.
    :return: ``uint64``, whatever the word size and byte order of the kernel.
    """
    return np.frombuffer(data, word_dtype(prog)).astype(np.uint64, copy=False)


def read_bulk(prog: Program, address: int, size: int, *, physical: bool = False) -> Bulk:
    """
    Read *size* bytes at *address*; bytes that are not in the dump read as zeroes.

    Pages that were filtered out, truncated or never mapped cause no exception, but are listed in
    :attr:`Bulk.missing`.

    :param address: Virtual address, or physical address if *physical* is true.
    :raises FaultError: if the range is impossibly large, or outside of the address space
    """
    _check(address, size)
    try:
        return Bulk(prog.read(address, size, physical), [])
    except FaultError as fault:
        return _read_around_holes(prog, address, size, physical, fault)


def _check(address: int, size: int) -> None:
    """
    Check that a range of *size* bytes at *address* is possible.

    :raises FaultError: if the range is impossibly large, or outside of the address space
    """
    if not (0 <= size <= _MOST_BYTES and address >= 0 and address + size <= 1 << 64):
        raise FaultError(f"no memory has {size} bytes there", address & (1 << 64) - 1)


def _read_around_holes(
    prog: Program, address: int, size: int, physical: bool, fault: FaultError
) -> Bulk:
    granule = page_size(prog)
    end = address + size
    data = bytearray(size)
    missing: list[tuple[int, int]] = []
    position = address
    while position < end:
        # The fault address is the first missing byte, or the start of the read.
        promised = min(max(fault.address, position), end - 1) // granule * granule - position
        part = readable(prog, position, end - position, granule, physical, promised)
        data[position - address : position - address + len(part)] = part
        hole = position + len(part)
        hole_end = min((hole // granule + 1) * granule, end)
        if missing and sum(missing[-1]) == hole - address:
            missing[-1] = (missing[-1][0], missing[-1][1] + hole_end - hole)
        else:
            missing.append((hole - address, hole_end - hole))
        position = hole_end
        if position >= end:
            break
        try:
            data[position - address :] = prog.read(position, end - position, physical)
            break
        except FaultError as next_fault:
            fault = next_fault
    return Bulk(data, missing)


def readable(
    prog: Program, address: int, size: int, granule: int, physical: bool, promised: int = 0
) -> bytes:
    """
    Read from *address* up to the first missing page of a range that is known to lack a page.

    :param size: Size of the range, in bytes.
    :param granule: Page size, in bytes; a page is present or missing as a whole.
    :param physical: Whether *address* is a physical address.
    :param promised: Number of bytes that are likely to be present; 0 if unknown.
    :return: The bytes before the first missing page; empty if the first page is missing.
    """
    # Granules are aligned, so the first granule may be partial.
    first = granule - address % granule

    def attempt(number: int) -> bytes | None:
        try:
            return bytes(prog.read(address, min(first + (number - 1) * granule, size), physical))
        except FaultError:
            return None

    best, good = b"", 0
    # Number of granules in the range. A read of all of them is known to fail.
    bad = 1 + -(-max(size - first, 0) // granule)
    step = 1 + max(promised - first, 0) // granule
    while bad - good > 1 or not good:
        number = max(min(good + step, bad - 1), 1)
        part = attempt(number)
        if part is not None:
            best, good, step = part, number, step * 2
        elif number == 1:
            break
        else:
            bad, step = number, max((number - good) // 2, 1)
    return best


def gather(prog: Program, addresses: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """
    Read one element of *dtype* at each of many addresses.

    Addresses that are close together are read in one piece.

    :param addresses: Virtual addresses: ``uint64``, shape ``(n,)``, in any order.
    :return: The elements (*dtype*, shape ``(n,)``), zero where they are not in the dump; and
        whether each element is in the dump (``bool``, shape ``(n,)``).
    """
    values = np.zeros(len(addresses), dtype)
    there = np.zeros(len(addresses), bool)
    if not len(addresses):
        return values, there
    order = np.argsort(addresses, kind="stable")
    ascending = addresses[order]
    # A page is in the dump as a whole or not at all, and reading a smaller gap is cheaper than
    # another read.
    cuts = np.flatnonzero(np.diff(ascending) > _GAP) + 1
    bounds = [0, *cuts.tolist(), len(order)]
    for first, last in itertools.pairwise(bounds):
        for low in range(first, last, _MOST_OF_GATHER):
            members = slice(low, min(low + _MOST_OF_GATHER, last))
            _gather_piece(prog, ascending[members], order[members], values, there)
    return values, there


def _gather_piece(
    prog: Program, addresses: Array, places: Array, values: Array, there: Array
) -> None:
    """
    Read the elements at *addresses* in one piece.

    :param addresses: ``uint64``, ascending.
    :param places: Index of each address in *values* and *there*.
    :param values: The elements are stored here.
    :param there: Whether each element is in the dump is stored here: ``bool``.
    """
    base, size = int(addresses[0]), values.dtype.itemsize
    length = int(addresses[-1]) - base + size
    if base + length > 1 << 64:
        return
    bulk = read_bulk(prog, base, length)
    data = np.frombuffer(bulk.data, np.uint8)
    offsets = (addresses - np.uint64(base)).astype(np.int64)
    every = np.ndarray(length - size + 1, values.dtype, data, strides=(1,))
    values[places] = every[offsets]
    whole = np.ones(len(places), bool)
    for hole, hole_size in bulk.missing:
        whole &= (offsets >= hole + hole_size) | (offsets + size <= hole)
    there[places] = whole
    values[places[~whole]] = 0


def read_array(prog: Program, address: int, dtype: np.dtype[Any], count: int) -> Array:
    """
    Read *count* elements of *dtype* at *address*.

    :return: Array of shape ``(count,)``.
    :raises FaultError: if any byte of the array is not in the dump
    """
    _check(address, count * dtype.itemsize)
    return np.frombuffer(prog.read(address, count * dtype.itemsize), dtype, count)


def read_word(prog: Program, address: int) -> int:
    """
    Read the ``unsigned long`` at *address*.

    :raises FaultError: if the word is not in the dump
    """
    return int(read_array(prog, address, word_dtype(prog), 1)[0])


def find_type(prog: Program, name: str) -> Type | None:
    """Find a C type by its name; return ``None`` if this kernel does not have the type."""
    try:
        return prog.type(name)
    except LookupError:
        return None


def enumerators(prog: Program, name: str) -> dict[str, int]:
    """
    Get the enumerators of an enum, in the order of their declaration.

    :param name: Name of the C type, such as ``enum pageflags``.
    :return: Name of the enumerator -> value; empty if this kernel does not have the enum.
    """
    type_ = find_type(prog, name)
    found = (type_.enumerators or ()) if type_ is not None else ()
    return {enumerator.name: enumerator.value for enumerator in found}


def find_object(prog: Program, name: str, filename: str | None = None) -> drgn.Object | None:
    """
    Find a variable of the kernel; return ``None`` if this kernel does not have the variable.

    :param filename: Source file that defines the variable, if the name is not unique.
    """
    try:
        found = prog.variable(name, filename) if filename is not None else prog[name]
    except (LookupError, drgn.ObjectAbsentError):
        return None
    # If the compiler optimized a static variable away, DWARF may still have its name.
    return None if found.absent_ else found


def symbol_address(prog: Program, name: str) -> int | None:
    """Get the address of an ELF symbol; return ``None`` if the kernel does not have the symbol."""
    try:
        return int(prog.symbol(name).address)
    except LookupError:
        return None


def has_member(type_: Type, name: str) -> bool:
    """Return whether the structure *type_* has a member *name*; ``a.b`` names a nested member."""
    try:
        _find_member(type_, name)
    except LookupError:
        return False
    return True


def _unaliased(type_: Type) -> Type:
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    return type_


def _find_member(type_: Type, path: str) -> tuple[int, Type, int | None]:
    bit_offset = 0
    bit_field_size = None
    for name in path.split("."):
        try:
            member = _unaliased(type_).member(name)
        except TypeError as error:
            raise LookupError(f"{type_.type_name()} has no members") from error
        bit_offset += member.bit_offset
        bit_field_size = member.bit_field_size
        type_ = member.type
    return bit_offset, _unaliased(type_), bit_field_size


def _scalar_dtype(type_: Type, order: str) -> str:
    if type_.kind == TypeKind.ENUM:
        return _scalar_dtype(_unaliased(type_.type), order)
    if type_.kind == TypeKind.POINTER:
        return f"{order}u{type_.size}"
    if type_.kind in (TypeKind.INT, TypeKind.BOOL):
        signed = type_.kind == TypeKind.INT and type_.is_signed
        return f"{order}{'i' if signed else 'u'}{type_.size}"
    if type_.kind == TypeKind.ARRAY:
        element = _unaliased(type_.type)
        if element.size == 1:
            return f"S{type_.length}"
        return f"({type_.length},){_scalar_dtype(element, order)}"
    raise PageOwnerError(f"no NumPy dtype for the C type {type_.type_name()}")


def struct_dtype(
    prog: Program,
    type_: Type,
    members: Iterable[str] | Mapping[str, str],
    *,
    base: int = 0,
    itemsize: int | None = None,
) -> np.dtype[np.void]:
    """
    Make a dtype of the C structure *type_*, with a field for each of *members*.

    The offsets and sizes of the fields are those in the dump's DWARF.

    :param members: Names of members, or field name -> path of the member (``a.b`` for a nested
        member). Members that the structure does not have in this kernel are left out.
    :param base: Offset of the structure from the start of an array element, in bytes.
    :param itemsize: Size of an array element, in bytes; by default, *base* plus the size of the
        structure.
    :raises PageOwnerError: if a member is a bit field or has no fixed-size type
    """
    type_ = _unaliased(type_)
    paths = members if isinstance(members, Mapping) else {name: name for name in members}
    order = byte_order(prog)
    names: list[str] = []
    formats: list[str] = []
    offsets: list[int] = []
    for name, path in paths.items():
        try:
            bit_offset, member_type, bit_field_size = _find_member(type_, path)
        except LookupError:
            continue
        if bit_field_size is not None or bit_offset % 8:
            raise PageOwnerError(f"{type_.type_name()}.{path} is a bit field")
        names.append(name)
        formats.append(_scalar_dtype(member_type, order))
        offsets.append(base + bit_offset // 8)
    return np.dtype(
        {
            "names": names,
            "formats": formats,
            "offsets": offsets,
            "itemsize": itemsize if itemsize is not None else base + type_.size,
        }
    )
