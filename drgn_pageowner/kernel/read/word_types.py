# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the type and the drgn expression of words: the member of the object that contains each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from drgn import Object
from drgn.helpers.linux.percpu import per_cpu

from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.user_tables import Mapping
from drgn_pageowner.kernel.read.heap import HeapReader
from drgn_pageowner.kernel.read.member_path import member_path, object_expression
from drgn_pageowner.kernel.read.target_expression import TargetExpressions
from drgn_pageowner.kernel.read.typed_places import TypedPlaces
from drgn_pageowner.model.heap import Heap, Word
from drgn_pageowner.model.types import HeapTypes

__all__ = ("WordTypes", "object_at", "word_at")

_NUMBERS = ("PFN", "physical address", "page table entry")
_INTEGERS = {4: "unsigned int", 8: "unsigned long long"}
"""Names of integer types by size in bytes."""


class WordTypes:
    """Adds the place, the type and the drgn expression to each :class:`Word` that was found."""

    def __init__(self, kernel: Kernel, heap: Heap, reader: HeapReader) -> None:
        self._kernel, self._heap = kernel, heap
        self._places: TypedPlaces | None = reader.typed
        self._targets = TargetExpressions(kernel)
        self._areas = {
            int(heap.inventory.record_of_row[area.rows[0]]): area.start
            for area in heap.inventory.areas
            if len(area.rows) and area.rows[0] >= 0
        }

    @property
    def types(self) -> HeapTypes | None:
        """The inferred types of the heap's nodes; ``None`` until they have been inferred."""
        return self._heap.typing.inferred if self._heap.typing is not None else None

    def add(self, word: Word, row: int, byte: int) -> Word:
        """
        Return *word* with place, type and expressions filled in, as far as they are known.

        :param row: Row of the page that contains the word.
        :param byte: Offset of the word in that page, in bytes.
        """
        word = replace(word, leads_to=self.name(word))
        types, places = self.types, self._places
        if types is None or places is None:
            return self._expressed(word, None)
        inside = byte % self._kernel.word.itemsize
        at = np.array([row], np.int64), np.array([byte - inside], np.int64)
        found, offsets = places.places(np.array([word.node], np.int64), *at)
        place, offset = int(found[0]), int(offsets[0])
        word = replace(word, place=place, offset=offset)
        number = int(types.type[place]) if offset >= 0 else -1
        if number < 0:
            return self._expressed(word, None)
        offset += inside
        if place >= self._heap.nodes:
            variable = place - self._heap.nodes
            return self._expressed(word, self._of_variable(places, word, variable, number, offset))
        return self._expressed(word, self._of_object(types, places, word, number, offset))

    def add_to_struct_page(self, word: Word, start: int) -> Word:
        """
        Return *word*, which is in a ``struct page``, with type and expressions filled in.

        :param start: Address of the ``struct page``.
        """
        word = replace(word, leads_to=self.name(word))
        assert word.address is not None
        type_ = self._kernel.prog.type("struct page")
        named = object_expression(self._kernel, type_, start, word.address - start)
        return self._expressed(word, named)

    def add_to_stack(self, word: Word) -> Word:
        """Return *word*, which is in a stack, with expressions and type of the target filled in."""
        return self._expressed(replace(word, leads_to=self.name(word)), None)

    def add_to_table(self, word: Word, mapping: Mapping) -> Word:
        """Return *word*, an entry of a page table of a process, with expressions filled in."""
        word = replace(word, expression=self._plain(word))
        if word.expression is None:
            return word
        return replace(word, target_expression=self._targets.of_mapping(mapping, word.expression))

    def _expressed(self, word: Word, named: tuple[str, str] | None) -> Word:
        """Return *word* with expressions; *named* is that of the word and its type, if known."""
        expression, type_ = named if named is not None else (self._plain(word), word.type)
        word = replace(word, expression=expression, type=type_)
        return replace(word, target_expression=self._targets.of(word))

    def _plain(self, word: Word) -> str | None:
        """Return the drgn expression for a word of unknown type; ``None`` for a register."""
        if word.address is None:
            return None
        name = "void *"
        if word.by in _NUMBERS:
            name = _INTEGERS.get(word.width or 0, "unsigned long")
        return f'Object(prog, "{name}", address={word.address:#x})'

    def name(self, word: Word) -> str | None:
        """Return the name of the type of the target, and the offset of the type if it is not 0."""
        if word.by == "struct page":
            return "struct page"
        if self.types is None or self._places is None:
            return None
        [target] = self._places.canonical(np.array([word.target])).tolist()
        number = int(self.types.type[target])
        if number < 0:
            return None
        name = self.types.table.layout(number).name
        origin = int(self.types.origin[target])
        return f"{name} +{origin:#x}" if origin else name

    def _of_variable(
        self, places: TypedPlaces, word: Word, variable: int, number: int, offset: int
    ) -> tuple[str, str] | None:
        type_ = places.types.type_of(number)
        path = member_path(type_, offset, word.width or self._kernel.word.itemsize)
        if path is None:
            return None
        name, address = places.variables.names[variable], int(places.addresses[variable])
        if not self._finds(name, address):
            return object_expression(self._kernel, type_, address, offset, word.width)
        return name + path, type_.type_name()

    def _finds(self, name: str, address: int) -> bool:
        """
        Return whether drgn evaluates the expression *name* to a variable at *address*.

        Only expressions for per-CPU variables are evaluated; for others the result is true.
        """
        if not name.startswith("per_cpu("):
            return True
        variable, _, cpu = name.removeprefix("per_cpu(").rpartition(", ")
        if not variable.startswith('prog["'):
            return False
        try:
            symbol = self._kernel.prog[variable.removeprefix('prog["').removesuffix('"]')]
            return bool(per_cpu(symbol, int(cpu.removesuffix(")"))).address_ == address)
        except DAMAGE as error:
            unless_mistaken(error)
            return False

    def _of_object(
        self, types: HeapTypes, places: TypedPlaces, word: Word, number: int, offset: int
    ) -> tuple[str, str] | None:
        assert word.address is not None
        origin = int(types.origin[word.place])
        inside = offset - origin
        if inside < 0:
            return None
        start = word.address - offset
        if word.place < self._heap.first_object:
            # The pages of a vmalloc area are not contiguous in the direct map.
            start = self._areas.get(word.place, start)
        type_ = places.types.type_of(number)
        layout = types.table.layout(number)
        base = start + origin
        if layout.repeat and layout.size:
            base += inside // layout.size * layout.size
            inside %= layout.size
        named = object_expression(self._kernel, type_, base, inside, word.width)
        return None if named is None else (named[0], layout.name)


