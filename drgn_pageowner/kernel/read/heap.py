# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a :class:`~drgn_pageowner.model.heap.Heap` in one pass over kernel memory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from drgn import FaultError, Object

from drgn_pageowner.kernel.dump.bulk import (
    find_object,
    read_bulk,
    symbol_address,
    words,
)
from drgn_pageowner.kernel.dump.damage import suppress_damage
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.parallel import at_once, in_order, shared_empty
from drgn_pageowner.kernel.linux.arch import arch_of
from drgn_pageowner.kernel.linux.ioport import crash_kernel
from drgn_pageowner.kernel.linux.irq_gic_v3_its import its_tables
from drgn_pageowner.kernel.linux.percpu import cpu_variable, read_chunks
from drgn_pageowner.kernel.linux.sections import Section, find_sections
from drgn_pageowner.kernel.linux.topology import possible_cpus
from drgn_pageowner.kernel.linux.user_tables import read_user_tables
from drgn_pageowner.kernel.linux.vmalloc import TaskStack
from drgn_pageowner.kernel.read.allocations import read_allocations
from drgn_pageowner.kernel.read.bookkeeping import HiddenParts, find_bookkeeping
from drgn_pageowner.kernel.read.inventory import InventoryReader
from drgn_pageowner.kernel.read.numbers import Numbers
from drgn_pageowner.kernel.read.percpu import PerCpuNodes
from drgn_pageowner.kernel.read.places import AllocationPages, PointerList
from drgn_pageowner.kernel.read.pointers import Resolver, objects_at
from drgn_pageowner.kernel.read.typed_places import TypedPlaces
from drgn_pageowner.model.arrays import (
    Array,
    Growing,
    among,
    ascending,
    equals,
    kept_rows,
    packed_pairs,
    rows_among,
    slices,
    unpacked_pairs,
)
from drgn_pageowner.model.heap import (
    PROCESS_PAGES,
    Heap,
    Inventory,
    Metadata,
    record_of_row,
)
from drgn_pageowner.model.pages import FREE_STATES, NO_ZONE, Pages, PageState
from drgn_pageowner.model.scratch import large_empty
from drgn_pageowner.model.threads import in_threads
from drgn_pageowner.progress import progress

__all__ = ("HeapReader",)

T = TypeVar("T")

_CHUNK_PAGES = 2048
_IMAGE, _BOOT, _UNRECORDED, _PAGES, _SLABS = range(5)
# Symbols of every architecture's linker script around constant data.
_CONSTANTS = (
    ("_stext", "_etext"),
    ("__start_rodata", "__start_ro_after_init"),
    ("__end_ro_after_init", "__end_rodata"),
)
_ROOTS = ("kernel image", "boot memory", "pages without a record", PROCESS_PAGES,
          "slab bookkeeping")  # fmt: skip
_SCANNED = (PageState.RESERVED, PageState.KERNEL, PageState.NOREF, PageState.LARGE_KMALLOC,
            PageState.SLAB, PageState.NETPP)  # fmt: skip
_VMCOREINFO = b"OSRELEASE="
_IN_SLAB, _IN_CHUNK = -2, -3
"""Results of :meth:`HeapReader.source_of` for pages that contain several nodes."""
# Kinds of pages by the node that they belong to; _OF_ROOT + i is of root i.
_OF_RECORD, _UNSCANNED, _OF_SLAB, _OF_CHUNK, _OF_ROOT = range(5)
_OWNED = (PageState.ANON, PageState.FILE, PageState.SHMEM, PageState.HUGETLB)


class _Found:
    """What a scan of memory has found."""

    def __init__(self) -> None:
        self.edges = Growing(np.uint64)
        """Pointers between nodes: :func:`packed_pairs` of both nodes. If types were requested, only
        those whose offset in the node is unknown; the others are in :attr:`pointers`."""
        self.numbers = tuple(Growing(np.int32) for _ in range(3))
        """PFNs: node, record and offset in the node."""
        self.pointers = PointerList()
        """Pointers with their places, if types were requested."""
        self.left: list[Array] = []
        """Records that nothing refers to, although they are not lost: ``int64``."""
        self.unlisted: list[Array] = []
        """Nodes whose ``struct page`` has never been on a list: ``int64``."""

    def add(self, later: _Found) -> None:
        """Add what a later scan has found."""
        self.edges.extend(later.edges)
        for column, more in zip(self.numbers, later.numbers, strict=True):
            column.extend(more)
        self.pointers.extend(later.pointers)
        self.left += later.left
        self.unlisted += later.unlisted


