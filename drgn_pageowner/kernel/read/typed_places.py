# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the places of a heap's pointers: nodes and variables, and the offsets in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from drgn import Type

from drgn_pageowner.kernel.dump.bulk import byte_order, gather, symbol_address
from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.slab_track import object_addresses
from drgn_pageowner.kernel.linux.translate import (
    direct_map,
    direct_map_end,
    image_range,
    kernel_phys,
)
from drgn_pageowner.kernel.read.inventory import InventoryReader
from drgn_pageowner.kernel.read.percpu import PerCpuNodes
from drgn_pageowner.kernel.read.places import (
    AllocationPages,
    Intervals,
    PointerList,
    split_at_pages,
)
from drgn_pageowner.kernel.read.pointers import Resolver
from drgn_pageowner.kernel.read.types import read_types
from drgn_pageowner.kernel.read.variables import find_variables
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import AreaKind, Inventory
from drgn_pageowner.model.types import Typing, Variables

__all__ = ("TypedPlaces",)


class TypedPlaces:
    """Maps words of memory to places (nodes and variables) and offsets in them."""

    def __init__(
        self,
        kernel: Kernel,
        reader: InventoryReader,
        inventory: Inventory,
        pages: AllocationPages,
        percpu: PerCpuNodes,
        resolver: Resolver,
        source_of: Callable[[Array], Array],
        nodes: int,
        boot: int,
    ) -> None:
        """
        :param source_of: Function that takes rows of pages and returns the node of the heap that
            each belongs to; less than 0 for none.
        :param nodes: Number of nodes, which is also the number of the first variable's place.
        :param boot: The node of boot memory.
        """
        self._pages, self._percpu, self._resolver = pages, percpu, resolver
        self._slabs = inventory.slabs
        self._kernel, self._inventory = kernel, inventory
        self._rows_of = reader.pages
        self._nodes, self._boot = nodes, boot
        self._size = inventory.memory.pages.facts.page_size
        self._records = resolver.first_object
        slabs = inventory.slabs
        sizes = np.zeros(len(slabs.caches), np.int64)
        sizes[slabs.cache] = slabs.size
        self.types = read_types(kernel, slabs.caches, sizes)
        self._find_variables(kernel, reader, source_of)

    def _find_variables(
        self, kernel: Kernel, reader: InventoryReader, source_of: Callable[[Array], Array]
    ) -> None:
        found = find_variables(kernel, self.types)
        number, address, size = found.columns()
        in_page = (address % np.uint64(self._size)).astype(np.int64)
        which, page, start, length = split_at_pages(in_page, size, self._size)
        first = address - in_page.astype(np.uint64)
        rows = self._rows(
            kernel, reader, first[which] + page.astype(np.uint64) * np.uint64(self._size)
        )
        # Ignore variables in pages of constants, which are not scanned.
        rows[(rows >= 0) & (source_of(rows) == -1)] = -1
        self._piece_of = which
        self._piece_at = page * self._size + start - in_page[which]
        self._intervals = Intervals(rows, start, length, self._size)
        node = np.full(len(number), -1, np.int64)
        good = np.flatnonzero(rows >= 0)[::-1]
        node[which[good]] = self._node_of(rows[good], start[good], source_of(rows[good]))
        self.variables = Variables(found.names, number, node.astype(np.int32))
        self.addresses = address
        """``uint64``: virtual address of each variable."""
        self._sizes = size

    def _rows(self, kernel: Kernel, reader: InventoryReader, addresses: Array) -> Array:
        """Get the rows of the pages at *addresses*, in any mapping: ``int64``; -1 for none."""
        rows, of_page = self._resolver.rows(addresses)
        rows[of_page] = -1
        image = image_range(kernel)
        if image is None:
            return rows
        try:
            phys = kernel_phys(kernel, image[0])
        except (NotImplementedError, *DAMAGE) as error:
            unless_mistaken(error)
            return rows
        # The image is physically contiguous.
        inside = (addresses >= np.uint64(image[0])) & (addresses < np.uint64(image[1]))
        pfns = (addresses[inside] - np.uint64(image[0]) + np.uint64(phys)) // np.uint64(self._size)
        rows[inside] = reader.pages.rows(pfns.astype(np.int64))
        return rows

    def _node_of(self, rows: Array, offset: Array, node: Array) -> Array:
        in_chunk = np.flatnonzero(self._percpu.has(rows))
        node[in_chunk] = self._percpu.at(rows[in_chunk], offset[in_chunk], self._boot)
        return node

    def variable_at(self, address: int) -> tuple[int, Type] | None:
        """Get address and type of the variable that contains *address*; ``None`` if none does."""
        inside = np.uint64(address) - self.addresses < self._sizes.astype(np.uint64)
        found = np.flatnonzero(inside)
        if not len(found):
            return None
        variable = int(found[0])
        number = int(self.variables.type[variable])
        return int(self.addresses[variable]), self.types.type_of(number)

    def canonical(self, target: Array) -> Array:
        """
        Replace each record among nodes by the first record of its allocation.

        :param target: Nodes of the heap.
        :return: ``int64``, in the shape of *target*.
        """
        result = target.astype(np.int64)
        records = np.flatnonzero((result >= 0) & (result < self._records))
        result[records] = self._pages.first_record(result[records])
        return result

    def places(self, node: Array, row: Array, byte: Array) -> tuple[Array, Array]:
        """
        Find the places of words.

        :param node: ``int64``: the node that each word is part of, or -1.
        :param row: ``int64``: row of the page that contains the word.
        :param byte: ``int64``: offset of the word in that page, in bytes.
        :return: ``int64``: place of each word; and the offset of the word in its place, in bytes,
            or -1 if unknown.
        """
        place = self.canonical(node)
        offset = np.full(len(node), -1, np.int64)
        of_record = np.flatnonzero((node >= 0) & (node < self._records))
        page = self._pages.page_of_row[row[of_record]].astype(np.int64)
        offset[of_record] = page * self._size + byte[of_record]
        slabs = self._slabs
        first_percpu = self._records + len(slabs)
        of_object = np.flatnonzero((node >= self._records) & (node < first_percpu))
        if len(of_object):
            objects = node[of_object] - self._records
            slab = slabs.slab_of(objects)
            inside = (row[of_object] - slabs.row[slab]) * self._size + byte[of_object]
            start = slabs.first[slab] + (objects - slabs.start[slab]) * slabs.stride[slab]
            offset[of_object] = inside - start
        in_chunk = np.flatnonzero(node >= first_percpu)
        if len(in_chunk):
            offset[in_chunk] = self._percpu.inside(row[in_chunk], byte[in_chunk], node[in_chunk])
        piece, inside = self._intervals.find(row, byte)
        known = np.flatnonzero((piece >= 0) & (node >= 0))
        place[known] = self._piece_of[piece[known]] + self._nodes
        offset[known] = inside[known] + self._piece_at[piece[known]]
        return place, offset

    def typing(self, pointers: PointerList, allocated: Callable[[Array], Array]) -> Typing:
        """
        Return the data for inferring types.

        :param allocated: Function that returns which nodes are not free slab objects.
        """

        def is_good(place: Array, target: Array) -> Array:
            return allocated(np.minimum(place, self._nodes - 1)) & allocated(target)

        kept = pointers.sorted(is_good)
        return Typing(self.types, self.variables, kept, self.read, self._code())

    def _code(self) -> Array:
        """Return where the code of the kernel and of modules is: ``uint64``, shape ``(n, 2)``."""
        found = [
            (area.start, area.start + area.size)
            for area in self._inventory.areas
            if area.kind == AreaKind.MODULE
        ]
        start, end = (symbol_address(self._kernel.prog, name) for name in ("_stext", "_etext"))
        if start is None or end is None:
            # Without the kernel's own code, most functions are unknown.
            found = []
        else:
            found.append((start, end))
        return np.array(found, np.uint64).reshape(-1, 2)

    def read(self, place: Array, offset: Array, size: int) -> tuple[Array, Array]:
        """
        Read one unsigned integer in each place: a
        :class:`~drgn_pageowner.model.types.MemberReader`.

        Integers in per-CPU allocations are not read, because each allocation has several copies.
        """
        address, known = self._addresses(place)
        values = np.zeros(len(place), np.int64)
        there = np.zeros(len(place), bool)
        dtype = np.dtype(f"{byte_order(self._kernel.prog)}u{size}")
        chosen = np.flatnonzero(known)
        at = address[chosen] + offset[chosen].astype(np.uint64)
        found, good = gather(self._kernel.prog, at, dtype)
        values[chosen], there[chosen] = found.astype(np.int64), good
        return values, there

    def _addresses(self, place: Array) -> tuple[Array, Array]:
        """Return the virtual address of each place (``uint64``), and whether it is known."""
        result = np.zeros(len(place), np.uint64)
        variable = np.flatnonzero(place >= self._nodes)
        result[variable] = self.addresses[place[variable] - self._nodes]
        first_percpu = self._records + len(self._slabs)
        objects = np.flatnonzero((place >= self._records) & (place < first_percpu))
        if len(objects):
            mine = place[objects] - self._records
            result[objects] = object_addresses(self._kernel, self._rows_of, self._slabs, mine)
        records = np.flatnonzero(place < self._records)
        if len(records):
            result[records] = self._record_addresses()[place[records]]
        return result, result > 0

    def _record_addresses(self) -> Array:
        """
        Return the virtual address of each record's memory: ``uint64``.

        :return: The address in the direct map; the start of the vmalloc area if the record is the
            first of an area; 0 for HIGHMEM.
        """
        assert self._inventory.records is not None
        direct = direct_map(self._kernel)
        pfns = np.asarray(self._inventory.records["pfn"]).astype(np.uint64)
        result: Array = pfns * np.uint64(self._size) + np.uint64(direct)
        result[result >= np.uint64(direct_map_end(self._kernel))] = 0
        for area in self._inventory.areas:
            if len(area.rows) and area.rows[0] >= 0:
                first = int(self._inventory.record_of_row[area.rows[0]])
                if first >= 0:
                    result[first] = area.start
        return result
