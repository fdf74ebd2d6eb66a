# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the memmaps, page_ext arrays and pageblock bitmaps of physical memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from drgn import FaultError, Object, TypeKind

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.bulk import (
    find_object,
    find_type,
    has_member,
    read_array,
    struct_dtype,
    symbol_address,
)
from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel, once, once_per_reading
from drgn_pageowner.kernel.linux.topology import online_nodes
from drgn_pageowner.model.arrays import Array

__all__ = (
    "Section",
    "find_sections",
    "has_vmemmap",
    "memmap_addresses",
    "memmap_pfns",
    "memory_model",
    "page_ext_stride",
    "pfn_limits",
    "section_of",
    "section_problems",
)

# Enumerators of include/linux/mmzone.h, with the same value in every kernel that has page_owner.
_SECTION_HAS_MEM_MAP = 1 << 1
# Since Linux kernel commit 2d070eab2e82 ("mm: consider zone which is not fully populated to have
# holes") (in v4.13); in older kernels, the addresses of memmaps never have this bit set.
_SECTION_IS_ONLINE = 1 << 2
# Set in the address of an array that is being removed (memory hot-unplug), since Linux kernel
# commit b1d5488a252d ("mm: fix use-after free of page_ext after race with memory-offline") (in
# v6.1).
_PAGE_EXT_INVALID = 1 << 0

# Limit for the size of an entry; all users of page_ext together need less than 200 bytes.
_LARGEST_ENTRY = 4096


class Section(NamedTuple):
    """
    A contiguous range of physical memory with one memmap and one page_ext array.

    It corresponds to a ``struct mem_section`` on SPARSEMEM, and to a ``pg_data_t`` on FLATMEM.
    """

    start_pfn: int
    """The first PFN of the range."""
    end_pfn: int
    """The first PFN after the range."""
    memmap: int
    """Address of the ``struct page`` of :attr:`start_pfn`; 0 if the section has no memmap."""
    page_ext: int
    """Address of the ``struct page_ext`` of :attr:`start_pfn`; 0 if the section has no page_ext."""
    pageblock_flags: int
    """Address of the section's pageblock bitmap; 0 on FLATMEM, where zones have the bitmaps."""
    online: bool = True
    """Whether the page allocator manages the memory. If it does not, the memory was added but never
    onlined, was offlined (memory hotplug), or is device memory; its memmap may then be garbage."""


def pfn_limits(kernel: Kernel, problems: list[str] | None = None) -> tuple[int, int]:
    """
    Get ``(min_low_pfn, max_pfn)``, the range that the kernel's own page_owner file walks.

    If no memory ends at or after ``max_pfn``, the end of the last section is used instead. If both
    the nodes and their zones end after ``max_pfn``, their end is used.

    :param problems: List of messages, to which a line is added if ``max_pfn`` is damaged. When
        memory is unplugged, the kernel does not lower ``max_pfn``; this is not damage.
    :raises PageOwnerError: if no sections are found
    """
    limits, lines = _pfn_limits(kernel)
    if problems is not None:
        problems += lines
    return limits


@once_per_reading
def _pfn_limits(kernel: Kernel) -> tuple[tuple[int, int], list[str]]:
    """Get the result of :func:`pfn_limits`, and messages about damage."""
    problems: list[str] = []
    sections = find_sections(kernel)
    if not sections:
        raise PageOwnerError("mem_section says that there is no memory: the dump is damaged")
    first, last = sections[0].start_pfn, sections[-1].end_pfn
    try:
        low, high = int(kernel.prog["min_low_pfn"]), int(kernel.prog["max_pfn"])
    except FaultError:
        low, high = 0, 0
    if not any(section.start_pfn < high <= section.end_pfn for section in sections):
        if not last < high <= _highest_ever(kernel):
            problems.append(
                f"max_pfn is {high:#x}, where this kernel has no memory: it is damaged; "
                f"memory is taken to end at pfn {last:#x}"
            )
        high = last
    end = _end_of_nodes(kernel)
    # ZONE_DEVICE memory may lie above max_pfn.
    online = [section for section in sections if section.online]
    if end > high and any(section.start_pfn < end <= section.end_pfn for section in online):
        problems.append(f"max_pfn is {high:#x}, but there is memory up to pfn {end:#x}: damaged")
        high = end
    return (low if low <= high else first, high), problems