class HeapReader:
    """
    Reader of a :class:`~drgn_pageowner.model.heap.Heap`, which can also locate words in it later.
    """

    def __init__(
        self, kernel: Kernel, reader: InventoryReader | None = None, *, types: bool = False
    ) -> None:
        """
        Read the nodes of the heap and the pointers between them.

        :param reader: Reader of the inventory, if it was already read.
        :param types: Whether to read the data for inferring the types of nodes.
        """
        reader = reader or InventoryReader(kernel)
        self.reader = reader
        self._kernel = reader.kernel
        inventory = reader.inventory
        self._mapped = self._left = _no_nodes()
        """Records that are mapped into processes, and records in areas of unloaded modules. Filled
        in only if there are no page_owner records."""
        self._unrecorded = inventory.records is None
        self._found = _Found()
        if self._unrecorded:
            inventory = self._without_records(inventory)
        records = inventory.records
        assert records is not None
        self._inventory = inventory
        self._pages: Pages = reader.pages
        self._size = reader.pages.facts.page_size
        self.word = reader.kernel.word.itemsize
        """Size of a word, in bytes."""
        self._records = records
        self.first_object = len(records)
        self.first_percpu = len(records) + len(inventory.slabs)
        self._roots = [
            *_ROOTS,
            *(f"stack of {stack.comm} (pid {stack.pid})" for stack in reader.stacks),
        ]
        self.resolver = Resolver(
            reader.kernel,
            reader.pages,
            inventory.slabs,
            inventory.record_of_row,
            reader.vmap.areas,
            self.first_object,
        )
        self.percpu = PerCpuNodes(
            read_chunks(reader.kernel, inventory.problems),
            lambda addresses: self.resolver.rows(addresses)[0],
            len(reader.pages),
            self._size,
            self.word,
            self.first_percpu,
        )
        self.resolver.percpu = self.percpu
        if self._unrecorded:
            chunks = self.percpu.rows
            chunks = chunks[inventory.metadata[chunks] == Metadata.NONE]
            inventory.metadata[chunks] = Metadata.PERCPU
        self.first_root = self.first_percpu + len(self.percpu.allocations)
        self.first_stack = self.first_root + len(_ROOTS)
        self._nodes = self.first_root + len(self._roots)
        self._pages_read = 0
        self._absent = np.zeros(0, bool)
        mark = arch_of(reader.kernel).address_mark
        self.numbers = Numbers(self._pages, self._inventory, mark)
        self._bookkeeping = find_bookkeeping(reader.kernel)
        self._hidden = HiddenParts(len(reader.pages))
        # Nodes of pages by _source_of_row. The first is replaced by the record of the page.
        self._sources = np.array(
            [-1, -1, _IN_SLAB, _IN_CHUNK, *range(self.first_root, self.first_stack)], np.int64
        )
        self._source_of_row = self._sources_of_rows()
        self.typed = self._typed_places() if types else None
        """Maps words to nodes and variables; ``None`` if types were not requested."""
        self.heap = self._build()

    def _without_records(self, inventory: Inventory) -> Inventory:
        """
        Return *inventory* with records made from the state of each ``struct page``.

        The stacks of page_owner's records show that a page is a page table of a process, mapped
        into a process, or memory of a module. The records made here have no stacks, so the page
        tables of processes, the pages mapped by them, and the areas of unloaded modules are
        searched for.
        """
        pages = self.reader.pages
        problems, gaps = list(inventory.problems), list(inventory.gaps)
        records = read_allocations(self._kernel, pages)
        problems += [line for line in records.problems if line not in problems]
        covered = record_of_row(pages, records)
        lost: list[str] = []
        tables, mapped = read_user_tables(self._kernel, self.reader.may_be_tables, lost)
        metadata = inventory.metadata.copy()
        rows = pages.rows(tables)
        rows = rows[rows >= 0]
        metadata[rows[metadata[rows] == Metadata.NONE]] = Metadata.USER_TABLE
        rows = pages.rows(mapped)
        self._mapped = covered[rows[rows >= 0]].astype(np.int64)
        left = [area.rows for area in inventory.areas if area.start in set(self.reader.vmap.left)]
        rows = np.concatenate([np.zeros(0, np.int64), *left])
        self._left = covered[rows[rows >= 0]].astype(np.int64)
        return replace(
            inventory,
            records=records,
            record_of_row=covered,
            metadata=metadata,
            problems=[*problems, *lost],
            gaps=[*gaps, *lost],
        )

    def _build(self) -> Heap:
        self._scan_pages()
        self._scan_struct_pages()
        self._add(np.full(len(self._mapped), self.first_root + _PAGES), self._mapped)
        self._scan_its_tables()
        for number, stack in enumerate(self.reader.stacks):
            _, data = self.stack_words(stack)
            target = self.resolver.targets(data[data >= self.resolver.lowest])
            target = np.concatenate([target, self.percpu.find(data)[1]])
            self._add(np.full(len(target), self.first_stack + number, np.int64), target)
        self.reader.free_objects.mark()
        source, target = self._of_allocated()
        numbers = [column.take() for column in self._found.numbers]
        good = self._is_allocated(numbers[0])
        numbers = [column[good] for column in numbers]
        bookkeeping = np.concatenate([self._bookkeeping_nodes(), self._left, *self._found.left])
        return Heap(
            inventory=self._inventory,
            records=self._records,
            roots=self._roots,
            holder=source,
            target=target,
            bookkeeping=ascending(bookkeeping[bookkeeping >= 0]).astype(np.int32),
            pfn_holder=numbers[0],
            pfn_target=numbers[1],
            pfn_offset=numbers[2],
            pages_read=self._pages_read,
            pages_missing=self._pages_missing(),
            percpu=self.percpu.allocations,
            at_once=partial(
                at_once, self._kernel, size=len(self._pages) * self._kernel.struct_page_size
            ),
            typing=self.typed.typing(self._found.pointers, self._is_allocated)
            if self.typed
            else None,
            unlisted=self._unlisted_records(),
            recorded=not self._unrecorded,
        )

    def _typed_places(self) -> TypedPlaces:
        pages = AllocationPages(
            self._inventory.record_of_row, self._pages, self._records, self.reader.vmap.areas
        )
        self.resolver.allocations = pages
        return TypedPlaces(
            self._kernel, self.reader, self._inventory, pages, self.percpu, self.resolver,
            self.source_of, self._nodes, self.first_root + _BOOT,
        )  # fmt: skip

    def _unlisted_records(self) -> Array:
        """Return the records whose first page has never been on a list: ``int32``, ascending."""
        nodes = ascending(np.concatenate([_no_nodes(), *self._found.unlisted]))
        return nodes[nodes < len(self._records)].astype(np.int32)

    def _bookkeeping_nodes(self) -> Array:
        """Return the nodes that are bookkeeping: ``int64``; some may be -1."""
        known, free = self._bookkeeping, self.reader.free_objects
        addresses = [
            self.reader.vmap.bookkeeping,
            self._inventory.slabs.sheaves,
            np.array(known.nodes, np.uint64),
        ]
        objects = [free.of_cache(cache) + self.first_object for cache in known.caches]
        return np.concatenate([self.resolver.targets(np.concatenate(addresses)), *objects])

    def _is_allocated(self, nodes: Array) -> Array:
        """Find the nodes that are not free slab objects: ``bool``, the shape of *nodes*."""
        result = np.ones(len(nodes), bool)
        objects = (nodes >= self.first_object) & (nodes < self.first_percpu)
        allocated = self._inventory.slabs.allocated
        result[objects] = allocated[nodes[objects] - self.first_object]
        return result

    def _of_allocated(self) -> tuple[Array, Array]:
        """Get both ends of every edge between allocated nodes: ``int32``."""
        pairs = self._found.edges.take()
        pairs.sort()
        kept = np.ones(len(pairs), bool)

        def keep(rows: slice) -> None:
            before = slice(max(rows.start - 1, 0), rows.stop - 1)
            after = slice(before.start + 1, rows.stop)
            np.not_equal(pairs[after], pairs[before], out=kept[after])
            source, target = unpacked_pairs(pairs[rows])
            kept[rows] &= self._is_allocated(source) & self._is_allocated(target)

        in_threads(keep, slices(len(pairs)))
        return unpacked_pairs(kept_rows(pairs, kept))

    # --- the node of each page --------------------------------------------------------------

    def source_of(self, rows: Array | slice) -> Array:
        """
        Get the node that each page belongs to: ``int64``.

        The value is -1 for a page that is not scanned, :data:`_IN_SLAB` for slab pages, and
        :data:`_IN_CHUNK` for pages of per-CPU chunks. Slab and chunk pages contain several nodes.
        """
        code = self._source_of_row[rows]
        result: Array = self._sources[code]
        recorded = np.flatnonzero(code == _OF_RECORD)
        result[recorded] = self._inventory.record_of_row[rows][recorded]
        return result

    def _sources_of_rows(self) -> Array:
        """Get the place in :attr:`_sources` of the node of each page: ``uint8``."""
        state, metadata = self._pages.state, self._inventory.metadata
        source = large_empty(len(state), np.uint8)

        def fill(rows: slice) -> None:
            mine, states, kind = source[rows], state[rows], metadata[rows]
            mine[:] = _OF_RECORD
            np.putmask(mine, self._inventory.record_of_row[rows] < 0, _OF_ROOT + _UNRECORDED)
            np.putmask(mine, equals(states, PageState.RESERVED), _OF_ROOT + _BOOT)
            np.putmask(mine, equals(states, PageState.SLAB), _OF_SLAB)
            np.putmask(mine, ~among(states, _SCANNED), _UNSCANNED)
            np.putmask(mine, ~among(kind, (Metadata.NONE, Metadata.PERCPU)), _UNSCANNED)

        in_threads(fill, slices(len(state)))
        pool = rows_among(metadata, [Metadata.KFENCE])
        source[pool[self.resolver.slab_at(pool) >= 0]] = _OF_SLAB
        source[self.percpu.rows] = _OF_CHUNK
        source[rows_among(metadata, [Metadata.IMAGE])] = _OF_ROOT + _IMAGE
        for address, size in self._bookkeeping.ranges:
            phys = self.reader.phys_of(address)
            if phys is not None:
                source[self._hide(phys, phys + size)] = _UNSCANNED
        for rows in self._constants():
            source[rows] = _UNSCANNED
        source[self._crash_kernel()] = _UNSCANNED
        # Pages of stacks are scanned separately, and only the part that is in use.
        for rows in self._irq_stacks():
            source[rows] = _UNSCANNED
        return source

    def _hide(self, start: int, end: int) -> Array:
        """
        Exclude a range of physical memory from the scan.

        :return: Rows of the pages that are entirely in it: ``int64``; other pages are only excluded
            in part.
        """
        first, last = -(-start // self._size), end // self._size
        whole = self._pages.rows(np.arange(first, last, dtype=np.int64))
        edges = self._pages.rows(np.array([start // self._size, (end - 1) // self._size]))
        self._hidden.add(start, end, edges[edges >= 0])
        result: Array = whole[whole >= 0]
        return result

    def _constants(self) -> Iterator[Array]:
        """
        Yield the pages of the image that are constant: instructions and tables.

        On 32-bit kernels many of these words happen to equal an address or PFN. Data that is
        written once at boot (``__ro_after_init``) is not included.
        """
        for names in _CONSTANTS:
            start, end = (symbol_address(self._kernel.prog, name) for name in names)
            if start is None or end is None:
                continue
            # Include only pages that are entirely constant.
            first, last = -(-start // self._size), end // self._size
            if first < last:
                yield self.reader.rows_of(first * self._size, (last - first) * self._size)

    def _crash_kernel(self) -> Array:
        """Get the pages reserved for the crash kernel, which are not memory of this kernel."""
        found = [np.zeros(0, np.int64)]
        for first, end in crash_kernel(self._kernel):
            rows = self._pages.rows(np.arange(first, end))
            found.append(rows[rows >= 0])
        return np.concatenate(found)

    def _irq_stacks(self) -> Iterator[Array]:
        """Yield the pages of interrupt stacks, which are not in use in a stopped machine."""
        arch = arch_of(self._kernel)
        for one in self._per_cpu(arch.irq_stacks):
            yield self.reader.rows_of(int(one.address_ or 0), int(one.type_.size))
        starts = set()
        for one in self._per_cpu(arch.irq_stack_pointers):
            with contextlib.suppress(FaultError):
                starts.add(int(one))
        for area in self.reader.vmap.areas:
            if area.start in starts:
                yield area.rows[area.rows >= 0]

    def _per_cpu(self, names: Sequence[str]) -> Iterator[Object]:
        """Yield each of the per-CPU variables *names* that exists in this kernel, for every CPU."""
        for name in names:
            if find_object(self._kernel.prog, name) is None:
                continue
            for cpu in possible_cpus(self._kernel):
                with suppress_damage():
                    yield cpu_variable(self._kernel, name, cpu)

    # --- the words --------------------------------------------------------------------------

    def _add(self, source: Array, target: Array) -> None:
        good = (source >= 0) & (target >= 0)
        if good.any():
            self._found.edges.add(ascending(packed_pairs(source[good], target[good])))

    def _scan_pages(self) -> None:
        wanted = self._source_of_row != _UNSCANNED
        self._pages_read = int(np.count_nonzero(wanted))
        contents = self._kernel.contents
        if contents is not None and len(contents.zero):
            wanted &= ~self._pages.within(contents.zero)
        batches = list(_batches(self._runs(wanted)))
        size = int(np.count_nonzero(wanted)) * self._size
        del wanted
        self._absent = shared_empty(self._kernel, len(self._pages), bool, size=size, zeroed=True)
        self.reader.free_objects.share(
            lambda rows: shared_empty(self._kernel, rows, np.uint64, size=size)
        )
        self._scan(batches, self._scan_batch, "pointers", " piece", size)

    def _scan(
        self, items: Sequence[T], scan: Callable[[T], None], what: str, unit: str, size: int
    ) -> None:
        """
        Call *scan* for each of *items*, in several processes if there is much to read, and keep
        what it adds.

        :param what: Description of the progress; *unit* is what one item is.
        :param size: Number of bytes that *scan* reads for all items.
        """

        def found_in(item: T) -> _Found:
            before, self._found = self._found, _Found()
            try:
                scan(item)
                return self._found
            finally:
                self._found = before

        results = in_order(self._kernel, found_in, items, size=size)
        for found in progress(results, description=what, total=len(items), unit=unit):
            self._found.add(found)

    def _scan_batch(self, batch: list[range]) -> None:
        pieces = [np.arange(piece.start, piece.stop) for piece in batch]
        data = np.concatenate([self.read_rows(piece) for piece in pieces])
        rows = np.concatenate(pieces)
        self.reader.free_objects.collect(rows, data)
        if self._unrecorded:
            self._find_vmcoreinfo(rows, data)
        # Leave out zero words, which are most of the words.
        place_of = np.flatnonzero(data != 0)
        data = data[place_of]
        chosen = np.flatnonzero(data >= self.resolver.lowest)
        target, at = self.resolver.targets_at(data[chosen])
        good = target >= 0
        self._add_words(rows, place_of[chosen[good]], target[good], at[good])
        chosen, target = self.percpu.find(data)
        start = self.percpu.allocations.pointer[target - self.first_percpu]
        at = (data[chosen] - start).astype(np.int64)
        self._add_words(rows, place_of[chosen], target, at)
        chosen, target, pair = self.numbers.find(data)
        place = place_of[chosen]
        node = self.nodes_of_words(rows, place)
        # Ignore pairs of 32-bit PFNs in the kernel image, because it has tables of ascending
        # 32-bit numbers, such as symbol offsets and unwinding data.
        good = (node >= 0) & ~(pair & (node == self.first_root + _IMAGE))
        offset = self._offsets(rows, place, node)
        for column, values in zip(self._found.numbers, (node, target, offset), strict=True):
            column.add(values[good])

    def _add_words(self, rows: Array, place: Array, target: Array, at: Array) -> None:
        """
        Add pointers that were found in pages.

        :param rows: Rows of the pages that were read.
        :param place: Indices of the pointers in the words of these pages.
        :param target: Node that each pointer refers to.
        :param at: Offset in that node that the pointer points to, in bytes.
        """
        node = self.nodes_of_words(rows, place)
        if self.typed is None:
            self._add(node, target)
        else:
            words_per_page = self._size // self.word
            row, byte = rows[place // words_per_page], place % words_per_page * self.word
            where, offset = self.typed.places(node, row, byte)
            self._found.pointers.add(where, offset, self.typed.canonical(target), at)

    def _find_vmcoreinfo(self, rows: Array, data: Array) -> None:
        """
        Find the page that contains the text of VMCOREINFO.

        Nothing refers to that page after a crash, because crash_save_vmcoreinfo() of
        kernel/vmcore_info.c replaces the pointer to it by a pointer to a copy.
        """
        start = int.from_bytes(_VMCOREINFO[: self.word], sys.byteorder)
        found = rows[data[:: self._size // self.word] == np.uint64(start)]
        nodes = self._inventory.record_of_row[found].astype(np.int64)
        self._found.left.append(nodes[nodes >= 0])

    def nodes_of_words(self, rows: Array, place: Array) -> Array:
        """
        Get the node that contains each word: ``int64``; -1 if the word is in a slab but in no
        object, in free per-CPU memory, or in bookkeeping.

        :param rows: Rows of the pages that were read.
        :param place: Indices of the words in the data that was read.
        """
        slabs, words_per_page = self._inventory.slabs, self._size // self.word
        row = rows[place // words_per_page]
        node = self.source_of(row)
        byte = (place % words_per_page) * self.word
        in_chunk = np.flatnonzero(node == _IN_CHUNK)
        node[in_chunk] = self.percpu.at(row[in_chunk], byte[in_chunk], self.first_root + _BOOT)
        node[self._hidden.covers(row, self._pages, byte)] = -1
        in_slab = np.flatnonzero(node == _IN_SLAB)
        if len(in_slab) and not len(slabs.row):
            node[in_slab] = -1
        elif len(in_slab):
            slab = self.resolver.slab_at(row[in_slab])
            offset = (row[in_slab] - slabs.row[slab]) * self._size
            offset += byte[in_slab]
            objects = objects_at(slabs, slab, offset, inside=True)
            node[in_slab] = np.where(objects >= 0, objects + self.first_object, -1)
        return node

    def _offsets(self, rows: Array, place: Array, node: Array) -> Array:
        """
        Get the offset of each word in its slab object: ``int64``, in bytes; -1 if it is in none.
        """
        result = np.full(len(place), -1, np.int64)
        inside = np.flatnonzero((node >= self.first_object) & (node < self.first_percpu))
        if len(inside):
            slabs, words_per_page = self._inventory.slabs, self._size // self.word
            objects = node[inside] - self.first_object
            slab = slabs.slab_of(objects)
            row = rows[place[inside] // words_per_page]
            start = slabs.first[slab] + (objects - slabs.start[slab]) * slabs.stride[slab]
            offset = (row - slabs.row[slab]) * self._size
            result[inside] = offset + (place[inside] % words_per_page) * self.word - start
        return result

    def pieces(self, wanted: Array) -> Iterator[Array]:
        """
        Yield the rows of short runs of physically contiguous pages.

        :param wanted: The pages to return: ``bool``, a row per page.
        """
        for run in self._runs(wanted):
            yield np.arange(run.start, run.stop)

    def _runs(self, wanted: Array) -> Iterator[range]:
        changes = np.flatnonzero(wanted[1:] != wanted[:-1]) + 1
        edges = ascending(np.concatenate([self._pages.offsets, changes]))
        inside = wanted[edges[:-1]]
        for first, end in zip(edges[:-1][inside].tolist(), edges[1:][inside].tolist(), strict=True):
            for start in range(first, end, _CHUNK_PAGES):
                yield range(start, min(start + _CHUNK_PAGES, end))

    def read_rows(self, rows: Array) -> Array:
        """Read the words of contiguous pages."""
        phys = int(self._pages.pfns(rows[:1])[0]) * self._size
        bulk = read_bulk(self._kernel.prog, phys, len(rows) * self._size, physical=True)
        for offset, size in bulk.missing:
            self._absent[rows[offset // self._size : (offset + size) // self._size]] = True
        return words(self._kernel.prog, bulk.data)

    def _pages_missing(self) -> int:
        """
        Count the pages that may contain references but are not in the dump.

        Dumps contain neither free pages nor holes. If a zone cannot be read, these cannot be
        distinguished from pages in use, unless the file's tables list them.
        """
        rows = np.flatnonzero(self._absent)
        contents = self.reader.kernel.contents
        if contents is None:
            return len(rows)
        pfns = self._pages.pfns(rows)
        in_use = self._pages["zone"][rows] != NO_ZONE
        in_use |= equals(self._pages.state[rows], PageState.SLAB)
        counted = contents.listed.has(pfns) | (contents.excluded.has(pfns) & in_use)
        return int(counted.sum())

    def _struct_page_nodes(self, rows: slice) -> Array:
        """
        Get the node of the ``struct page`` of each of *rows*, which is the node of the page itself:
        ``int64``.
        """
        state = self._pages.state[rows]
        node = self.source_of(rows)
        node[among(state, _OWNED)] = self.first_root + _PAGES
        node[node == _IN_CHUNK] = -1
        node[node == _IN_SLAB] = self.first_root + _SLABS
        node[equals(state, PageState.SLAB)] = self.first_root + _SLABS
        node[among(state, (*FREE_STATES, PageState.RESERVED))] = -1
        return node

    def _scan_struct_pages(self) -> None:
        """Find pointers in ``struct page``, such as lists through ``page->lru``."""
        size = len(self._pages) * self._kernel.struct_page_size
        sections = find_sections(self._kernel)
        self._scan(sections, self._scan_section, "struct pages", " section", size)

    def _scan_section(self, section: Section) -> None:
        address, node, values = self.words_of_section(section)
        target = self.resolver.targets(values)
        self._add(node, target)
        if self._unrecorded:
            # INIT_LIST_HEAD(&page->lru) of __init_single_page(), mm/mm_init.c.
            self._found.unlisted.append(node[values == address])

    def _scan_its_tables(self) -> None:
        """Find device tables that are referenced by physical addresses with a bit set."""
        mark = np.uint64(arch_of(self._kernel).address_mark)
        for address, size in its_tables(self._kernel):
            rows = self.reader.rows_of(address, size)
            if not len(rows):
                continue
            data = words(self._kernel.prog, read_bulk(self._kernel.prog, address, size).data)
            entries = data[data >= mark] - mark
            targets = self._pages.rows((entries // np.uint64(self._size)).astype(np.int64))
            known = self._inventory.record_of_row[targets[targets >= 0]].astype(np.int64)
            self._add(np.repeat(self.source_of(rows[:1]), len(known)), known)

    def struct_page_words(self) -> Iterator[tuple[Array, Array, Array]]:
        """Yield the result of :meth:`words_of_section` for each section."""
        return map(self.words_of_section, find_sections(self._kernel))

    def words_of_section(self, section: Section) -> tuple[Array, Array, Array]:
        """
        Get the words in a section's memmap that may be pointers.

        :return: The virtual address of each word (``uint64``), the node of the page that its
            ``struct page`` describes (``int64``), and its value (``uint64``).
        """
        nothing = np.zeros(0, np.uint64), _no_nodes(), np.zeros(0, np.uint64)
        size = self._kernel.struct_page_size
        row = int(self._pages.rows(np.array([section.start_pfn]))[0])
        if row < 0 or not section.online:
            return nothing
        number = min(section.end_pfn, self._pages.facts.max_pfn) - section.start_pfn
        node = self._struct_page_nodes(slice(row, row + number))
        # Most pages may be free. Those of this section need not even be read, then.
        owned = np.flatnonzero(node >= 0)
        if not len(owned):
            return nothing
        bulk = read_bulk(self._kernel.prog, section.memmap, number * size)
        data = words(self._kernel.prog, bulk.data).reshape(number, -1)
        if len(owned) < number:
            data, node = data[owned], node[owned]
        pointers = data >= self.resolver.lowest
        # Leave out words that are not references: the first word, which has the page flags, and
        # the second word of a tail page, which points to its head page.
        pointers[:, 0] = False
        pointers[:, 1] &= (data[:, 1] & np.uint64(1)) == 0
        place = np.flatnonzero(pointers)
        page, word = np.divmod(place, data.shape[1])
        offset = owned[page] * np.int64(size) + word * np.int64(self.word)
        addresses = offset.astype(np.uint64) + np.uint64(section.memmap)
        return addresses, node[page], data.reshape(-1)[place]

    def stack_words(self, stack: TaskStack) -> tuple[int, Array]:
        """
        Get the words of the part of a stack that is in use, and the task's registers.

        :return: Virtual address of the first word; and the words, followed by the registers:
            ``uint64``.
        """
        end = stack.start + stack.size
        live = -(-stack.live // self.word) * self.word
        bulk = read_bulk(self._kernel.prog, live, end - live)
        data = words(self._kernel.prog, bulk.data)
        return live, np.concatenate([data, np.array(stack.registers, np.uint64)])


def _no_nodes() -> Array:
    return np.zeros(0, np.int64)


def _batches(pieces: Iterable[range]) -> Iterator[list[range]]:
    """Group pieces so that each group has about as many pages as one large piece."""
    batch: list[range] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= _CHUNK_PAGES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
