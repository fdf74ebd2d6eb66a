# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read an :class:`~drgn_pageowner.model.heap.Inventory`: the use of every page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.live import is_live
from drgn_pageowner.kernel.linux.cmdline import CommandLines
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms, module_names
from drgn_pageowner.kernel.linux.kasan import find_shadow
from drgn_pageowner.kernel.linux.kernel_tables import kernel_tables
from drgn_pageowner.kernel.linux.kfence import find_kfence
from drgn_pageowner.kernel.linux.mapping import block_device_mappings, file_of
from drgn_pageowner.kernel.linux.page_ext import page_owner_state
from drgn_pageowner.kernel.linux.page_owner import owner_dtype
from drgn_pageowner.kernel.linux.percpu import first_chunk
from drgn_pageowner.kernel.linux.sections import find_sections, page_ext_stride
from drgn_pageowner.kernel.linux.slab import read_slabs
from drgn_pageowner.kernel.linux.stackdepot import depot_pools
from drgn_pageowner.kernel.linux.translate import (
    direct_map,
    direct_map_end,
    direct_phys,
    image_range,
    kernel_pfns,
    kernel_phys,
    page_tables,
)
from drgn_pageowner.kernel.linux.vmalloc import VmapAreas, read_vmap_areas, task_stacks
from drgn_pageowner.kernel.linux.vmstat import read_counters
from drgn_pageowner.kernel.linux.zones import find_zones
from drgn_pageowner.kernel.read.pages import PageReader
from drgn_pageowner.kernel.read.record_parts import read_rows_of_records
from drgn_pageowner.kernel.read.records import RecordReader
from drgn_pageowner.model.arrays import Array, ranges, sparse_zeros
from drgn_pageowner.model.heap import (
    HEAP_COLUMNS,
    INVENTORY_COLUMNS,
    INVENTORY_COLUMNS_OF_STACKS,
    OWNER_COLUMNS,
    Area,
    AreaKind,
    FileUse,
    Inventory,
    Metadata,
    Slabs,
    record_of_row,
)
from drgn_pageowner.model.later import Later, LaterRows
from drgn_pageowner.model.packed import Packing
from drgn_pageowner.model.pages import Pages, PageState
from drgn_pageowner.model.records import Snapshot

__all__ = ("InventoryReader",)

# States of pages that the kernel uses for itself. Pages in other states are not kernel page tables,
# even if a damaged table refers to them.
_MAY_BE_TABLES = (PageState.TABLE, PageState.KERNEL, PageState.RESERVED, PageState.NOREF)

_TIME = "ts_nsec"
# Maximum number of files to list, those with most pages.
_FILES = 50


