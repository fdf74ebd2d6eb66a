# SPDX-License-Identifier: LGPL-2.1-or-later
"""Count the pages of every class, and compare them with the kernel's own counters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from drgn_pageowner.analysis.account.page_class import PageClass, classes_of_records, page_classes
from drgn_pageowner.model.arrays import Array, ascending, frequencies, rows_among, slices
from drgn_pageowner.model.heap import AreaKind, Inventory, Metadata
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.pages import PageState
from drgn_pageowner.model.threads import in_threads

__all__ = ("Account", "ClassCount", "Counter", "ZoneCounts", "account")


@dataclass(frozen=True)
class Counter:
    """The kernel's own counter of a class of pages. All numbers are in base pages."""

    name: str
    """Name of the counter in ``/proc/meminfo`` or ``/proc/vmstat``."""
    pages: int
    uncounted: int
    """Pages of the class that the counter leaves out."""
    others: int
    """Pages of other classes that the counter counts too."""
    note: str
    """The reason for :attr:`uncounted` and :attr:`others`; empty if both are 0."""
    difference: int
    """Return ``pages - uncounted + others - counter``, in base pages."""


@dataclass(frozen=True)
class ClassCount:
    """The pages of one class, and the kernel's counter of them."""

    name: str
    """Label of a :class:`PageClass`."""
    pages: int
    """Number of base pages."""
    bytes: int
    counter: Counter | None
    """``None`` where the kernel has no counter for it."""
    slab_caches: list[tuple[str, int]] | None = None
    """Name and number of pages of every slab cache, largest first; only for the class slab."""


@dataclass(frozen=True)
class ZoneCounts:
    """The pages of one zone, by class."""

    node: int
    zone: str
    present: int
    """``present_pages``."""
    classes: dict[str, int]
    """Class -> base pages; classes without a page are left out."""


@dataclass(frozen=True)
class Account:
    """Every page of a machine, in exactly one class."""

    present: int
    """Sum of the zones' ``present_pages``."""
    accounted: int
    """Number of pages in all classes; equal to :attr:`present` unless the dump is incomplete."""
    unknown: int
    """Accounted pages whose ``struct page`` is not in the dump."""
    classes: list[ClassCount]
    zones: list[ZoneCounts]


def account(inventory: Inventory, classes: Array | None = None) -> Account:
    """
    Put every page into one class, and compare the classes with the kernel's counters.

    :param classes: The result of :func:`~drgn_pageowner.analysis.account.page_class.page_classes`,
        if already known.
    """
    return _account(inventory, page_classes(inventory) if classes is None else classes)


@kept
def _account(inventory: Inventory, classes: Array) -> Account:
    facts = inventory.memory.pages.facts
    table = _counted(inventory, classes)
    counts = table.sum(axis=(0, 2))
    counts[PageClass.ABSENT] = 0
    counters = _Counters(inventory, classes, counts, table.sum(axis=0))
    rows = []
    for number in np.flatnonzero(counts).tolist():
        pages = int(counts[number])
        rows.append(
            ClassCount(
                name=PageClass(number).label,
                pages=pages,
                bytes=pages * facts.page_size,
                counter=counters.of(number),
                slab_caches=_slab_caches(inventory, table) if number == PageClass.SLAB else None,
            )
        )
    return Account(
        # The zones of a node may be unreadable although its pages are known.
        present=max(sum(zone.present for zone in facts.zones), int(counts.sum())),
        accounted=int(counts.sum()),
        unknown=int(counts[PageClass.UNKNOWN]),
        classes=sorted(rows, key=lambda row: -row.pages),
        zones=_zones(inventory, table.sum(axis=2)),
    )


# Up to so many times in a piece of pages, the zone changes where zones begin and end.
_CHANGES = 64


def _counted(inventory: Inventory, classes: Array) -> Array:
    """
    Count the pages by zone, class and state.

    :return: ``int64``, shape ``(256, classes, states)``; zone 255 is none.
    """
    pages = inventory.memory.pages
    shape = (256, len(PageClass), len(PageState))
    columns = shape[1] * shape[2]

    def counted(piece: slice) -> list[tuple[int, Array]]:
        """Return some zones, and the pages of each by class and state."""
        zone = pages["zone"][piece]
        key = classes[piece].astype(np.uint16) * np.uint16(shape[2])
        key += pages.state[piece]
        changes = np.flatnonzero(zone[1:] != zone[:-1]) + 1
        if len(changes) > _CHANGES:
            every = key + zone.astype(np.int64) * columns
            counts = np.bincount(every, minlength=shape[0] * columns).reshape(shape[0], columns)
            return [*enumerate(counts)]
        edges = [0, *changes.tolist(), len(zone)]
        return [
            (int(zone[start]), frequencies(key[start:end], columns))
            for start, end in pairwise(edges)
        ]

    table = np.zeros((shape[0], columns), np.int64)
    for found in in_threads(counted, slices(len(classes))):
        for number, counts in found:
            table[number] += counts
    return table.reshape(shape)