def _end_of_nodes(kernel: Kernel) -> int:
    """Get the first PFN after all nodes; 0 if their zones do not end at the same PFN."""
    nodes = zones = 0
    for _, pgdat in online_nodes(kernel):
        try:
            nodes = max(nodes, int(pgdat.node_start_pfn) + int(pgdat.node_spanned_pages))
            for zone in pgdat.node_zones:
                zones = max(zones, int(zone.zone_start_pfn) + int(zone.spanned_pages))
        except DAMAGE as error:
            unless_mistaken(error)
            continue
    return nodes if nodes == zones else 0


def _highest_ever(kernel: Kernel) -> int:
    """
    Get the first PFN after the highest section that ever existed; 0 if this kernel does not
    record it.
    """
    try:
        # The variable is raised when a section is added, and never lowered. Added in Linux kernel
        # commit c4e1be9ec113 ("mm, sparsemem: break out of loops early") (in v4.13).
        number = int(kernel.prog["__highest_present_section_nr"])
        return (number + 1) << (int(kernel.prog["SECTION_SIZE_BITS"]) - kernel.page_shift)
    except (LookupError, FaultError):
        return 0


@once
def memory_model(kernel: Kernel) -> str:
    """Get the memory model: ``"SPARSEMEM_VMEMMAP"``, ``"SPARSEMEM"`` or ``"FLATMEM"``."""
    if find_object(kernel.prog, "mem_section") is None:
        return "FLATMEM"
    return "SPARSEMEM_VMEMMAP" if has_vmemmap(kernel) else "SPARSEMEM"


@once
def has_vmemmap(kernel: Kernel) -> bool:
    """Return whether the kernel was built with CONFIG_SPARSEMEM_VMEMMAP."""
    usage = find_type(kernel.prog, "struct mem_section_usage")
    # subsection_map since Linux kernel commit f1eca35a0dc7 ("mm/sparsemem: introduce struct
    # mem_section_usage") (in v5.3).
    if usage is not None:
        return has_member(usage, "subsection_map")
    return symbol_address(kernel.prog, "vmemmap_populate") is not None


@once_per_reading
def find_sections(kernel: Kernel) -> tuple[Section, ...]:
    """
    Get every range of present physical memory, in PFN order.

    :raises PageOwnerError: if ``mem_section`` is not in the dump
    """
    mem_section = find_object(kernel.prog, "mem_section")
    try:
        if mem_section is None:
            return tuple(_flatmem_nodes(kernel))
        return tuple(_sparsemem_sections(kernel))
    except FaultError as fault:
        raise PageOwnerError(
            f"cannot read mem_section ({fault}): the dump is damaged or cut off; "
            "no page can be found without it"
        ) from fault


def section_problems(kernel: Kernel) -> list[str]:
    """
    Return a message for each part of ``mem_section`` that cannot be read, and for each pair of
    page_ext arrays that overlap, which is always due to damage.
    """
    return [*_unreadable_parts(kernel), *_overlaps(kernel)]


def _unreadable_parts(kernel: Kernel) -> list[str]:
    if find_object(kernel.prog, "mem_section") is None:
        return []
    return [
        f"cannot read a part of mem_section ({fault}): if it is not only the pointer to it that is "
        "damaged, the pages of its sections are missing"
        for fault in _sparsemem_table(kernel)[1]
    ]