class InventoryReader:
    """Reader of an :class:`Inventory` that keeps intermediate results for other readers."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        owners: bool = True,
        of_heap: bool = False,
        without_records: Iterable[str] | None = None,
        packing: Packing | None = None,
    ) -> None:
        """
        :param owners: Whether the records need more than their stacks: tasks, times and tags.
        :param of_heap: Whether to keep only what a :class:`~drgn_pageowner.model.heap.Heap` and the
            search for leaks need: of the pages ``state``, ``zone`` and, as ``int8``, ``mapcount``,
            and :data:`~drgn_pageowner.model.heap.HEAP_COLUMNS` of the records. The owners of a
            dump's records are read when they are used, as are the times once they are released
            (:mod:`~drgn_pageowner.model.later`).
        :param without_records: Columns of the pages that are needed, and no records.
        :param packing: See :func:`~drgn_pageowner.kernel.read.pages.read_all_pages`.
        """
        self.kernel = kernel
        self._image = image_range(kernel)
        self._slabs: Slabs | None = None
        wanted: tuple[str, ...] = INVENTORY_COLUMNS if owners else INVENTORY_COLUMNS_OF_STACKS
        if of_heap:
            wanted = (*HEAP_COLUMNS, *(OWNER_COLUMNS if is_live(kernel.prog) else ()))
        narrow = of_heap or not owners
        columns = {"mapcount", "head", *(without_records or ())}
        read_records = partial(RecordReader, kernel, columns=wanted, narrow=narrow)
        begun: list[RecordReader] = []

        def begin() -> None:
            # Other processes can read records while this one finishes the pages.
            recorded = self.no_records is None and without_records is None
            if not recorded or is_live(kernel.prog):
                return
            with contextlib.suppress(PageOwnerError):
                begun.append(read_records(covering=True))
                begun[0].begin()

        self.no_records = NO_RECORDS.get(page_owner_state(kernel))
        """Reason why there are no records; ``None`` if there are."""
        of_buffers: list[str] = []
        devices = np.array(sorted(block_device_mappings(kernel, of_buffers)), np.uint64)
        page_reader = PageReader(kernel, columns, devices=devices, narrow=narrow, packing=packing)
        memory = page_reader.read(begin)
        self.pages = memory.pages
        self._size = memory.pages.facts.page_size
        problems = list(memory.problems)
        buffers = sparse_zeros(len(memory.pages), np.bool_)
        buffers[page_reader.buffers()] = True
        files = self._files(*page_reader.files())
        records: Snapshot | None = None
        covered: Array | None = None
        if without_records is not None:
            self.no_records = "they were not asked for"
            covered = np.broadcast_to(np.int32(-1), len(memory.pages))
        later: list[str] = []
        if begun:
            # This process does the rest while others read records. Messages keep their order.
            load_kallsyms(kernel)
            known = [*kernel.gaps, *kernel.losses]
            self._find_uses()
            later = [line for line in (*kernel.gaps, *kernel.losses) if line not in known]
        if self.no_records is None:
            try:
                reader = begun.pop() if begun else read_records()
                records = reader.read()
                covered = reader.record_of_row(memory.pages, records)
                problems += [
                    line for line in records.problems if line not in problems and line not in later
                ]
            except PageOwnerError as error:
                self.no_records = str(error)
                problems.append(f"records cannot be read: {error}")
        if self._slabs is None:
            self._find_uses()
        slabs = self._slabs
        assert slabs is not None
        if of_heap and records is not None:
            _narrow(kernel, memory.pages, records)
        problems += of_buffers
        contents = kernel.contents
        lost = contents.problems() if contents is not None else []
        self.inventory: Inventory = Inventory(
            memory=memory,
            records=records,
            record_of_row=record_of_row(memory.pages, None) if covered is None else covered,
            slabs=slabs,
            areas=self.vmap.areas,
            metadata=self._metadata,
            buffers=buffers,
            modules=module_names(kernel),
            tasks={stack.pid: stack.comm for stack in self.stacks},
            command_lines=CommandLines(kernel),
            files=files,
            counters=read_counters(kernel, memory.zones),
            stacks=self._direct_stacks(),
            problems=kernel.problems(problems, slabs.problems),
            gaps=list(dict.fromkeys([*lost, *kernel.gaps])),
        )

    def _find_uses(self) -> None:
        """Find stacks of tasks, areas of vmalloc, slabs, and the memory of the kernel itself."""
        kernel, pages = self.kernel, self.pages
        self.stacks = task_stacks(kernel, kernel.gaps)
        self.vmap: VmapAreas = read_vmap_areas(kernel, pages, self.stacks, kernel.gaps)
        self._areas = {area.start: area for area in self.vmap.areas}
        self._slabs, self.free_objects = read_slabs(kernel, pages)
        find_zones(kernel, kernel.gaps)
        self._metadata = self._metadata_rows()

    def _metadata_rows(self) -> Array:
        """Get the :class:`Metadata` of every page: ``uint8``, a row for each page."""
        found = sparse_zeros(len(self.pages), np.uint8)
        tables = self.pages.rows(kernel_tables(self.kernel, self.may_be_tables))
        found[tables[tables >= 0]] = Metadata.TABLE
        found[self._shadow()] = Metadata.SHADOW
        pool = find_kfence(self.kernel)
        if pool is not None:
            found[self.rows_of(pool.start, pool.size)] = Metadata.KFENCE
        for kind, address, size in self._section_arrays():
            found[self._mapped_rows(address, size)] = kind
        for rows in self._stack_depot():
            found[rows] = Metadata.STACK_DEPOT
        units, length = first_chunk(self.kernel)
        for _, address in units:
            found[self.rows_of(address, length)] = Metadata.PERCPU
        image = self._image
        if image is not None:
            # Pages of the image that were freed after boot, such as init memory, are not reserved.
            rows = self.rows_of(image[0], image[1] - image[0])
            found[rows[self.pages.state[rows] == PageState.RESERVED]] = Metadata.IMAGE
        for stack in self.stacks:
            found[self.rows_of(stack.start, stack.size)] = Metadata.STACK
        for area in self.vmap.areas:
            if area.kind in (AreaKind.STACK, AreaKind.CACHED_STACK):
                found[area.rows[area.rows >= 0]] = Metadata.STACK
        return found

    def _direct_stacks(self) -> list[Area]:
        """Get the stacks of tasks that are in the direct map or the kernel image."""
        found = []
        for stack in self.stacks:
            rows = self.rows_of(stack.start, stack.size)
            if len(rows):
                name = f"{stack.comm} (pid {stack.pid})"
                found.append(Area(stack.start, stack.size, AreaKind.STACK, rows, name))
        return found

    def may_be_tables(self, pfns: Array) -> Array:
        """Return which pages may be page tables of the kernel: ``bool``."""
        rows = self.pages.rows(pfns)
        result: Array = (rows >= 0) & np.isin(self.pages.state[rows], _MAY_BE_TABLES)
        return result

    def _shadow(self) -> Array:
        """Get the rows of the pages of KASAN's shadow memory: ``int64``."""
        shadow, tables = find_shadow(self.kernel), page_tables(self.kernel)
        if shadow is None or tables is None:
            return np.zeros(0, np.int64)
        rows = self.pages.rows(ranges(*tables.mapped(shadow.start, shadow.end)))
        rows = rows[rows >= 0]
        result: Array = rows[np.isin(self.pages.state[rows], _MAY_BE_TABLES)]
        return result

    def _files(self, mappings: Array, counts: Array) -> list[FileUse]:
        """
        Get the files with most pages in the page cache.

        :param mappings: Addresses of their ``struct address_space``: ``uint64``, ascending.
        :param counts: Number of pages of each.
        """
        found = []
        for place in np.argsort(-counts, kind="stable")[:_FILES].tolist():
            address, file = int(mappings[place]), {"path": None}
            with self.kernel.tolerate("the files at {} cannot be read", of=f"{address:#x}"):
                file = file_of(self.kernel, address, 0)
            found.append(
                FileUse(file["path"], file.get("filesystem"), file.get("inode"), int(counts[place]))
            )
        return found

    def _section_arrays(self) -> Iterator[tuple[int, int, int]]:
        """Yield the kind, address and size of every memmap and page_ext array."""
        struct_page, stride = (
            self.kernel.struct_page_size,
            page_ext_stride(self.kernel),
        )
        memmaps: list[tuple[int, int]] = []
        for section in find_sections(self.kernel):
            number = section.end_pfn - section.start_pfn
            if section.page_ext and stride:
                yield Metadata.PAGE_EXT, section.page_ext, number * stride
            # Memmaps of adjacent sections are mostly adjacent, too.
            start, size = section.memmap, number * struct_page
            if memmaps and sum(memmaps[-1]) == start:
                start, before = memmaps.pop()
                size += before
            memmaps.append((start, size))
        for start, size in memmaps:
            yield Metadata.MEMMAP, start, size

    def _stack_depot(self) -> Iterator[Array]:
        try:
            pools, pool_size = depot_pools(self.kernel)
        except (PageOwnerError, *DAMAGE) as error:
            unless_mistaken(error)
            return
        for address in pools.tolist():
            yield self.rows_of(address, pool_size)

    def rows_of(self, address: int, size: int) -> Array:
        """Get the rows of the pages of a range of the direct map or the kernel image: ``int64``."""
        phys = self.phys_of(address)
        if phys is None:
            return np.zeros(0, np.int64)
        end = min(-(-(phys + size) // self._size), self.pages.facts.max_pfn)
        rows = self.pages.rows(np.arange(phys // self._size, end, dtype=np.int64))
        result: Array = rows[rows >= 0]
        return result

    def phys_of(self, address: int) -> int | None:
        """Get the physical address of an address in the direct map or the kernel image."""
        try:
            if self._image is not None and self._image[0] <= address < self._image[1]:
                return kernel_phys(self.kernel, address)
            return direct_phys(self.kernel, address)
        except DAMAGE as error:
            unless_mistaken(error)
            return None

    def _in_direct_map(self, address: int, size: int) -> bool:
        try:
            start, end = direct_map(self.kernel), direct_map_end(self.kernel)
        except DAMAGE as error:
            unless_mistaken(error)
            return False
        return start <= address and address + size <= end

    def _mapped_rows(self, address: int, size: int) -> Array:
        """Get the rows of the pages of a range of any kernel mapping: ``int64``."""
        if self._in_direct_map(address, size):
            return self.rows_of(address, size)
        number = -(-(address % self._size + size) // self._size)
        area = self._areas.get(address)
        # A vmalloc area has its list of pages; other ranges are looked up in the page tables.
        if area is not None and number <= len(area.rows):
            rows = area.rows[:number]
        else:
            rows = self.pages.rows(kernel_pfns(self.kernel, address, number))
        result: Array = rows[rows >= 0]
        return result


def _narrow(kernel: Kernel, pages: Pages, records: Snapshot) -> None:
    """Drop the column of pages that a heap does not need, and hold less of those of records."""
    del pages.columns["head"]
    if is_live(kernel.prog):
        return
    names = [name for name in (_TIME, *OWNER_COLUMNS) if name in (owner_dtype(kernel).names or ())]
    pfn = records["pfn"]
    rows = LaterRows(partial(read_rows_of_records, kernel, pfn), len(records), names)
    records.columns.update(Later.columns(rows, records.columns))
