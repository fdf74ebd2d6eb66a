# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write drgn's types and variables as DWARF 4: one compilation unit, without duplicates."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from drgn import Object, Qualifiers, Type, TypeKind, TypeMember

__all__ = ("DwarfWriter",)

# Codes from figure 18 and the following ones of "DWARF Debugging Information Format", version 4.
_CHILDREN = {True: 1, False: 0}
(_ARRAY, _CLASS, _ENUMERATION, _PARAMETER, _MEMBER, _POINTER, _UNIT, _STRUCTURE, _SUBROUTINE,
 _TYPEDEF, _UNION, _VARIADIC, _SUBRANGE, _BASE, _CONST, _ENUMERATOR, _VARIABLE, _VOLATILE,
 _RESTRICT, _SUBPROGRAM, _ATOMIC) = (
    0x01, 0x02, 0x04, 0x05, 0x0D, 0x0F, 0x11, 0x13, 0x15, 0x16, 0x17, 0x18, 0x21, 0x24, 0x26, 0x28,
    0x34, 0x35, 0x37, 0x2E, 0x47,
)  # fmt: skip
(_LOCATION, _NAME, _BYTE_SIZE, _BIT_SIZE, _STMT_LIST, _LOW_PC, _LANGUAGE, _CONST_VALUE, _PROTOTYPED,
 _COUNT, _MEMBER_LOCATION, _DECL_FILE, _DECLARATION, _ENCODING, _TYPE, _DATA_BIT_OFFSET) = (
    0x02, 0x03, 0x0B, 0x0D, 0x10, 0x11, 0x13, 0x1C, 0x27, 0x37, 0x38, 0x3A, 0x3C, 0x3E, 0x49, 0x6B,
)  # fmt: skip
(_ADDR, _EXPRLOC, _SDATA, _STRP, _UDATA, _REF4, _SEC_OFFSET, _FLAG_PRESENT) = (
    0x01, 0x18, 0x0D, 0x0E, 0x0F, 0x13, 0x17, 0x19,
)  # fmt: skip
_OP_ADDR = 0x03
_LANG_C99 = 0x0C
_ATE = {"boolean": 2, "float": 4, "signed": 5, "signed_char": 6, "unsigned": 7, "unsigned_char": 8}
_VERSION = 4

_COMPOUND = {
    TypeKind.STRUCT: _STRUCTURE,
    TypeKind.UNION: _UNION,
    TypeKind.CLASS: _CLASS,
    TypeKind.ENUM: _ENUMERATION,
}
_QUALIFIERS = (
    (Qualifiers.CONST, _CONST),
    (Qualifiers.VOLATILE, _VOLATILE),
    (Qualifiers.RESTRICT, _RESTRICT),
    (Qualifiers.ATOMIC, _ATOMIC),
)

_Attribute = tuple[int, int, "int | str | bytes"]
"""Name, form and value of an attribute; the value of a ``DW_FORM_ref4`` is a type number."""


