# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Helpers in the style of :mod:`drgn.helpers.linux`, for one page at a time.

For all pages at once there is :func:`drgn_pageowner.snapshot`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from drgn import Object, Program, StackTrace
from drgn.helpers.common.prog import takes_program_or_default

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.page_ext import PageExtLayout, page_ext_layout
from drgn_pageowner.kernel.linux.sections import (
    Section,
    find_sections,
    memmap_pfns,
    page_ext_stride,
    section_of,
)
from drgn_pageowner.kernel.linux.stackdepot import depot_layout, read_stacks
from drgn_pageowner.kernel.linux.trace import record_trace
from drgn_pageowner.kernel.read.records import snapshot

__all__ = (
    "for_each_page_owner",
    "page_ext",
    "page_owner",
    "page_owner_free_stack",
    "page_owner_stack",
)


def page_ext(page: Object) -> Object:
    """
    Get the ``struct page_ext`` of a page, as ``lookup_page_ext()`` of mm/page_ext.c does.

    :param page: ``struct page *``
    :return: ``struct page_ext *``; ``NULL`` if the page has none.
    :raises FaultError: if the dump does not hold ``mem_section``
    """
    prog = page.prog_
    sections = _sections(prog)
    size = int(prog.type("struct page").size)
    pfn = int(memmap_pfns(sections, np.array([int(page)], np.uint64), size)[0])
    section = section_of(sections, pfn)
    address = 0
    if section is not None and section.page_ext:
        address = section.page_ext + (pfn - section.start_pfn) * page_ext_stride(prog)
    return Object(prog, "struct page_ext *", value=address)


def page_owner(page: Object) -> Object:
    """
    Get the page_owner record of a page, as ``get_page_owner()`` of mm/page_owner.c does.

    The record of a freed page is that of its last allocation.

    :param page: ``struct page *``
    :return: ``struct page_owner *``, before v4.9 the ``struct page_ext *`` that the record is
        in; ``NULL`` if page_owner never saw the page allocated.
    :raises PageOwnerError: if this kernel has no page_owner, or it is off
    """
    prog = page.prog_
    layout = _layout(prog)
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
    :return: ``None`` if it was never freed, or this kernel does not say who did (since v5.4).
    :raises PageOwnerError: if this kernel has no page_owner, or it is off
    :raises NotImplementedError: if drgn has no stack traces of this architecture (i386)
    """
    return _stack(page, "free_handle")


@takes_program_or_default
def for_each_page_owner(prog: Program) -> Iterator[tuple[int, Object, Object]]:
    """
    Iterate over every allocation that page_owner has a record of.

    The records are found in bulk; each object is only made when it is yielded.

    :return: Iterator of the PFN of the allocation's first page, its ``struct page *`` and its
        ``struct page_owner *``.
    :raises PageOwnerError: if this kernel has no page_owner, or it is off
    """
    memmap = Memmap(prog)
    layout = _layout(prog)
    records = snapshot(prog, columns=("pfn",))
    for pfn in records["pfn"].tolist():
        section = memmap.section(pfn)
        assert section is not None
        entry = section.page_ext + (pfn - section.start_pfn) * layout.stride
        owner = Object(prog, f"{layout.owner_type} *", value=entry + layout.owner_offset)
        yield pfn, memmap.page(pfn), owner


def _sections(prog: Program) -> list[Section]:
    key = "drgn_pageowner.sections"
    found: list[Section] | None = prog.cache.get(key)
    if found is None:
        found = prog.cache[key] = find_sections(prog)
    return found


def _layout(prog: Program) -> PageExtLayout:
    key = "drgn_pageowner.layout"
    found: PageExtLayout | None = prog.cache.get(key)
    if found is None:
        found = prog.cache[key] = page_ext_layout(prog)
    return found


def _stack(page: Object, member: str) -> StackTrace | None:
    owner = page_owner(page)
    if not owner:
        return None
    prog = page.prog_
    if member == "handle" and (trace := record_trace(owner)) is not None:
        return prog.stack_trace_from_pcs(trace)
    try:
        handle = int(owner.member_(member))
    except LookupError:
        return None
    try:
        stacks, _ = read_stacks(prog, depot_layout(prog), np.array([handle], np.uint32))
    except PageOwnerError:
        return None
    return prog.stack_trace_from_pcs(stacks[0].tolist()) if len(stacks) else None
