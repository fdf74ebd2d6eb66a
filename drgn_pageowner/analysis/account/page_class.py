# SPDX-License-Identifier: LGPL-2.1-or-later
"""Put every page into exactly one class."""

from __future__ import annotations

import re

import numpy as np

from drgn_pageowner.analysis.owners.allocator import is_allocation_function, plain_name
from drgn_pageowner.analysis.owners.stack_table import (
    StackTable,
    kinds_of_stacks,
    per_record,
    per_stack,
)
from drgn_pageowner.model.arrays import Array, among, looked_up, slices
from drgn_pageowner.model.heap import AreaKind, Inventory, Metadata
from drgn_pageowner.model.kept import kept
from drgn_pageowner.model.kinds import Kind
from drgn_pageowner.model.pages import PageState
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.threads import in_threads

__all__ = (
    "UNACCOUNTED",
    "UNACCOUNTED_COLUMNS",
    "PageClass",
    "classes_of_records",
    "classes_of_stacks",
    "page_classes",
    "unaccounted_records",
)


UNACCOUNTED_COLUMNS = frozenset(("handle", "gfp_mask", "migratetype", "page_flags"))
"""Columns that :func:`unaccounted_records` needs."""


class PageClass(Kind):
    """Classes of pages by use (values of :func:`page_classes`)."""

    FREE = 0, "free"
    FREE_PCP = 1, "free (per-CPU lists)"
    SLAB = 2, "slab"
    LARGE_KMALLOC = 3, "large kmalloc"
    ANON = 4, "anonymous"
    FILE = 5, "page cache"
    BUFFERS = 6, "buffers"
    """Page cache of block devices."""
    SHMEM = 7, "shmem"
    TABLE = 8, "page tables"
    STACK = 9, "kernel stacks"
    """Stacks of tasks, and free stacks that are cached for new tasks."""
    VMALLOC = 10, "vmalloc"
    MODULE = 11, "modules"
    """vmalloc memory of loaded modules."""
    PERCPU = 12, "per-CPU"
    HUGETLB = 13, "hugetlb"
    ZSMALLOC = 14, "zsmalloc"
    PAGE_POOL = 15, "page_pool"
    OFFLINE = 16, "offline"
    """In a balloon, hot-unplugged, a guard page, or not accepted yet."""
    MEMMAP = 17, "memmap"
    PAGE_EXT = 18, "page_ext"
    STACK_DEPOT = 19, "stack depot"
    BOOT = 20, "boot-reserved"
    """Reserved, or allocated before page_owner was initialized."""
    IMAGE = 21, "kernel image"
    OTHER = 22, "driver or other kernel"
    """Memory of drivers and other kernel code: ``/proc/meminfo`` shows it nowhere."""
    UNKNOWN = 23, "unknown"
    """A page whose ``struct page`` is not in the dump."""
    ABSENT = 24, "absent"
    """No memory at this PFN."""
    KERNEL_TABLE = 25, "kernel page tables"
    """Page tables of the kernel's own mappings, those made at boot included."""
    SHADOW = 26, "KASAN shadow"
    """Shadow memory of KASAN."""
    KFENCE = 27, "KFENCE pool"
    """The pool of KFENCE."""
    GPU = 28, "GPU"
    """Memory that TTM allocated for graphics drivers, including its pools of free pages."""


UNACCOUNTED = (
    PageClass.OTHER, PageClass.LARGE_KMALLOC, PageClass.VMALLOC, PageClass.PAGE_POOL, PageClass.GPU,
)  # fmt: skip
"""Classes whose pages are in use only while their address is stored somewhere."""

_OF_STATE = {
    PageState.UNKNOWN: PageClass.UNKNOWN,
    PageState.ABSENT: PageClass.ABSENT,
    PageState.FREE: PageClass.FREE,
    PageState.FREE_PCP: PageClass.FREE_PCP,
    PageState.RESERVED: PageClass.BOOT,
    PageState.SLAB: PageClass.SLAB,
    PageState.LARGE_KMALLOC: PageClass.LARGE_KMALLOC,
    PageState.TABLE: PageClass.TABLE,
    PageState.ANON: PageClass.ANON,
    PageState.FILE: PageClass.FILE,
    PageState.SHMEM: PageClass.SHMEM,
    PageState.HUGETLB: PageClass.HUGETLB,
    PageState.ZSMALLOC: PageClass.ZSMALLOC,
    PageState.OFFLINE: PageClass.OFFLINE,
    PageState.GUARD: PageClass.OFFLINE,
    PageState.UNACCEPTED: PageClass.OFFLINE,
    PageState.NETPP: PageClass.PAGE_POOL,
}
_OF_METADATA = {
    Metadata.MEMMAP: PageClass.MEMMAP,
    Metadata.PAGE_EXT: PageClass.PAGE_EXT,
    Metadata.STACK_DEPOT: PageClass.STACK_DEPOT,
    Metadata.IMAGE: PageClass.IMAGE,
    Metadata.STACK: PageClass.STACK,
    Metadata.PERCPU: PageClass.PERCPU,
    Metadata.TABLE: PageClass.KERNEL_TABLE,
    Metadata.SHADOW: PageClass.SHADOW,
    Metadata.KFENCE: PageClass.KFENCE,
    Metadata.USER_TABLE: PageClass.TABLE,
}

