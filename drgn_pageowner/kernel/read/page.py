# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collect all facts about one page: its ``struct page``, its record, its owner."""

from __future__ import annotations

from typing import Any

import numpy as np

from drgn_pageowner.kernel.dump.damage import Problems
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.alloc_tag import page_references
from drgn_pageowner.kernel.linux.compound import CompoundPages, compound_order_field, hugetlb_mark
from drgn_pageowner.kernel.linux.mapping import (
    MAPPING_ANON,
    MAPPING_FLAGS,
    MAPPING_MOVABLE,
    anon_users,
    file_of,
)
from drgn_pageowner.kernel.linux.memcg import MemcgTable
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.names import read_names
from drgn_pageowner.kernel.linux.page import compound_words, page_dtype, read_memmap
from drgn_pageowner.kernel.linux.page_type import page_types
from drgn_pageowner.kernel.linux.pageblock import pageblock_types
from drgn_pageowner.kernel.linux.slab_object import slab_of
from drgn_pageowner.kernel.linux.slabobj_ext import object_reference
from drgn_pageowner.kernel.linux.translate import direct_map, direct_map_end, in_kernel_image
from drgn_pageowner.kernel.linux.zones import find_zones, max_page_order, pageblock_order
from drgn_pageowner.kernel.read.address import Target, resolve
from drgn_pageowner.kernel.read.member_path import object_expression
from drgn_pageowner.kernel.read.page_record import page_record
from drgn_pageowner.kernel.read.tags import name_of_reference, tag_of_page
from drgn_pageowner.kernel.read.types import read_types
from drgn_pageowner.model.kernel import Names
from drgn_pageowner.model.page import PageInfo, PageRecord

__all__ = ("page_report",)

_FIELDS = ("flags", "memcg_data", "compound_head", "refcount", "mapcount", "mapping", "index",
           "private")  # fmt: skip

_STATES = {
    "table": "page table",
    "offline": "offline (balloon or hot-unplug)",
    "guard": "guard page (debug_pagealloc)",
    "hugetlb": "hugetlb",
    "slab": "slab",
    "large_kmalloc": "large kmalloc",
    "zsmalloc": "zsmalloc",
    "unaccepted": "unaccepted memory",
}


class _Reporter:
    """Decodes ``struct page`` and related data, and collects the problems with one page."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.memmap = Memmap(kernel)
        self.problems = Problems()
        self.names = self.problems.attempt("names", lambda: read_names(kernel)) or Names()
        self.types = page_types(kernel)
        self.dtype = page_dtype(kernel, _FIELDS)
        self.compound = CompoundPages(kernel)

    def struct_page(self, pfn: int) -> np.void | None:
        """Read the ``struct page`` of *pfn*; ``None`` if the dump lacks it."""
        section = self.memmap.section(pfn)
        if section is None:
            return None
        rows, bulk = read_memmap(self.kernel, section, self.dtype, pfn, pfn + 1)
        if bulk.missing:
            self.problems.add(f"the struct page of pfn {pfn:#x} is not in the dump")
            return None
        row: np.void = rows[0]
        return row

    def head_of(self, pfn: int, row: np.void) -> int:
        """Get the PFN of the head page of *pfn*; *pfn* itself if it is not a tail page."""
        words = compound_words(self.kernel, np.array([row]))
        return int(self.compound.heads(np.array([pfn], np.int64), words)[0])

    def _second(self, dtype: np.dtype[np.void], head_pfn: int) -> np.void | None:
        section = self.memmap.section(head_pfn)
        if section is None:
            return None
        rows, bulk = read_memmap(self.kernel, section, dtype, head_pfn + 1, head_pfn + 2)
        row: np.void | None = None if bulk.missing else rows[0]
        return row

    def is_hugetlb(self, head_pfn: int) -> bool:
        """Return whether the compound page at *head_pfn* is a hugetlb page."""
        mark = hugetlb_mark(self.kernel)
        second = self._second(mark.dtype, head_pfn) if mark is not None else None
        return (
            mark is not None
            and second is not None
            and int(second["mark"]) & mark.mask == mark.value
        )

    def compound_order(self, head_pfn: int) -> int | None:
        """Get the order of the compound page whose head is *head_pfn*."""
        dtype = compound_order_field(self.kernel)
        second = self._second(dtype, head_pfn) if dtype is not None else None
        return None if second is None else int(second["order"]) & 0xFF

    def type_name(self, row: np.void) -> str:
        number = int(self.types.of(np.array([row["mapcount"]]))[0])
        return self.types.names[number]

    def flag(self, row: np.void, name: str) -> bool:
        """Return whether ``page.flags`` has the flag that the kernel calls *name*."""
        mask = next((mask for mask, text in self.names.page_flags if text == name), 0)
        return bool(int(row["flags"]) & mask)

    def field(self, row: np.void, name: str) -> int | None:
        field = next((field for field in self.names.page_flag_fields if field.name == name), None)
        return int(field.of(np.array([row["flags"]]))[0]) if field is not None else None

    def free_block(self, pfn: int) -> tuple[int, int] | None:
        """Get ``(first PFN, order)`` of the buddy allocator's free block that contains *pfn*."""
        for order in range(max_page_order(self.kernel) + 1):
            head = pfn & -(1 << order)
            row = self.struct_page(head) if self.memmap.section(head) else None
            if row is not None and self.type_name(row) == "buddy":
                size = int(row["private"])
                fits = size <= max_page_order(self.kernel) and pfn < head + (1 << size)
                return (head, size) if fits else None
        return None