class DwarfWriter:
    """
    A compilation unit, to which types, variables and functions are added.

    Structures of the same name and size whose members have the same names and offsets are written
    once, even if they are declared in several files; so are all other types with the same C
    declaration.
    """

    def __init__(self, order: str, address_size: int) -> None:
        """
        :param order: Byte order as :mod:`struct` writes it: ``"<"`` or ``">"``.
        :param address_size: Size of an address, in bytes.
        """
        self._order, self._address_size = order, address_size
        self._strings, self._string_at = bytearray(b"\0"), {"": 0}
        self._abbreviations: dict[tuple[int, bool, tuple[tuple[int, int], ...]], int] = {}
        self._files: dict[str, int] = {}
        self._info = bytearray(11)
        self._fixups: list[tuple[int, int]] = []
        """Position of a reference in :attr:`_info`, and number of the type that it refers to."""
        self._numbers: dict[object, int] = {}
        self._by_pointer: dict[tuple[int, int], int] = {}
        self._types: list[Type] = []
        self._placed: dict[int, int] = {}
        """Number of a type -> offset of its entry in :attr:`_info`."""
        self._open: list[int] = []
        """Numbers of types that were referred to, and may not have been written yet."""
        self._declared: set[str] = set()
        self._entry(
            _UNIT,
            True,
            [(_LANGUAGE, _UDATA, _LANG_C99), (_STMT_LIST, _SEC_OFFSET, 0)],
        )

    def add_type(self, type_: Type, file: str | None = None) -> None:
        """
        Add a type, so that it can be looked up by name.

        :param file: The source file that declares it, if the name is not unique.
        """
        number = self._number(type_)
        if file is not None:
            # Write it even if an equal type of another file has the same number.
            self._write(type_, file)
        elif number not in self._placed:
            self._placed[number] = len(self._info)
            self._write(type_, None)

    def add_variable(self, name: str, variable: Object, address: int, file: str | None) -> None:
        """
        Add a variable.

        :param address: Address in the vmlinux, without KASLR.
        :param file: The source file that defines it, if the name is not unique.
        """
        location = bytes([_OP_ADDR]) + self._address(address)
        self._entry(
            _VARIABLE,
            False,
            [
                (_NAME, _STRP, name),
                *self._of_file(file),
                *self._reference(variable.type_),
                (_LOCATION, _EXPRLOC, location),
            ],
        )

    def add_function(self, name: str, function: Object, address: int) -> None:
        """
        Add a function.

        :param address: Address in the vmlinux, without KASLR.
        """
        attributes: list[_Attribute] = [
            (_NAME, _STRP, name),
            (_LOW_PC, _ADDR, self._address(address)),
        ]
        self._write_function(function.type_, _SUBPROGRAM, attributes)

    def _address(self, address: int) -> bytes:
        size = self._address_size
        # The address less the KASLR offset may be negative for per-CPU variables of x86-64, which
        # began at 0 before Linux kernel commit 9d7de2aa8b41 ("x86/percpu/64: Use relative percpu
        # offsets") (in v6.15).
        within = address & (1 << 8 * size) - 1
        return within.to_bytes(size, "little" if self._order == "<" else "big")

    def write_references(self) -> set[str]:
        """
        Write all types that were referred to.

        :return: The names of structures, unions and enums that were written as declarations,
            because the types that were added have no definitions of them.
        """
        while self._open:
            number = self._open.pop()
            if number not in self._placed:
                self._placed[number] = len(self._info)
                self._write(self._types[number], None)
        declared, self._declared = self._declared, set()
        return declared

    def sections(self) -> dict[str, bytes]:
        """Return the contents of every section, by its name; nothing can be added afterwards."""
        self.write_references()
        self._info.append(0)
        for position, number in self._fixups:
            struct.pack_into(self._order + "I", self._info, position, self._placed[number])
        struct.pack_into(self._order + "IHIB", self._info, 0, len(self._info) - 4, _VERSION, 0,
                         self._address_size)  # fmt: skip
        return {
            ".debug_info": bytes(self._info),
            ".debug_abbrev": self._abbrev(),
            ".debug_str": bytes(self._strings),
            ".debug_line": self._line(),
        }

    # --- sections -----------------------------------------------------------------------------

    def _abbrev(self) -> bytes:
        out = bytearray()
        for (tag, children, attributes), code in self._abbreviations.items():
            out += _uleb(code) + _uleb(tag) + bytes([_CHILDREN[children]])
            for name, form in attributes:
                out += _uleb(name) + _uleb(form)
            out += b"\0\0"
        return bytes(out + b"\0")

    def _line(self) -> bytes:
        """Return a line table without lines: DWARF entries refer to its list of file names."""
        # minimum_instruction_length, maximum_operations_per_instruction, default_is_stmt,
        # line_base, line_range, opcode_base, and no directories.
        header = bytes([1, 1, 1, 0, 1, 1]) + b"\0"
        for file in self._files:
            header += file.encode() + b"\0" + bytes(3)
        header += b"\0"
        body = struct.pack(self._order + "HI", _VERSION, len(header)) + header
        return struct.pack(self._order + "I", len(body)) + body

    # --- entries ------------------------------------------------------------------------------

    def _entry(self, tag: int, children: bool, attributes: Sequence[_Attribute]) -> None:
        key = (tag, children, tuple((name, form) for name, form, _ in attributes))
        self._info += _uleb(self._abbreviations.setdefault(key, len(self._abbreviations) + 1))
        for _, form, value in attributes:
            self._value(form, value)

    def _value(self, form: int, value: int | str | bytes) -> None:
        if isinstance(value, str):
            value = self._string(value)
        if isinstance(value, bytes):
            self._info += (_uleb(len(value)) if form == _EXPRLOC else b"") + value
        elif form == _REF4:
            self._fixups.append((len(self._info), value))
            self._open.append(value)
            self._info += bytes(4)
        elif form in (_STRP, _SEC_OFFSET):
            self._info += struct.pack(self._order + "I", value)
        elif form == _UDATA:
            self._info += _uleb(value)
        elif form == _SDATA:
            self._info += _sleb(value)

    def _string(self, text: str) -> int:
        place = self._string_at.get(text)
        if place is None:
            place = self._string_at[text] = len(self._strings)
            self._strings += text.encode(errors="surrogateescape") + b"\0"
        return place

    def _of_file(self, file: str | None) -> list[_Attribute]:
        if file is None:
            return []
        return [(_DECL_FILE, _UDATA, self._files.setdefault(file, len(self._files) + 1))]

    def _reference(self, type_: Type) -> list[_Attribute]:
        """Return the attributes of an entry that refer to its type: an empty list for ``void``."""
        if type_.kind == TypeKind.VOID and not type_.qualifiers:
            return []
        return [(_TYPE, _REF4, self._number(type_))]

    # --- types --------------------------------------------------------------------------------

    def _number(self, type_: Type) -> int:
        """Return the number of a type. Equal types have the same number."""
        place = (int(type_._ptr), int(type_.qualifiers.value))
        number = self._by_pointer.get(place)
        if number is None:
            key = self._key(type_)
            number = self._numbers.get(key)
            if number is None:
                number = self._numbers[key] = len(self._types)
                self._types.append(type_)
            self._by_pointer[place] = number
        return number

    def _key(self, type_: Type) -> object:
        """Return a key that is the same for types that are written once."""
        kind = type_.kind
        if type_.qualifiers:
            return "qualified", type_.qualifiers, self._number(type_.unqualified())
        if kind in _COMPOUND:
            if not type_.is_complete():
                return kind, type_.tag
            return self._compound_key(type_)
        if kind == TypeKind.POINTER:
            return kind, type_.size, self._number(type_.type)
        if kind == TypeKind.TYPEDEF:
            return kind, type_.name, self._number(type_.type)
        if kind == TypeKind.ARRAY:
            return kind, type_.length, self._number(type_.type)
        if kind == TypeKind.FUNCTION:
            parameters = tuple(self._number(one.type) for one in type_.parameters)
            return kind, self._number(type_.type), parameters, type_.is_variadic
        if kind == TypeKind.VOID:
            return kind
        return kind, type_.name, type_.size, kind == TypeKind.INT and type_.is_signed

    def _compound_key(self, type_: Type) -> object:
        kind = type_.kind
        if kind == TypeKind.ENUM:
            return kind, type_.tag, type_.type.size, tuple(map(tuple, type_.enumerators or ()))
        members = type_.members or ()
        if type_.tag is not None:
            places = tuple((member.name, member.bit_offset) for member in members)
            return kind, type_.tag, type_.size, places
        return kind, type_.size, tuple(self._member_key(member) for member in members)

    def _member_key(self, member: TypeMember) -> object:
        return member.name, member.bit_offset, member.bit_field_size, self._number(member.type)

    def _write(self, type_: Type, file: str | None) -> None:
        kind = type_.kind
        if type_.qualifiers:
            self._write_qualified(type_)
        elif kind in _COMPOUND:
            self._write_compound(type_, file)
        elif kind == TypeKind.POINTER:
            size = (_BYTE_SIZE, _UDATA, int(type_.size or 0))
            self._entry(_POINTER, False, [size, *self._reference(type_.type)])
        elif kind == TypeKind.TYPEDEF:
            name = (_NAME, _STRP, type_.name)
            self._entry(_TYPEDEF, False,
                        [name, *self._of_file(file), *self._reference(type_.type)])  # fmt: skip
        elif kind == TypeKind.ARRAY:
            self._entry(_ARRAY, True, self._reference(type_.type))
            count = [] if type_.length is None else [(_COUNT, _UDATA, int(type_.length))]
            self._entry(_SUBRANGE, False, count)
            self._info.append(0)
        elif kind == TypeKind.FUNCTION:
            self._write_function(type_, _SUBROUTINE, [])
        elif kind == TypeKind.VOID:
            # In DWARF, void has no entry; this entry makes it possible to look up "void".
            self._entry(_BASE, False, [(_NAME, _STRP, "void"), (_BYTE_SIZE, _UDATA, 0)])
        else:
            self._write_base(type_)

    def _write_qualified(self, type_: Type) -> None:
        """Write every qualifier as an entry that refers to the next one."""
        tags = [tag for qualifier, tag in _QUALIFIERS if type_.qualifiers & qualifier]
        inner = self._reference(type_.unqualified())
        for tag in tags[:-1]:
            # The next entry begins where this one ends, so the reference -1 is replaced by that
            # offset.
            self._entry(tag, False, [(_TYPE, _REF4, -1)])
            self._fixups.pop()
            self._open.pop()
            struct.pack_into(self._order + "I", self._info, len(self._info) - 4, len(self._info))
        self._entry(tags[-1], False, inner)

    def _write_base(self, type_: Type) -> None:
        if type_.kind == TypeKind.BOOL:
            encoding = "boolean"
        elif type_.kind == TypeKind.FLOAT:
            encoding = "float"
        else:
            encoding = "signed" if type_.is_signed else "unsigned"
            encoding += "_char" if type_.name.endswith("char") else ""
        self._entry(
            _BASE,
            False,
            [
                (_NAME, _STRP, type_.name),
                (_BYTE_SIZE, _UDATA, int(type_.size or 0)),
                (_ENCODING, _UDATA, _ATE[encoding]),
            ],
        )

    def _write_function(self, type_: Type, tag: int, attributes: list[_Attribute]) -> None:
        children = bool(type_.parameters) or type_.is_variadic
        attributes = [(_PROTOTYPED, _FLAG_PRESENT, 1), *attributes]
        self._entry(tag, children, [*attributes, *self._reference(type_.type)])
        for parameter in type_.parameters:
            self._entry(_PARAMETER, False, self._reference(parameter.type))
        if type_.is_variadic:
            self._entry(_VARIADIC, False, [])
        if children:
            self._info.append(0)

    def _write_compound(self, type_: Type, file: str | None) -> None:
        tag = _COMPOUND[type_.kind]
        attributes: list[_Attribute] = []
        if type_.tag is not None:
            attributes.append((_NAME, _STRP, type_.tag))
        if not type_.is_complete():
            self._declared.add(str(type_.tag))
            self._entry(tag, False, [*attributes, (_DECLARATION, _FLAG_PRESENT, 1)])
            return
        attributes += self._of_file(file)
        if type_.kind == TypeKind.ENUM:
            self._write_enum(type_, attributes)
            return
        attributes.append((_BYTE_SIZE, _UDATA, int(type_.size or 0)))
        members = type_.members or ()
        self._entry(tag, bool(members), attributes)
        for member in members:
            self._write_member(member)
        if members:
            self._info.append(0)

    def _write_member(self, member: TypeMember) -> None:
        attributes: list[_Attribute] = []
        if member.name is not None:
            attributes.append((_NAME, _STRP, member.name))
        attributes += self._reference(member.type)
        if member.bit_field_size is not None:
            attributes.append((_BIT_SIZE, _UDATA, int(member.bit_field_size)))
            attributes.append((_DATA_BIT_OFFSET, _UDATA, member.bit_offset))
        else:
            attributes.append((_MEMBER_LOCATION, _UDATA, member.bit_offset // 8))
        self._entry(_MEMBER, False, attributes)

    def _write_enum(self, type_: Type, attributes: list[_Attribute]) -> None:
        base = type_.type
        size = (_BYTE_SIZE, _UDATA, int(base.size or 0))
        self._entry(_ENUMERATION, True, [*attributes, size, *self._reference(base)])
        for enumerator in type_.enumerators or ():
            form = _SDATA if enumerator.value < 0 else _UDATA
            value = (_CONST_VALUE, form, enumerator.value)
            self._entry(_ENUMERATOR, False, [(_NAME, _STRP, enumerator.name), value])
        self._info.append(0)


def _uleb(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sleb(value: int) -> bytes:
    out = bytearray()
    while not -0x40 <= value < 0x40:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)