def object_at(kernel: Kernel, reader: HeapReader, address: int) -> Object | None:
    """
    Get the object at an address with its inferred type.

    :param reader: Reader of a heap whose types were inferred.
    :return: Reference object; ``None`` if the type is unknown.
    """
    places, typing = reader.typed, reader.heap.typing
    types = typing.inferred if typing is not None else None
    if places is None or types is None:
        return None
    variable = places.variable_at(address)
    if variable is not None:
        return Object(kernel.prog, variable[1], address=variable[0])
    found, offsets = reader.resolver.targets_at(np.array([address], np.uint64))
    [place] = places.canonical(found).tolist()
    at = int(offsets[0])
    number = int(types.type[place]) if place >= 0 and at >= 0 else -1
    if number < 0:
        return None
    start = address - at + int(types.origin[place])
    layout = types.table.layout(number)
    if layout.repeat and layout.size:
        start = address - (address - start) % layout.size
    if not (layout.repeat or start <= address < start + max(layout.size, 1)):
        return None
    return Object(kernel.prog, places.types.type_of(number), address=start)


def word_at(kernel: Kernel, reader: HeapReader, address: int) -> tuple[str, str] | None:
    """
    Name the word at an address by the member of the object that it is part of.

    :param reader: Reader of a heap whose types were inferred.
    :return: A drgn expression for the word, and the name of the object's type; ``None`` if the type
        is unknown, or if the word is no member.
    """
    found = object_at(kernel, reader, address)
    if found is None or found.address_ is None:
        return None
    offset = address - int(found.address_)
    word = kernel.word.itemsize
    return object_expression(kernel, found.type_, int(found.address_), offset // word * word)