# If the struct page does not determine the use of a page, its stack does: the first of these
# functions, from the innermost frame on.
_OF_FUNCTION = (
    # mm/page_owner.c: allocated before page_owner was initialized.
    (
        PageClass.BOOT,
        re.compile(r"register_early_stack|init_early_allocated_pages|init_pages_in_zone"),
    ),
    # mm/percpu-vm.c, mm/percpu-km.c
    (PageClass.PERCPU, re.compile(r"pcpu_(alloc_pages|populate_chunk|create_chunk)")),
    # mm/slab_common.c, mm/slub.c: kmalloc() of more than the largest kmalloc cache.
    (PageClass.LARGE_KMALLOC, re.compile(r"kmalloc_order(_trace)?|_*kmalloc_large\w*")),
    (PageClass.PAGE_POOL, re.compile(r"_*page_pool_alloc_\w+")),
    (PageClass.ZSMALLOC, re.compile(r"alloc_zspage|zs_malloc")),
    # drivers/gpu/drm/ttm/ttm_pool.c
    (PageClass.GPU, re.compile(r"ttm_pool_alloc(_page)?")),
    (PageClass.OFFLINE, re.compile(r"balloon_page_alloc")),
    # mm/memory.c, include/asm-generic/pgalloc.h, arch/*/mm/pgtable.c, arch/*/mm/pat/
    (
        PageClass.TABLE,
        re.compile(
            r"_*(pte|pmd|pud|p4d|pgd)_alloc(_(one|kernel|pcpu|track)\w*)?|"
            r"spp_getpage|alloc_low_pages?|_*split_large_page|_*change_page_attr(_set_clr)?|"
            r"pagetable_alloc|preallocate_pmds|(kernel|vmemmap)_\w*(pte|pmd|pud|p4d)\w*_populate"
        ),
    ),
    # kernel/fork.c
    (PageClass.STACK, re.compile(r"alloc_thread_stack_node")),
    # mm/vmalloc.c. If the area is known, its kind is used instead, which is more precise.
    (
        PageClass.VMALLOC,
        re.compile(r"_*vmalloc(_(node|area_node|node_range))?|vm_area_alloc_pages"),
    ),
)  # fmt: skip


_STACK_ALLOCATORS = ("alloc_thread_stack_node", "dup_task_struct", "copy_process")
"""The function of kernel/fork.c that allocates task stacks, and functions that it may be inlined
into."""


def classes_of_stacks(table: StackTable) -> Array:
    """
    Return the classes of the pages that stacks allocate.

    :return: ``uint8``, a row per stack: :class:`PageClass`; :attr:`PageClass.OTHER` if no function
        in it determines the class.
    """
    plain = [None if frame.name is None else plain_name(frame.name) for frame in table.frames]
    of_frame = np.array([_class_of_function(name) for name in plain], np.int16)[table.code]
    place = table.first(of_frame >= 0)
    result = np.where(place >= 0, np.append(of_frame, -1)[place], PageClass.OTHER).astype(np.uint8)
    # A function that allocates stacks of tasks may be inlined into its caller.
    for_task = np.array([name in _STACK_ALLOCATORS for name in plain], bool)[table.code]
    result[(result == PageClass.VMALLOC) & table.any(for_task)] = PageClass.STACK
    # Stacks of tasks without CONFIG_VMAP_STACK, or if the compiler inlined
    # alloc_thread_stack_node().
    others = [name is not None and not is_allocation_function(name) for name in plain]
    first = table.first(np.array(others, bool)[table.code])
    result[(place < 0) & (first >= 0) & np.append(for_task, False)[first]] = PageClass.STACK
    return result


def _class_of_function(name: str | None) -> int:
    """Return the :class:`PageClass` of pages that a function allocates; -1 if the function does not
    show it."""
    if name is None:
        return -1
    return next((int(kind) for kind, pattern in _OF_FUNCTION if pattern.fullmatch(name)), -1)


