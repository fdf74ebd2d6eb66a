# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locate and name the words that point from one node of a heap to another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from drgn import FaultError

from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.kernel.dump.bulk import symbol_address
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms
from drgn_pageowner.kernel.linux.percpu import first_chunk
from drgn_pageowner.kernel.linux.sections import section_of
from drgn_pageowner.kernel.linux.slab_track import object_addresses
from drgn_pageowner.kernel.linux.tasks import comm_of, every_task
from drgn_pageowner.kernel.linux.translate import (
    direct_map,
    direct_map_end,
    image_range,
    kernel_phys,
)
from drgn_pageowner.kernel.linux.user_tables import Mapping, find_mappings
from drgn_pageowner.kernel.read.address import resolve
from drgn_pageowner.kernel.read.heap import HeapReader
from drgn_pageowner.kernel.read.word_types import WordTypes
from drgn_pageowner.model.arrays import Array, ranges, slices
from drgn_pageowner.model.heap import AreaKind, HeapTarget, Metadata, Word
from drgn_pageowner.model.pages import PageState

__all__ = ("WordFinder",)


class WordFinder:
    """Finds the words in some nodes of a heap that refer to other nodes, by reading them again."""

    def __init__(self, reader: HeapReader) -> None:
        self._reader = reader
        self._heap = reader.heap
        self._kernel = reader.reader.kernel
        self._pages = reader.reader.pages
        self._size = self._pages.facts.page_size
        self._direct = direct_map(self._kernel)
        self._image = image_range(self._kernel)
        self._kallsyms = load_kallsyms(self._kernel)
        self._per_cpu = _PerCpu(self._kernel)
        self._types = WordTypes(self._kernel, self._heap, reader)

    def target(self, what: str) -> HeapTarget:
        """
        Find the node that *what* names.

        :param what: ``pfn:N``, ``phys:A``, ``task:PID``, or an address; in a slab page, of the
            object there.
        :raises UsageError: if *what* is none of these
        :raises PageOwnerError: if there is no such page in this kernel
        """
        page = resolve(self._kernel, self._task(what) if what.startswith("task:") else what)
        row = self._row(page.pfn)
        if row < 0:
            return HeapTarget(what, page.pfn, None, "its struct page is not in the dump")
        state = PageState(self._pages.state[row]).label
        slab = int(self._reader.resolver.slab_at(np.array([row]))[0])
        if self._reader.percpu.has(np.array([row]))[0] and page.address is not None:
            offset = np.array([page.address % self._size])
            node = int(self._reader.percpu.at(np.array([row]), offset, -1)[0])
            if node >= 0:
                return HeapTarget(what, page.pfn, node, state)
        if slab < 0:
            record = int(self._heap.inventory.record_of_row[row])
            return HeapTarget(what, page.pfn, record if record >= 0 else None, state)
        if page.address is None:
            return HeapTarget(what, page.pfn, None, "a slab page: give the address of an object")
        address = self._direct + page.pfn * self._size + page.address % self._size
        node = int(self._reader.resolver.targets(np.array([address], np.uint64))[0])
        if node < 0:
            return HeapTarget(what, page.pfn, None, "slab: no object is at this address")
        free = not self._heap.slabs.allocated[node - self._heap.first_object]
        return HeapTarget(what, page.pfn, None if free else node, "a free slab object")

    def _task(self, what: str) -> str:
        """
        Return the address of the ``task_struct`` that ``task:PID`` names.

        :raises UsageError: if PID is not a number
        :raises PageOwnerError: if there is no such task
        """
        digits = what.removeprefix("task:")
        if not (digits.isascii() and digits.isdecimal()):
            raise UsageError(f"{what!r} names no task: give task:PID")
        pid = int(digits)
        for task in every_task(self._kernel, self._kernel.losses):
            if int(task.pid) == pid:
                return f"{int(task):#x}"
        raise PageOwnerError(f"{what}: no task has this pid")

    def words(
        self, sources: Array, targets: Array, *, numbers: bool = False, limit: int = 1 << 30
    ) -> list[Word]:
        """
        Find the words in nodes that refer to other nodes.

        :param sources: Nodes of the heap: ``int64``.
        :param targets: Nodes of the heap: ``int64``.
        :param numbers: Whether to look for PFNs and physical addresses as well.
        :param limit: Maximum number of words to find.
        """
        wanted = np.zeros(self._heap.nodes, bool)
        wanted[targets] = True
        found: list[Word] = []
        for word in self._all_words(sources, wanted, numbers):
            found.append(word)
            if len(found) >= limit:
                break
        return found

    def mappings(self, target: HeapTarget, limit: int = 1 << 30) -> list[Word]:
        """
        Find the entries of page tables of processes that map a page.

        :param target: A record, not a slab object.
        :param limit: The largest number of words.
        """
        assert target.node is not None
        plausible = self._reader.reader.may_be_tables
        found = find_mappings(self._kernel, plausible, target.pfn, limit)
        return [self._entry(target.node, mapping) for mapping in found]

    def _entry(self, node: int, mapping: Mapping) -> Word:
        comm, pid = comm_of(mapping.task), int(mapping.task.pid)
        row = self._row(mapping.place // self._size)
        holder = int(self._heap.inventory.record_of_row[row]) if row >= 0 else -1
        address: int | None = self._direct + mapping.place
        if mapping.place >= direct_map_end(self._kernel) - self._direct:
            # In HIGHMEM the kernel has no address for it.
            address = None
        word = Word(
            "page table",
            f"page table of {comm} (pid {pid}) for {mapping.address:#x}",
            holder if holder >= 0 else self._heap.first_root,
            node,
            address,
            mapping.value,
            "page table entry",
            width=mapping.size,
        )
        return self._types.add_to_table(word, mapping)

    def _all_words(self, sources: Array, wanted: Array, numbers: bool) -> Iterator[Word]:
        chosen = np.zeros(self._heap.nodes, bool)
        chosen[sources] = True
        yield from self._in_pages(chosen, wanted, numbers)
        yield from self._in_stacks(chosen, wanted)
        yield from self._in_struct_pages(chosen, wanted)

    def _in_pages(self, chosen: Array, wanted: Array, numbers: bool) -> Iterator[Word]:
        heap = self._heap
        mine = np.zeros(len(self._pages), bool)
        for part in slices(len(mine)):
            source = self._reader.source_of(part)
            mine[part] = (source >= 0) & chosen[np.maximum(source, 0)]
        objects = np.flatnonzero(chosen[heap.first_object : heap.first_percpu])
        if len(objects):
            slab = np.unique(heap.slabs.slab_of(objects))
            rows = ranges(heap.slabs.row[slab], heap.slabs.pages[slab])
            rows = rows[rows < len(mine)]
            mine[rows[self._reader.source_of(rows) < -1]] = True
        # Per-CPU variables, which belong to a root, may share pages with per-CPU allocations.
        if chosen[heap.first_percpu :].any():
            mine[self._reader.percpu.rows] = True
        for rows in self._reader.pieces(mine):
            data = self._reader.read_rows(rows)
            place = np.flatnonzero(data >= self._reader.resolver.lowest)
            target = self._reader.resolver.targets(data[place])
            yield from self._of_data(rows, data, place, target, chosen, wanted)
            place, target = self._reader.percpu.find(data)
            yield from self._of_data(rows, data, place, target, chosen, wanted)
            if numbers:
                place, target, _ = self._reader.numbers.find(data)
                yield from self._of_data(rows, data, place, target, chosen, wanted)

    def _of_data(
        self, rows: Array, data: Array, place: Array, target: Array, chosen: Array, wanted: Array
    ) -> Iterator[Word]:
        good = target >= 0
        good[good] = wanted[target[good]]
        place, target = place[good], target[good]
        node = self._reader.nodes_of_words(rows, place)
        per_page = self._size // self._reader.word
        for at, to, of in zip(place.tolist(), target.tolist(), node.tolist(), strict=True):
            if of < 0 or not chosen[of]:
                continue
            pfn = int(self._pages.pfns(rows[at // per_page : at // per_page + 1])[0])
            offset = at % per_page * self._reader.word
            yield self._word(of, to, pfn, offset, int(data[at]))

    def _in_stacks(self, chosen: Array, wanted: Array) -> Iterator[Word]:
        first = self._reader.first_stack
        for number, stack in enumerate(self._reader.reader.stacks):
            if not chosen[first + number]:
                continue
            start, words = self._reader.stack_words(stack)
            target = self._reader.resolver.targets(words)
            pointers, nodes = self._reader.percpu.find(words)
            target[pointers] = nodes
            for at in np.flatnonzero(target >= 0).tolist():
                if not wanted[target[at]]:
                    continue
                place = start + at * self._reader.word
                address: int | None = place
                kind, name = "stack", f"+ {place - stack.start:#x}"
                if place >= stack.start + stack.size:
                    address, kind, name = None, "register", ""
                word = Word(
                    kind,
                    f"{kind} of {stack.comm} (pid {stack.pid}) {name}".strip(),
                    first + number,
                    int(target[at]),
                    address,
                    int(words[at]),
                    self._by(int(words[at]), int(target[at])),
                )
                yield self._types.add_to_stack(word)

    def _in_struct_pages(self, chosen: Array, wanted: Array) -> Iterator[Word]:
        size = self._kernel.struct_page_size
        for address, node, words in self._reader.struct_page_words():
            mine = np.flatnonzero(chosen[node])
            target = self._reader.resolver.targets(words[mine])
            good = target >= 0
            good[good] = wanted[target[good]]
            for at, to in zip(mine[good].tolist(), target[good].tolist(), strict=True):
                where = int(address[at])
                pfn = self._reader.resolver.pfn_of_struct_page(where)
                offset = (where - self._first_memmap(pfn)) % size
                word = Word(
                    "struct page",
                    f"struct page of pfn:{pfn:#x} + {offset:#x}",
                    int(node[at]),
                    to,
                    where,
                    int(words[at]),
                    self._by(int(words[at]), to),
                )
                yield self._types.add_to_struct_page(word, where - offset)

    def _first_memmap(self, pfn: int) -> int:
        """Return the address of any ``struct page`` of the section that contains *pfn*."""
        section = section_of(self._kernel, pfn)
        return section.memmap if section is not None else 0

    def _by(self, value: int, target: int) -> str:
        if target in self._reader.percpu.find(np.array([value], np.uint64))[1]:
            return "per-CPU pointer"
        if value >= int(self._reader.resolver.lowest):
            return "struct page" if self._reader.resolver.is_struct_page(value) else "address"
        end = self._pages.facts.max_pfn
        marked = value >= 1 << 63
        # A number that is neither a PFN nor the physical address of a page consists of two 32-bit
        # PFNs.
        physical = end <= value < end * self._size and value % self._size == 0
        return "physical address" if marked or physical else "PFN"

    def _word(self, node: int, target: int, pfn: int, offset: int, value: int) -> Word:
        heap = self._heap
        row = self._row(pfn)
        by, value, half, width = self._meaning(value, target)
        offset += half
        address = self._direct + pfn * self._size + offset
        cpu = None
        if node >= heap.first_root:
            kind, name, address = self._place_of_root(pfn, offset, address)
        elif node >= heap.first_percpu:
            kind, name = "per-CPU", self._reader.percpu.name(node, row, offset)
            cpu, address = self._reader.percpu.copy(row, offset)
        elif node >= heap.first_object:
            kind, name = "slab object", self._object_name(node - heap.first_object, address)
        else:
            kind, name, address = self._place_of_record(pfn, offset, address)
        word = Word(kind, name, node, target, address, value, by, width=width, cpu=cpu)
        return self._types.add(word, row, offset)

    def _row(self, pfn: int) -> int:
        """Return the row of a page; -1 if it has none."""
        return int(self._pages.rows(np.array([pfn]))[0])

    def _meaning(self, value: int, target: int) -> tuple[str, int, int, int | None]:
        """
        Return how a word refers to a node.

        :return: :attr:`Word.by`, value, offset in the word, and size. For a word that consists of
            two 32-bit PFNs, these are the value, the offset and the size of the PFN that refers to
            the node; otherwise they are *value*, 0 and ``None``.
        """
        by = self._by(value, target)
        if by != "PFN" or value < 1 << 32:
            return by, value, 0, None
        low, high = value & 0xFFFFFFFF, value >> 32
        row = self._row(low)
        is_low = row >= 0 and int(self._heap.inventory.record_of_row[row]) == target
        # The low half comes first: page_owner's supported dumps are little-endian.
        return (by, low, 0, 4) if is_low else (by, high, 4, 4)

    def _object_name(self, number: int, address: int) -> str:
        slabs, one = self._heap.slabs, np.array([number])
        start = int(object_addresses(self._kernel, self._pages, slabs, one)[0])
        cache = slabs.caches[int(slabs.cache[slabs.slab_of(one)[0]])]
        return f"{cache} object {start:#x} + {address - start:#x}"

    def _place_of_record(self, pfn: int, offset: int, address: int) -> tuple[str, str, int]:
        row = self._row(pfn)
        for area in self._heap.inventory.areas:
            pages = np.flatnonzero(area.rows == row)
            if not len(pages):
                continue
            address = area.start + int(pages[0]) * self._size + offset
            if area.kind == AreaKind.MODULE:
                return "module", self._symbol(address) or f"{area.text} {address:#x}", address
            inside = address - area.start
            return "vmalloc", f"{area.text} {area.start:#x} + {inside:#x}", address
        record = int(self._heap.inventory.record_of_row[row])
        head = int(self._heap.records["pfn"][record])
        if self._heap.inventory.metadata[row] == Metadata.PERCPU:
            return "per-CPU", f"per-CPU memory pfn:{pfn:#x} + {offset:#x}", address
        inside = (pfn - head) * self._size + offset
        return "page", f"page pfn:{head:#x} + {inside:#x}", address

    def _place_of_root(self, pfn: int, offset: int, address: int) -> tuple[str, str, int]:
        row = self._row(pfn)
        if self._heap.inventory.metadata[row] == Metadata.IMAGE and self._image is not None:
            try:
                start = kernel_phys(self._kernel, self._image[0])
                virtual = self._image[0] + pfn * self._size + offset - start
                return "kernel image", self._symbol(virtual) or f"{virtual:#x}", virtual
            except (FaultError, NotImplementedError):
                pass
        named = self._per_cpu.name(address)
        if named is not None:
            return "per-CPU", named, address
        return "boot memory", f"boot memory {address:#x}", address

    def _symbol(self, address: int) -> str | None:
        try:
            symbol = self._kernel.prog.symbol(address)
            return f"{symbol.name}+{address - symbol.address:#x}"
        except LookupError:
            [frame] = self._kallsyms.symbolize(np.array([address], np.uint64))
            return str(frame) if frame.name is not None else None


class _PerCpu:
    """Names addresses in the first per-CPU chunk by variable and CPU."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._start = symbol_address(kernel.prog, "__per_cpu_start") or 0
        self._size = (symbol_address(kernel.prog, "__per_cpu_end") or self._start) - self._start
        self._units, self._length = first_chunk(kernel)

    def name(self, address: int) -> str | None:
        """Name the variable at *address* and its CPU; ``None`` if it is in no CPU's area."""
        for cpu, unit in self._units:
            offset = address - unit
            if 0 <= offset < self._size:
                try:
                    # KASLR relocates __per_cpu_start and the per-CPU symbols by the same offset.
                    symbol = self._kernel.prog.symbol(self._start + offset)
                    return f"{symbol.name}+{self._start + offset - symbol.address:#x} of CPU {cpu}"
                except LookupError:
                    return f"per-CPU variable {offset:#x} of CPU {cpu}"
            if 0 <= offset < self._length:
                return f"per-CPU memory {offset:#x} of CPU {cpu}"
        return None
