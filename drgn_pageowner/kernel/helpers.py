# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Helpers in the style of :mod:`drgn.helpers.linux`, for one page at a time.

To read all pages at once, use :func:`drgn_pageowner.snapshot`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from drgn import Object, Program, StackTrace
from drgn.helpers.common.prog import takes_program_or_default

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kallsyms import name_module_symbols
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout
from drgn_pageowner.kernel.linux.sections import memmap_pfns, page_ext_stride, section_of
from drgn_pageowner.kernel.linux.stackdepot import read_stacks
from drgn_pageowner.kernel.linux.trace import record_trace
from drgn_pageowner.kernel.read.records import read_records

if TYPE_CHECKING:
    from drgn_pageowner.model.heap import Heap, Inventory
    from drgn_pageowner.model.pages import Memory
    from drgn_pageowner.model.records import Snapshot

__all__ = (
    "for_each_page_owner",
    "page_ext",
    "page_owner",
    "page_owner_free_stack",
    "page_owner_stack",
    "read_heap",
    "read_inventory",
    "read_memory",
    "snapshot",
    "use_jobs",
)


def use_jobs(prog: Program, jobs: int) -> None:
    """
    Let *jobs* processes at most read the memory of *prog* at the same time.

    By default, the calling process reads alone. With more, processes are forked while a large dump
    is read, and exit before the function that reads returns. Fork only if no other thread of the
    calling process holds a lock that reading needs. Results do not depend on *jobs*.

    :raises ValueError: if *jobs* is less than 1
    """
    if jobs < 1:
        raise ValueError(f"{jobs} processes cannot read a dump")
    Kernel.of(prog).jobs = jobs


def snapshot(
    prog: Program, *, columns: Iterable[str] | None = None, freed: bool = False
) -> Snapshot:
    """
    Decode the page_owner records of *prog*.

    :param columns: Columns to decode, of
        :data:`~drgn_pageowner.kernel.read.records.ALL_COLUMNS`; all by default. Fewer columns
        take less time: the memmap is only read for columns of ``struct page``. ``pfn``, ``order``
        and ``allocated`` are always decoded.
    :param freed: Also keep the records of freed pages (column ``allocated``).
    :raises PageOwnerError: if the kernel has no CONFIG_PAGE_OWNER, page_owner is off, or the
        tables needed to find the records cannot be read
    """
    return read_records(Kernel.of(prog).reading(), columns=columns, freed=freed)


def read_memory(prog: Program, *, columns: Iterable[str] = ()) -> Memory:
    """
    Read every ``struct page`` and every free list.

    :param columns: Columns of :class:`~drgn_pageowner.model.pages.Pages` besides ``state``,
        ``zone`` and ``free_order``: of ``flags``, ``refcount``, ``mapcount``, ``mapping``,
        ``head``.
    :raises PageOwnerError: if ``mem_section`` is not in the dump
    """
    from drgn_pageowner.kernel.read import pages

    return pages.read_all_pages(Kernel.of(prog).reading(), columns=columns)


def read_inventory(prog: Program) -> Inventory:
    """
    Read the data that determine the use of every page.

    :raises PageOwnerError: if the dump lacks memory that is needed for this
    """
    from drgn_pageowner.kernel.read import inventory

    return inventory.InventoryReader(Kernel.of(prog).reading()).inventory


def read_heap(prog: Program, *, types: bool = False) -> Heap:
    """
    Find every pointer from one allocation of the kernel to another.

    :param types: Also read what the types of allocations are inferred from, as ``leaks`` does.
    :raises PageOwnerError: if this kernel has no records, or the dump lacks memory that is needed
    """
    from drgn_pageowner.kernel.read import heap

    return heap.HeapReader(Kernel.of(prog).reading(), types=types).heap