_NO_REFERENCE = "free, on a per-CPU list or being freed"
_NOT_RECORDED = "in use, owner not recorded"
# States that do not tell whether the page is allocated. If it has a tag, it is.
_UNRECORDED = (_NO_REFERENCE, _NOT_RECORDED)


def page_report(kernel: Kernel, what: str) -> PageInfo:
    """
    Collect all facts about one page.

    :param what: ``pfn:N``, ``phys:A``, or an address: of a ``struct page``, of a slab object, or in
        the direct map, the vmalloc area, a module, the kernel image or a page_ext array.
    :raises UsageError: if *what* is none of these
    :raises PageOwnerError: if it names no page of this kernel
    """
    target = resolve(kernel, what)
    reporter = _Reporter(kernel)
    section = reporter.memmap.section(target.pfn)
    record, no_record = page_record(kernel, section, target.pfn, reporter.problems)
    if section is not None and not section.online:
        facts = {"state": "offline: the page allocator does not have this memory"}
    else:
        row = reporter.struct_page(target.pfn)
        facts = _page_facts(reporter, target, row, record) if row is not None else {}
    tag = _tag(reporter, target.pfn, record, facts)
    if tag is not None and facts.get("state") in _UNRECORDED:
        facts["state"] = "allocated by the kernel"
    return PageInfo(
        what=what,
        kind=target.kind,
        pfn=target.pfn,
        phys=target.pfn * kernel.page_size,
        struct_page=int(reporter.memmap.page(target.pfn)),
        virtual=reporter.problems.attempt("address", lambda: _virtual(kernel, target.pfn)),
        record=record,
        no_record=no_record,
        tag=tag,
        names=reporter.names,
        problems=tuple(reporter.problems.lines),
        **{**_pageblock(reporter, target.pfn), **facts},
    )


def _tag(
    reporter: _Reporter, pfn: int, record: PageRecord | None, facts: dict[str, Any]
) -> str | None:
    """Get the allocation tag of a page that is not free."""
    if str(facts.get("state", "free:")).startswith("free:"):
        return None
    first = facts.get("head_pfn")
    if first is None and record is not None and record.allocated:
        first = record.head_pfn
    return reporter.problems.attempt(
        "allocation tag", lambda: tag_of_page(reporter.kernel, pfn, first)
    )


def _virtual(kernel: Kernel, pfn: int) -> int | None:
    """Get the address of a page in the direct map; ``None`` for HIGHMEM, which has none."""
    address = direct_map(kernel) + pfn * kernel.page_size
    return address if address < direct_map_end(kernel) else None


def _pageblock(reporter: _Reporter, pfn: int) -> dict[str, Any]:
    kernel, section = reporter.kernel, reporter.memmap.section(pfn)
    order = pageblock_order(kernel)
    result: dict[str, Any] = {"pageblock": pfn >> order}
    if section is not None:
        find_zones(kernel, reporter.problems.lines)
        number = int(pageblock_types(kernel, section, np.array([pfn]))[0])
        result["pageblock_migratetype"] = number if number >= 0 else None
    return result


def _page_facts(
    reporter: _Reporter, target: Target, row: np.void, record: PageRecord | None
) -> dict[str, Any]:
    """Collect facts from the ``struct page`` and from its compound head."""
    pfn = target.pfn
    head_pfn = reporter.head_of(pfn, row)
    head = row if head_pfn == pfn else reporter.struct_page(head_pfn)
    if head is None:
        head_pfn, head = pfn, row
    type_name = reporter.type_name(row) or reporter.type_name(head)
    compound = head_pfn != pfn or reporter.flag(row, "head")
    if compound and not type_name and reporter.is_hugetlb(head_pfn):
        type_name = "hugetlb"
    facts: dict[str, Any] = {
        "flags": int(row["flags"]),
        "refcount": int(head["refcount"]),
        "node": reporter.field(row, "node") or 0,
        "zone": _zone_name(reporter, row),
    }
    if compound:
        facts["head_pfn"] = head_pfn
        facts["compound_order"] = reporter.compound_order(head_pfn)
    if "memcg_data" in (reporter.dtype.names or ()):
        facts["memcg"] = reporter.problems.attempt(
            "memory cgroup", lambda: _memcg(reporter.kernel, head)
        )
    facts.update(_content(reporter, target, head_pfn, head, type_name, record))
    return facts