def _zones(inventory: Inventory, of_zone: Array) -> list[ZoneCounts]:
    """
    Return the classes of each zone.

    :param of_zone: Number of pages: ``int64``, shape ``(256, classes)``.
    """
    zones = inventory.memory.pages.facts.zones
    return [
        ZoneCounts(
            zone.node,
            zone.name,
            zone.present,
            {
                code.label: int(of_zone[index, code])
                for code in PageClass
                if of_zone[index, code] and code != PageClass.ABSENT
            },
        )
        for index, zone in enumerate(zones)
        if zone.present
    ]


def _slab_caches(inventory: Inventory, table: Array) -> list[tuple[str, int]]:
    slabs = inventory.slabs
    # Objects of KFENCE are not in slabs.
    real = inventory.metadata[slabs.row] != Metadata.KFENCE
    cache, number = slabs.cache[real], slabs.pages[real]
    pages = np.bincount(cache, number, len(slabs.caches)).astype(np.int64)
    order = np.argsort(-pages, kind="stable")
    found = [(slabs.caches[cache], int(pages[cache])) for cache in order.tolist() if pages[cache]]
    lost = int(table[:, :, PageState.SLAB].sum()) - int(pages.sum())
    return [*found, ("(no cache)", lost)] if lost > 0 else found