def _overlaps(kernel: Kernel) -> list[str]:
    stride = page_ext_stride(kernel)
    arrays = sorted(
        (section.page_ext, (section.end_pfn - section.start_pfn) * stride, section.start_pfn)
        for section in find_sections(kernel)
        if section.page_ext
    )
    return [
        f"the page_ext arrays of the sections at pfn {first[2]:#x} and {second[2]:#x} overlap: one "
        "of the pointers to them is damaged, and what it leads to are the records of other pages"
        for first, second in itertools.pairwise(arrays)
        if first[0] + first[1] > second[0]
    ]


class _Table(NamedTuple):
    """
    Table of all sections: first PFN and end PFN (``int64``), and address of the memmap
    (``uint64``); each of shape ``(sections,)``.
    """

    start: Array
    end: Array
    memmap: Array


@once_per_reading
def _by_pfn(kernel: Kernel) -> _Table:
    return _table(find_sections(kernel))


@once_per_reading
def _by_address(kernel: Kernel) -> _Table:
    # On classic SPARSEMEM, memmaps can be anywhere, in any order.
    return _table(sorted(find_sections(kernel), key=lambda section: section.memmap))


def _table(sections: Sequence[Section]) -> _Table:
    return _Table(
        np.array([section.start_pfn for section in sections], np.int64),
        np.array([section.end_pfn for section in sections], np.int64),
        np.array([section.memmap for section in sections], np.uint64),
    )


def memmap_addresses(kernel: Kernel, pfns: Array) -> Array:
    """
    Get the addresses of the ``struct page`` of PFNs.

    :param pfns: ``int64``, shape ``(n,)``; every PFN must be in a section.
    :return: Virtual addresses: ``uint64``, shape ``(n,)``.
    """
    table = _by_pfn(kernel)
    index = _places(table.start, pfns)
    offset = (pfns - table.start[index]) * kernel.struct_page_size
    result: Array = table.memmap[index] + offset.astype(np.uint64)
    return result


def memmap_pfns(kernel: Kernel, addresses: Array) -> Array:
    """
    Get the PFN of the ``struct page`` at each address: the inverse of :func:`memmap_addresses`.

    :param addresses: Virtual addresses, which may also be in the middle of a ``struct page``:
        ``uint64``, shape ``(n,)``.
    :return: ``int64``, shape ``(n,)``; -1 where the address is in no memmap.
    """
    table = _by_address(kernel)
    if not len(table.start):
        return np.full(len(addresses), -1, np.int64)
    index = _places(table.memmap, addresses)
    inside = index >= 0
    index = np.maximum(index, 0)
    number = (addresses - table.memmap[index]) // np.uint64(kernel.struct_page_size)
    pfns = table.start[index] + number.astype(np.int64)
    result: Array = np.where(inside & (pfns >= 0) & (pfns < table.end[index]), pfns, -1)
    return result


def _places(starts: Array, values: Array) -> Array:
    """
    Find the section of each of *values*.

    :param starts: Where the sections begin, ascending.
    :return: ``int64``: index of the last section that begins at or before the value, -1 for none;
        of shape ``(1,)`` if all values are in the same section, which is found in less time.
    """
    if len(values):
        ends = np.array([values.min(), values.max()], values.dtype)
        first, last = np.searchsorted(starts, ends, "right") - 1
        if first == last:
            return np.array([first], np.int64)
    result: Array = np.searchsorted(starts, values, "right") - 1
    return result


def section_of(kernel: Kernel, pfn: int) -> Section | None:
    """Find the section that contains *pfn*; return ``None`` if no section does."""
    index = int(np.searchsorted(_by_pfn(kernel).start, pfn, "right")) - 1
    section = find_sections(kernel)[index] if index >= 0 else None
    return section if section is not None and pfn < section.end_pfn else None