def page_ext(page: Object) -> Object:
    """
    Get the ``struct page_ext`` of a page, as ``lookup_page_ext()`` of mm/page_ext.c does.

    :param page: ``struct page *``
    :return: ``struct page_ext *``; ``NULL`` if the page has none.
    :raises FaultError: if ``mem_section`` is not in the dump
    """
    kernel = Kernel.of(page.prog_)
    pfn = int(memmap_pfns(kernel, np.array([int(page)], np.uint64))[0])
    section = section_of(kernel, pfn)
    address = 0
    if section is not None and section.page_ext:
        address = section.page_ext + (pfn - section.start_pfn) * page_ext_stride(kernel)
    return Object(kernel.prog, "struct page_ext *", value=address)


def page_owner(page: Object) -> Object:
    """
    Get the page_owner record of a page, as ``get_page_owner()`` of mm/page_owner.c does.

    The record of a freed page is that of its last allocation.

    :param page: ``struct page *``
    :return: ``struct page_owner *``; before Linux kernel commit 9300d8dfd287 ("mm/page_owner: don't
        define fields on struct page_ext by hard-coding") (in v4.9), the ``struct page_ext *`` that
        contains the record; ``NULL`` if page_owner never saw the page allocated.
    :raises PageOwnerError: if this kernel has no page_owner, or it is off
    """
    prog = page.prog_
    layout = page_ext_layout(Kernel.of(prog))
    ext = page_ext(page)
    type_ = f"{layout.owner_type} *"
    if not ext or not int(ext.flags) & layout.owner_bit:
        return Object(prog, type_, value=0)
    return Object(prog, type_, value=int(ext) + layout.owner_offset)


def page_owner_stack(page: Object) -> StackTrace | None:
    """
    Get the stack that allocated a page.

    :param page: ``struct page *``
    :return: ``None`` if page_owner never saw the page allocated, or the stack depot does not
        have the stack.
    :raises PageOwnerError: if this kernel has no page_owner, or it is off
    :raises NotImplementedError: if drgn has no stack traces of this architecture (i386)
    """
    return _stack(page, "handle")


def page_owner_free_stack(page: Object) -> StackTrace | None:
    """
    Get the stack that freed a page last.

    :param page: ``struct page *``
    :return: ``None`` if it was never freed, or before Linux kernel commit 8974558f49a6 ("mm,
        page_owner, debug_pagealloc: save and dump freeing stack trace") (in v5.4).
    :raises PageOwnerError: if this kernel has no page_owner, or it is off
    :raises NotImplementedError: if drgn has no stack traces of this architecture (i386)
    """
    return _stack(page, "free_handle")


@takes_program_or_default
def for_each_page_owner(prog: Program) -> Iterator[tuple[int, Object, Object]]:
    """
    Iterate over every allocation that page_owner has a record of.

    The records are found in bulk; each object is created when it is yielded.

    :return: Iterator of the PFN of the allocation's first page, its ``struct page *`` and its
        ``struct page_owner *``.
    :raises PageOwnerError: if this kernel has no page_owner, or it is off
    """
    kernel = Kernel.of(prog).reading()
    memmap, layout = Memmap(kernel), page_ext_layout(kernel)
    records = read_records(kernel, columns=("pfn",))
    for pfn in records["pfn"].tolist():
        section = memmap.section(pfn)
        assert section is not None
        entry = section.page_ext + (pfn - section.start_pfn) * layout.stride
        owner = Object(prog, f"{layout.owner_type} *", value=entry + layout.owner_offset)
        yield pfn, memmap.page(pfn), owner


def _stack(page: Object, member: str) -> StackTrace | None:
    owner = page_owner(page)
    if not owner:
        return None
    prog = page.prog_
    name_module_symbols(Kernel.of(prog))
    if member == "handle" and (trace := record_trace(owner)) is not None:
        return prog.stack_trace_from_pcs(trace)
    try:
        handle = int(owner.member_(member))
    except LookupError:
        return None
    try:
        stacks, _ = read_stacks(Kernel.of(prog), np.array([handle], np.uint32))
    except PageOwnerError:
        return None
    return prog.stack_trace_from_pcs(stacks[0].tolist()) if len(stacks) else None
