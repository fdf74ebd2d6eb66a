# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make drgn expressions for words in variables and objects, from the members of their types."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Type, TypeKind, sizeof

from drgn_pageowner.kernel.dump.bulk import find_type
from drgn_pageowner.kernel.dump.kernel import Kernel

__all__ = ("member_path", "object_expression", "unaliased")

_STRUCTURES = (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS)
# Maximum plausible depth of nested structures and arrays.
_DEEPEST = 32


def member_path(type_: Type, offset: int, word: int) -> str | None:
    """
    Find the member of a type at an offset.

    In a union, the first alternative with a pointer at the offset is preferred, then the first one
    with an integer of the size of a word.

    :param offset: Offset of the word in the type, in bytes.
    :param word: Size of a word, in bytes.
    :return: Member access to append to an object in a drgn expression:
        ``".sk_receive_queue.next"``, ``"[3]"``; ``""`` if the type itself is a word; ``None`` if
        no pointer or integer of the size of a word begins at the offset.
    """
    found = _paths(type_, offset, word, _DEEPEST)
    return min(found)[1] if found else None


def _paths(type_: Type, offset: int, word: int, depth: int) -> list[tuple[int, str]]:
    """Return rank (lower is better) and path of each member that begins at the offset."""
    type_ = unaliased(type_)
    if not depth:
        return []
    if type_.kind in _STRUCTURES:
        found = list(_of_members(type_, offset, word, depth))
        return sorted(found, key=lambda one: one[0])[:1]
    if type_.kind == TypeKind.ARRAY:
        size = _length(type_.type, 0)
        inner = _paths(type_.type, offset % size, word, depth - 1) if size else []
        return [(rank, f"[{offset // size}]{path}") for rank, path in inner]
    if offset:
        return []
    if type_.kind == TypeKind.POINTER:
        return [(0, "")]
    return [(1, "")] if type_.kind == TypeKind.INT and type_.size == word else []


def _of_members(type_: Type, offset: int, word: int, depth: int) -> Iterator[tuple[int, str]]:
    for member in type_.members or ():
        if member.bit_field_size is not None or member.bit_offset % 8:
            continue
        inside = offset - member.bit_offset // 8
        if 0 <= inside < max(_length(member.type, inside), 1):
            # Members of an anonymous structure or union are accessed without its name.
            name = f".{member.name}" if member.name is not None else ""
            for rank, path in _paths(member.type, inside, word, depth - 1):
                yield rank, name + path


def _length(type_: Type, needed: int) -> int:
    """Return the size of a type in bytes; for an array of unknown length, ``needed + 1``."""
    plain = unaliased(type_)
    if plain.kind == TypeKind.ARRAY and not plain.length:
        return needed + 1
    try:
        return int(sizeof(plain))
    except TypeError:
        return 0


def unaliased(type_: Type) -> Type:
    """Strip qualifiers and typedefs."""
    type_ = type_.unqualified()
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type.unqualified()
    return type_


def object_expression(
    kernel: Kernel, type_: Type, address: int, offset: int, width: int | None = None
) -> tuple[str, str] | None:
    """
    Make a drgn expression for a word in an object.

    :param address: Virtual address of the object.
    :param offset: Offset of the word in the object, in bytes.
    :param width: Size of the word in bytes; by default, that of an address.
    :return: The expression, and the name of the type; ``None`` if the word is not a member, or if
        drgn finds a different type by that name.
    """
    word = width or kernel.word.itemsize
    path = member_path(type_, offset, word)
    if path is None:
        return None
    name = type_.type_name()
    try:
        known = find_type(kernel.prog, name)
    except SyntaxError:
        # The name of an anonymous structure cannot be looked up.
        return None
    if known is None or sizeof(known) != sizeof(type_):
        return None
    if member_path(known, offset, word) != path:
        return None
    return f'Object(prog, "{name}", address={address:#x}){path}', name