def _sparsemem_roots(kernel: Kernel, mem_section: Object) -> Iterator[tuple[int, int, int]]:
    """
    Yield the arrays of ``struct mem_section`` that make up ``mem_section``.

    :return: Number of the first section, address, and number of elements of each array.
    """
    type_ = mem_section.type_
    inner = type_.type
    if inner.kind != TypeKind.POINTER and type_.kind != TypeKind.POINTER:
        # Static array: struct mem_section mem_section[NR_SECTION_ROOTS][SECTIONS_PER_ROOT].
        yield 0, int(mem_section.address_ or 0), type_.length * inner.length
        return
    # With CONFIG_SPARSEMEM_EXTREME, mem_section is an array of pointers to pages full of struct
    # mem_section. The array itself is allocated at boot since Linux kernel commit 83e3c48729d9
    # ("mm/sparsemem: Allocate mem_section at runtime for CONFIG_SPARSEMEM_EXTREME=y") (in v4.15).
    per_root = kernel.page_size // kernel.prog.type("struct mem_section").size
    if type_.kind == TypeKind.POINTER:
        # Read the whole array, NR_SECTION_ROOTS, although the kernel stops at
        # __highest_present_section_nr.
        numbers = 1 << (
            int(kernel.prog["MAX_PHYSMEM_BITS"]) - int(kernel.prog["SECTION_SIZE_BITS"])
        )
        count = -(-numbers // per_root)
        address = int(mem_section)
    else:
        count = type_.length
        address = int(mem_section.address_ or 0)
    roots = read_array(kernel.prog, address, kernel.word, count)
    for root_nr in np.flatnonzero(roots).tolist():
        yield root_nr * per_root, int(roots[root_nr]), per_root


@once_per_reading
def _sparsemem_table(kernel: Kernel) -> tuple[list[tuple[int, Array]], list[FaultError]]:
    """
    Read ``mem_section``, which must exist.

    :return: Number of the first section and ``struct mem_section`` of all sections of each part,
        and the error for each part that cannot be read.
    """
    members = ["section_mem_map", "page_ext", "usage", "pageblock_flags"]
    dtype = struct_dtype(kernel.prog, kernel.prog.type("struct mem_section"), members)
    table, unreadable = [], []
    for first, address, count in _sparsemem_roots(kernel, kernel.prog["mem_section"]):
        try:
            table.append((first, read_array(kernel.prog, address, dtype, count)))
        except FaultError as fault:
            unreadable.append(fault)
    return table, unreadable


def _sparsemem_sections(kernel: Kernel) -> Iterator[Section]:
    page_shift = kernel.page_shift
    pages_per_section = 1 << (int(kernel.prog["SECTION_SIZE_BITS"]) - page_shift)
    page_struct_size = kernel.struct_page_size
    page_ext_size = page_ext_stride(kernel)
    # The encoded memmap has flags in its low bits, because a memmap is page-aligned.
    memmap_mask = ~(kernel.page_size - 1)

    usage_bitmap = _usage_bitmap_offset(kernel)
    # The bias may be larger than the address of the array, so biased addresses wrap around.
    word_mask = (1 << 8 * kernel.word.itemsize) - 1
    table, unreadable = _sparsemem_table(kernel)
    if not table and unreadable:
        raise unreadable[0]
    vmemmap = None
    if table and has_vmemmap(kernel):
        vmemmap = _vmemmap([rows for _, rows in table], memmap_mask)
    knows_online = any((rows["section_mem_map"] & _SECTION_IS_ONLINE).any() for _, rows in table)

    for first, rows in table:
        for index in np.flatnonzero(rows["section_mem_map"] & _SECTION_HAS_MEM_MAP).tolist():
            row = rows[index]
            start = (first + index) * pages_per_section
            encoded = int(row["section_mem_map"])
            base = vmemmap if vmemmap is not None else encoded & memmap_mask
            page_ext = int(row["page_ext"]) if "page_ext" in (rows.dtype.names or ()) else 0
            if page_ext & _PAGE_EXT_INVALID or not page_ext_size:
                page_ext = 0
            yield Section(
                start,
                start + pages_per_section,
                (base + start * page_struct_size) & word_mask,
                # The pointer is biased, so that the entry of a PFN is at page_ext + page_ext_size *
                # pfn.
                (page_ext + page_ext_size * start) & word_mask if page_ext else 0,
                _bitmap_address(row, usage_bitmap),
                bool(encoded & _SECTION_IS_ONLINE) or not knows_online,
            )


def _vmemmap(table: list[Array], memmap_mask: int) -> int | None:
    """
    Get the address of ``vmemmap``, which is the encoded memmap of every section.

    One that is damaged differs. drgn's ``vmemmap`` is that of the first section, for which it reads
    the pointers to all parts of the table one by one.

    :param table: Arrays of ``struct mem_section``.
    :return: ``None`` if no section is present.
    """
    words = np.concatenate([rows["section_mem_map"] for rows in table])
    found: Counter[int] = Counter()
    values, counts = np.unique(words, return_counts=True)
    for word, number in zip(values.tolist(), counts.tolist(), strict=True):
        if word & _SECTION_HAS_MEM_MAP:
            found[word & memmap_mask] += number
    return found.most_common(1)[0][0] if found else None


def _usage_bitmap_offset(kernel: Kernel) -> int | None:
    """
    Get the offset of the pageblock bitmap in ``struct mem_section_usage``, in bytes.

    :return: ``None`` for a kernel before Linux kernel commit f1eca35a0dc7 ("mm/sparsemem:
        introduce struct mem_section_usage") (in v5.3), where ``struct mem_section`` has a pointer
        to the bitmap.
    """
    usage = find_type(kernel.prog, "struct mem_section_usage")
    return None if usage is None else usage.member("pageblock_flags").offset


def _bitmap_address(row: np.void, usage_bitmap: int | None) -> int:
    if usage_bitmap is None:
        return int(row["pageblock_flags"])
    usage = int(row["usage"])
    return usage + usage_bitmap if usage else 0


def _flatmem_nodes(kernel: Kernel) -> Iterator[Section]:
    page_struct_size = kernel.struct_page_size
    page_ext_size = page_ext_stride(kernel)
    max_order_nr_pages = 1 << (kernel.prog.type("struct zone").member("free_area").type.length - 1)
    for _, pgdat in online_nodes(kernel):
        start = int(pgdat.node_start_pfn)
        end = start + int(pgdat.node_spanned_pages)
        memmap = int(pgdat.node_mem_map) if has_member(pgdat.type_.type, "node_mem_map") else 0
        page_ext = int(pgdat.node_page_ext) if has_member(pgdat.type_.type, "node_page_ext") else 0
        # The pointer is not biased. lookup_page_ext() counts entries from the start of the node's
        # first MAX_ORDER block.
        skipped = start % max_order_nr_pages
        yield Section(
            start,
            end,
            memmap or int(kernel.prog["mem_map"]) + start * page_struct_size,
            page_ext + page_ext_size * skipped if page_ext and page_ext_size else 0,
            0,
        )


@once
def page_ext_stride(kernel: Kernel) -> int:
    """
    Get the distance between two entries of a page_ext array, in bytes.

    :return: 0 if this kernel has no page_ext, or if the size is not in the dump or is impossible.
    """
    size = _read_page_ext_size(kernel)
    return size if size <= _LARGEST_ENTRY else 0


def _read_page_ext_size(kernel: Kernel) -> int:
    # A variable since the Linux kernel commit titled "mm, page_owner: fix off-by-one error in
    # __set_page_owner_handle()" (in v5.4).
    stride = find_object(kernel.prog, "page_ext_size")
    if stride is not None:
        return _or_zero(stride)
    type_ = find_type(kernel.prog, "struct page_ext")
    if type_ is None or not type_.is_complete():
        return 0
    extra = find_object(kernel.prog, "extra_mem", "mm/page_ext.c")
    return int(type_.size) + (_or_zero(extra) if extra is not None else 0)


def _or_zero(variable: Object) -> int:
    try:
        return int(variable)
    except FaultError:
        return 0