def unaccounted_records(records: Snapshot) -> Array:
    """
    Find records of memory in use only while its address is stored somewhere, as far as the records
    alone tell: they do not belong to processes, files or slabs, and their stacks do not allocate
    page tables, stacks of tasks or the like.

    :param records: With :data:`UNACCOUNTED_COLUMNS`.
    :return: ``bool``, a row per record.
    """

    def kept(table: StackTable) -> Array:
        result: Array = kinds_of_stacks(table) != "slab"
        result &= np.isin(classes_of_stacks(table), UNACCOUNTED)
        return result

    names = records.names
    lru = np.uint64(names.flag_mask("lru") | names.flag_mask("slab"))
    held = np.zeros(len(records), bool)
    if "page_flags" in records:
        held |= (records["page_flags"] & lru) != 0
    if "Movable" in names.migratetypes and "migratetype" in records:
        held |= records["migratetype"] == list(names.migratetypes).index("Movable")
    result: Array = ~held
    rows = np.flatnonzero(result)
    result[rows] = per_stack(records, records.stack_of(rows), kept)
    return result


def classes_of_records(records: Snapshot, numbers: Array) -> Array:
    """
    Return the classes of pages allocated by the stacks of some records.

    :param numbers: Indices of the records.
    :return: ``uint8``, the shape of *numbers*: :class:`PageClass`.
    """
    return per_stack(records, records.stack_of(numbers), classes_of_stacks)


def page_classes(inventory: Inventory) -> Array:
    """
    Return the class of every page.

    :return: ``uint8``, a row per page: :class:`PageClass`.
    """
    # Without records, do not cache the result, because reading the heap finds the use of more
    # pages.
    return _page_classes(inventory) if inventory.records is None else _kept_classes(inventory)


# Pages of these states belong to the kernel, and their stack or their address tells what they are.
# A driver can migrate its pages on kernels whose zsmalloc and balloon have no page type.
_TOLD = (PageState.KERNEL, PageState.NOREF, PageState.DRIVER_MOVABLE)
_NO_CLASS = 255


def _page_classes(inventory: Inventory) -> Array:
    pages, records = inventory.memory.pages, inventory.records
    table = np.full(len(PageState), PageClass.OTHER, np.uint8)
    for state, value in _OF_STATE.items():
        table[state] = value
    result = looked_up(table, pages.state)
    if records is not None and len(records):
        # The last element is for pages without a record, whose record is -1.
        of_record = np.append(per_record(records, classes_of_stacks), np.uint8(_NO_CLASS))

        def add_recorded(piece: slice) -> None:
            recorded = of_record[inventory.record_of_row[piece]]
            known = among(pages.state[piece], _TOLD) & (recorded != _NO_CLASS)
            np.copyto(result[piece], recorded, where=known)

        in_threads(add_recorded, slices(len(result)))
    rows, kinds = _pages_of_areas(inventory)
    plain = among(pages.state[rows], _TOLD)
    plain &= among(result[rows], (PageClass.OTHER, PageClass.VMALLOC))
    result[rows[plain]] = kinds[plain]
    of_metadata = np.zeros(len(Metadata), np.uint8)
    for kind, value in _OF_METADATA.items():
        of_metadata[kind] = value

    def add_metadata(piece: slice) -> None:
        rows = np.flatnonzero(inventory.metadata[piece])
        metadata, state = inventory.metadata[piece][rows], pages.state[piece][rows]
        mine = metadata == Metadata.IMAGE
        mine |= among(state, (*_TOLD, PageState.RESERVED, PageState.TABLE))
        result[piece][rows[mine]] = of_metadata[metadata[mine]]

    in_threads(add_metadata, slices(len(result)))
    result[inventory.buffers] = PageClass.BUFFERS
    return result


def _pages_of_areas(inventory: Inventory) -> tuple[Array, Array]:
    """
    Return the rows of the pages of all areas except those of ``vmap()``, and the class that each
    has as a page of its area: ``int64`` and ``uint8``.
    """
    areas = [area for area in inventory.areas if area.kind != AreaKind.VMAP]
    rows = np.concatenate([np.zeros(0, np.int64), *(area.rows for area in areas)])
    kinds = np.repeat(
        np.array(
            [
                PageClass.MODULE if area.kind == AreaKind.MODULE else PageClass.VMALLOC
                for area in areas
            ],
            np.uint8,
        ),
        [len(area.rows) for area in areas],
    )
    known = rows >= 0
    return rows[known], kinds[known]


_kept_classes = kept(_page_classes)