class _Counters:
    """The kernel's own counters, with the known differences between each counter and its class."""

    def __init__(
        self, inventory: Inventory, classes: Array, counts: Array, by_state: Array
    ) -> None:
        """
        :param classes: Class of each page.
        :param counts: Number of pages of each class.
        :param by_state: Number of pages of each class (rows) and state (columns).
        """
        self._inventory = inventory
        self._counters = inventory.counters
        self._classes = classes
        self._counts = counts
        self._by_state = by_state

    def of(self, number: int) -> Counter | None:
        """Return the counter of the class with number *number*; ``None`` if the kernel has none."""
        rules = {
            PageClass.FREE: self._free,
            PageClass.FREE_PCP: self._free_pcp,
            PageClass.SLAB: self._slab,
            PageClass.ANON: self._anon,
            PageClass.FILE: self._file,
            PageClass.SHMEM: self._shmem,
            PageClass.TABLE: self._table,
            PageClass.STACK: self._stack,
            PageClass.VMALLOC: self._vmalloc,
            PageClass.PERCPU: self._percpu,
            PageClass.HUGETLB: self._hugetlb,
            PageClass.ZSMALLOC: self._zsmalloc,
            PageClass.GPU: self._gpu,
        }
        return rules[kind](kind) if (kind := PageClass(number)) in rules else None

    def _make(
        self, number: int, name: str, pages: int, uncounted: int = 0, others: int = 0,
        note: str = "",
    ) -> Counter:  # fmt: skip
        difference = int(self._counts[number]) - uncounted + others - pages
        return Counter(name, pages, uncounted, others, note, difference)

    def _sum(self, *names: str) -> int | None:
        """Return the sum of those counters that this kernel has; ``None`` if it has none."""
        known = [self._counters[name] for name in names if name in self._counters]
        return sum(known) if known else None

    def _free(self, number: int) -> Counter | None:
        pages = sum(zone.free_pages for zone in self._inventory.memory.zones)
        return self._make(number, "nr_free_pages", pages)

    def _free_pcp(self, number: int) -> Counter | None:
        pages = sum(zone.pcp for zone in self._inventory.memory.zones)
        return self._make(number, "pagesets count of /proc/zoneinfo", pages)

    def _slab(self, number: int) -> Counter | None:
        # In bytes since Linux kernel commit d42f3245c7e2 ("mm: memcg: convert vmstat slab counters
        # to bytes") (in v5.9), but printed and stored in pages.
        pages = self._sum(
            "NR_SLAB_RECLAIMABLE_B", "NR_SLAB_UNRECLAIMABLE_B",
            "NR_SLAB_RECLAIMABLE", "NR_SLAB_UNRECLAIMABLE",
        )  # fmt: skip
        if pages is None:
            return None
        large = int(self._counts[PageClass.LARGE_KMALLOC]) + self._memmap_by_kmalloc()
        return self._make(number, "Slab", pages, 0, large, "it counts large kmalloc too")

    def _memmap_by_kmalloc(self) -> int:
        """Count memmap pages that classic SPARSEMEM allocated for memory added at run time."""
        records, of_row = self._inventory.records, self._inventory.record_of_row
        rows = rows_among(self._classes, [PageClass.MEMMAP])
        rows = rows[of_row[rows] >= 0]
        if records is None or not len(rows):
            return 0
        kinds = classes_of_records(records, of_row[rows])
        return int(np.count_nonzero(kinds == PageClass.LARGE_KMALLOC))

    def _anon(self, number: int) -> Counter | None:
        pages = self._sum("NR_ANON_MAPPED", "NR_ANON_PAGES")
        if pages is None:
            return None
        return self._make(
            number, "AnonPages", pages, self._unmapped_anon(),
            note="it leaves out those that no process maps (in pipes, sockets, swap cache)",
        )  # fmt: skip

    def _unmapped_anon(self) -> int:
        """Count single anonymous pages that no process maps."""
        pages = self._inventory.memory.pages
        anon = rows_among(self._classes, [PageClass.ANON])
        heads = pages["head"][anon]
        heads = heads - heads.min(initial=0)
        single = np.bincount(heads)[heads] == 1
        return int(np.count_nonzero(single & (pages["mapcount"][anon] < 0)))

    def _file(self, number: int) -> Counter | None:
        pages = self._sum("NR_FILE_PAGES")
        if pages is None:
            return None
        pages -= (self._sum("NR_SHMEM") or 0) + (self._sum("NR_SWAPCACHE") or 0)
        buffers = int(self._counts[PageClass.BUFFERS])
        return self._make(
            number, "nr_file_pages without shmem and swap cache", pages, 0, buffers,
            "it counts buffers too",
        )  # fmt: skip

    def _shmem(self, number: int) -> Counter | None:
        pages = self._sum("NR_SHMEM")
        return None if pages is None else self._make(number, "Shmem", pages)

    def _table(self, number: int) -> Counter | None:
        pages = self._sum("NR_PAGETABLE")
        if pages is None:
            return None
        marked = self._by_state[:, PageState.TABLE]
        return self._make(
            number, "PageTables", pages,
            int(self._by_state[number].sum() - marked[number]), int(marked.sum() - marked[number]),
            "it leaves out upper levels that this kernel does not mark, and counts tables of the "
            "kernel that it marks",
        )  # fmt: skip

    def _rows(self, kinds: Iterable[AreaKind]) -> Array:
        """Return the rows of the pages in areas of *kinds*: ``int64``, ascending."""
        rows = [area.rows for area in self._inventory.areas if area.kind in kinds]
        found = ascending(np.concatenate([np.zeros(0, np.int64), *rows]))
        result: Array = found[found >= 0]
        return result

    def _stack(self, number: int) -> Counter | None:
        size = self._inventory.memory.pages.facts.page_size
        kilobytes = self._sum("NR_KERNEL_STACK_KB")
        if kilobytes is None:
            return None
        mine = rows_among(self._classes, [number])
        image = self._inventory.metadata[mine] == Metadata.STACK
        boot = image & (self._inventory.memory.pages.state[mine] == PageState.RESERVED)
        # A stack that belongs to neither a task nor a known area is about to be used, or was just
        # freed.
        nobodys = np.isin(mine, self._rows([AreaKind.CACHED_STACK])) | boot | ~image
        return self._make(
            number, "KernelStack", kilobytes * 1024 // size, int(np.count_nonzero(nobodys)),
            note="it leaves out stacks that are kept for the next task, and the first task's",
        )  # fmt: skip

    def _vmalloc(self, number: int) -> Counter | None:
        # A per-node counter since Linux kernel commit b9ec0ed90706 ("mm: vmalloc: streamline
        # vmalloc memory accounting") (in v7.1).
        pages = self._sum("nr_vmalloc_pages", "NR_VMALLOC")
        if pages is None:
            return None
        in_areas = self._classes[self._rows(set(AreaKind) - {AreaKind.VMAP})]
        mine = int(np.count_nonzero(in_areas == number))
        return self._make(
            number, "VmallocUsed", pages,
            int(self._by_state[number].sum()) - mine, len(in_areas) - mine,
            "it counts stacks and modules too, and leaves out what is in no area",
        )  # fmt: skip

    def _percpu(self, number: int) -> Counter | None:
        populated, units = self._sum("pcpu_nr_populated"), self._sum("pcpu_nr_units")
        if populated is None or units is None:
            return None
        return self._make(number, "Percpu", populated * units)

    def _hugetlb(self, number: int) -> Counter | None:
        pages = self._sum("hugetlb")
        return None if pages is None else self._make(number, "Hugetlb", pages)

    def _zsmalloc(self, number: int) -> Counter | None:
        pages = self._sum("NR_ZSPAGES")
        return None if pages is None else self._make(number, "nr_zspages", pages)

    def _gpu(self, number: int) -> Counter | None:
        # Per-node counters since Linux kernel commit 2232ba9c7931 ("mm: add gpu active/reclaim
        # per-node stat counters (v2)") (in v7.1).
        pages = self._sum("NR_GPU_ACTIVE", "NR_GPU_RECLAIM")
        if pages is None:
            return None
        return self._make(
            number, "GPUActive and GPUReclaim", pages,
            note="they leave out what the DMA API allocated",
        )  # fmt: skip