def _zone_name(reporter: _Reporter, row: np.void) -> str | None:
    number = reporter.field(row, "zone") or 0
    for zone in find_zones(reporter.kernel, reporter.problems.lines):
        if zone.type == number:
            return zone.name
    return None


def _memcg(kernel: Kernel, row: np.void) -> str | None:
    table = MemcgTable(kernel)
    index, _ = table.columns(np.array([row["memcg_data"]]))
    return table.memcgs[int(index[0])].path if index[0] >= 0 else None


def _content(
    reporter: _Reporter,
    target: Target,
    head_pfn: int,
    head: np.void,
    type_name: str,
    record: PageRecord | None,
) -> dict[str, Any]:
    """Determine the use of the page (``state``), and its owner."""
    kernel, attempt = reporter.kernel, reporter.problems.attempt
    free = reporter.free_block(target.pfn)
    if free is not None:
        return {"state": f"free: in a block of order {free[1]} at pfn {free[0]:#x}"}
    if type_name == "slab" or reporter.flag(head, "slab"):
        slab = attempt("slab", lambda: _slab(reporter, target, head_pfn))
        return {"state": "slab", "slab": slab}
    if type_name:
        return {"state": _STATES.get(type_name, type_name)}
    if reporter.flag(head, "reserved"):
        image = in_kernel_image(kernel, target.pfn)
        return {"state": "kernel image" if image else "reserved (boot memory or firmware)"}
    if int(head["refcount"]) == 0:
        if record is not None and record.allocated and record.head_pfn != target.pfn:
            # Without __GFP_COMP, only the first page of an allocation has a reference.
            return {"state": "allocated by the kernel"}
        return {"state": _NO_REFERENCE}
    index = int(head["index"]) + target.pfn - head_pfn
    mapped = _mapped(reporter, target.pfn, head, index)
    if mapped is not None:
        if head_pfn == target.pfn and not reporter.flag(head, "head"):
            # Some kernels do not count the mappings of each page of a large folio.
            mapped["mapcount"] = int(head["mapcount"]) + 1
        return mapped
    allocated = record is not None and record.allocated
    return {"state": "allocated by the kernel" if allocated else _NOT_RECORDED}


def _slab(reporter: _Reporter, target: Target, head_pfn: int) -> dict[str, Any] | None:
    kernel, address, attempt = reporter.kernel, target.address, reporter.problems.attempt
    if address is None:
        address = direct_map(kernel) + target.pfn * kernel.page_size
    head = reporter.memmap.page(head_pfn)
    found = slab_of(kernel, head, head_pfn, address)
    if found is not None and page_references(kernel) is not None:
        reference = object_reference(kernel, head, found["object"])
        found["tag"] = name_of_reference(kernel, reference)
    if found is not None:
        found["type"], found["expression"] = None, None
        named = attempt("type", lambda: _typed(kernel, found)) if found["allocated"] else None
        if named is not None:
            found["expression"], found["type"] = named
    return found


def _typed(kernel: Kernel, found: dict[str, Any]) -> tuple[str, str] | None:
    """
    Make a drgn expression for the word at an address in a slab object.

    :param found: Facts about the address and the object.
    :return: The expression, and the name of the object's type, which the name of its slab cache
        implies; ``None`` if it implies none.
    """
    types = read_types(kernel, [found["cache"]], np.array([found["object_size"]]))
    number = int(types.cache_types()[0])
    if number < 0:
        return None
    start, offset = int(found["object"]), int(found["offset"])
    layout = types.layout(number)
    if layout.repeat and layout.size:
        start, offset = start + offset // layout.size * layout.size, offset % layout.size
    word = kernel.word.itemsize
    return object_expression(kernel, types.type_of(number), start, offset // word * word)


def _mapped(reporter: _Reporter, pfn: int, head: np.void, index: int) -> dict[str, Any] | None:
    """Get the state of an anonymous or page cache page, from ``page.mapping``."""
    kernel, attempt = reporter.kernel, reporter.problems.attempt
    kind, pointer = int(head["mapping"]) & MAPPING_FLAGS, int(head["mapping"]) & ~MAPPING_FLAGS
    if not pointer:
        return None
    if kind == MAPPING_ANON:
        users = attempt("processes", lambda: anon_users(kernel, pointer, index, pfn))
        return {"state": "anonymous", "anon": users or ()}
    if kind == MAPPING_MOVABLE:
        return {"state": "movable page of a driver"}
    if kind:
        return {"state": "anonymous, shared by KSM"}
    # In pages that the kernel uses itself, the word has other uses. It points to an address_space
    # only in pages on the LRU or in the page cache.
    if not (reporter.flag(head, "lru") or reporter.flag(head, "uptodate")):
        return None
    file = attempt("file", lambda: file_of(kernel, pointer, index))
    if file is None:
        return None
    shared = reporter.flag(head, "swapbacked")
    return {"state": "shared memory" if shared else "page cache", "file": file}
