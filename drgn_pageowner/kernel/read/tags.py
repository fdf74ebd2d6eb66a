# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read allocation tags and the memory that refers to them: pages, slab objects, per-CPU memory."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.live import Changes, read_rows
from drgn_pageowner.kernel.linux.alloc_tag import (
    TagTable,
    add_unlisted,
    page_references,
    profiling,
    profiling_or_raise,
    read_tag_counters,
    read_tag_table,
    text_version,
)
from drgn_pageowner.kernel.linux.page import page_dtype, read_memmap
from drgn_pageowner.kernel.linux.percpu_tags import read_percpu_references
from drgn_pageowner.kernel.linux.sections import (
    Section,
    find_sections,
    page_ext_stride,
    section_of,
)
from drgn_pageowner.kernel.linux.slab import read_slabs
from drgn_pageowner.kernel.linux.slabobj_ext import read_object_extensions
from drgn_pageowner.kernel.linux.zones import max_page_order
from drgn_pageowner.kernel.read.pages import read_all_pages
from drgn_pageowner.model.arrays import Array, equals, sums
from drgn_pageowner.model.heap import Slabs
from drgn_pageowner.model.pages import Pages, PageState
from drgn_pageowner.model.tags import Tagged, Tags, TagUse, allocation_sizes

__all__ = (
    "name_of_reference",
    "page_tag_references",
    "read_tag_use",
    "read_tagged",
    "read_tags",
    "tag_of_page",
    "tags_of",
    "tags_of_objects",
)


def read_tags(kernel: Kernel) -> Tags:
    """
    Read the tags of the kernel and its modules, and their counters.

    :raises PageOwnerError: if this kernel has no tags
    """
    return tags_of(kernel, read_tag_table(kernel))


def read_tag_use(kernel: Kernel) -> TagUse:
    """
    Read the tags and their counters, and sum up the memory that refers to each tag.

    :raises PageOwnerError: if this kernel has no tags
    """
    profiling_or_raise(kernel)
    memory = read_all_pages(kernel, columns=("head",))
    slabs, _ = read_slabs(kernel, memory.pages)
    tagged = read_tagged(kernel, memory.pages, slabs)
    sizes = np.repeat(slabs.stride, slabs.objects)
    return TagUse(
        tagged.tags,
        tagged.sums(sizes),
        kernel.page_size,
        [*memory.problems, *slabs.problems, *tagged.problems],
    )


def tags_of(kernel: Kernel, table: TagTable) -> Tags:
    """Convert *table* to :class:`Tags`, with the counters and without addresses."""
    total_bytes, calls = read_tag_counters(kernel, np.where(table.counted, table.counters, 0))
    problems = list(table.problems)
    if profiling(kernel).state == "off":
        problems.append(
            "memory allocation profiling is switched off now (sysctl vm.mem_profiling): counters "
            "and tags are those of what was allocated, and not freed, while it was on"
        )
    return Tags(
        places=table.places,
        bytes=total_bytes,
        calls=calls,
        inaccurate=table.inaccurate,
        version=text_version(kernel),
        listed=table.listed,
        counted=table.counted,
        problems=problems,
    )


def page_tag_references(kernel: Kernel, section: Section, pages: int) -> Array:
    """
    Read the tag references of the first *pages* pages of a section.

    :return: ``uint64``, shape ``(pages,)``: 0 for a page without a tag.
    :raises PageOwnerError: if pages have no references in this kernel
    """
    where = page_references(kernel)
    if where is None:
        raise PageOwnerError("pages of this kernel have no allocation tags")
    if where.shift >= 0:
        dtype = page_dtype(kernel, ("flags",))
        first = section.start_pfn
        rows, _ = read_memmap(kernel, section, dtype, first, first + pages)
        index = (rows["flags"].astype(np.uint64) >> np.uint64(where.shift)) & np.uint64(where.mask)
        return where.addresses(index)
    stride = page_ext_stride(kernel)
    if not section.page_ext or where.offset + kernel.word.itemsize > stride:
        return np.zeros(pages, np.uint64)
    entry = np.dtype(
        {"names": ["ref"], "formats": [kernel.word], "offsets": [where.offset], "itemsize": stride}
    )
    rows, _ = read_rows(kernel.prog, section.page_ext, entry, pages, Changes())
    result: Array = rows["ref"].astype(np.uint64)
    return result


def name_of_reference(kernel: Kernel, reference: int) -> str | None:
    """Format the tag that a reference points to; ``None`` if it points to no tag."""
    references = np.array([reference], np.uint64)
    table = add_unlisted(kernel, read_tag_table(kernel), references)
    number = int(table.number(references)[0])
    return str(table.places[number]) if number >= 0 else None


def tag_of_page(kernel: Kernel, pfn: int, first: int | None) -> str | None:
    """
    Format the tag of the allocation that a page belongs to; ``None`` if it has no tag.

    :param first: PFN of the allocation's first page, if it is known (a compound head, a record).
    """
    section = section_of(kernel, pfn)
    if section is None or page_references(kernel) is None:
        return None
    references = page_tag_references(kernel, section, pfn + 1 - section.start_pfn)
    if first is not None:
        if first < section.start_pfn:
            # The first page of a gigantic page is in an earlier section.
            return tag_of_page(kernel, first, first)
        return name_of_reference(kernel, int(references[first - section.start_pfn]))
    here = pfn - section.start_pfn
    if references[here]:
        return name_of_reference(kernel, int(references[here]))
    return _tag_before(kernel, section, pfn, references)


def _tag_before(kernel: Kernel, section: Section, pfn: int, references: Array) -> str | None:
    """
    Find the tag of the block of 2^order pages that contains *pfn*, for a *pfn* that is not the
    first page of its block.
    """
    dtype = page_dtype(kernel, ("refcount",))
    for order in range(1, max_page_order(kernel) + 1):
        first = pfn & -(1 << order)
        if first < section.start_pfn:
            break
        if first == pfn or not references[first - section.start_pfn]:
            continue
        rows, _ = read_memmap(kernel, section, dtype, first + 1, pfn + 1)
        between = references[first + 1 - section.start_pfn :]
        if rows["refcount"].any() or between.any():
            break
        return name_of_reference(kernel, int(references[first - section.start_pfn]))
    return None


def read_tagged(kernel: Kernel, pages: Pages, slabs: Slabs | None) -> Tagged:
    """
    Read all memory that refers to a tag.

    :param pages: All pages, with the column ``head``.
    :param slabs: All slabs; ``None`` if slab objects are not needed.
    :raises PageOwnerError: if this kernel has no tags
    """
    table = read_tag_table(kernel)
    problems: list[str] = []
    references = _of_pages(kernel, pages)
    percpu, percpu_sizes = read_percpu_references(kernel, problems)
    extensions = read_object_extensions(kernel, pages, slabs) if slabs is not None else None
    of_objects = extensions.reference if extensions is not None else np.zeros(0, np.uint64)
    table = add_unlisted(kernel, table, np.concatenate([references, of_objects, percpu]))
    if extensions is not None and extensions.missing:
        problems.append(f"the tags of {extensions.missing} slab objects are not in the dump")
    tags = tags_of(kernel, table)
    number = table.number(references)
    # Free pages have no tag; a reference in a free page is damaged.
    row = np.flatnonzero(number >= 0)
    of_percpu = table.number(percpu)
    known = of_percpu >= 0
    return Tagged(
        tags=tags,
        row=row,
        tag=number[row],
        pages=_sizes(pages, row, references),
        object_tag=np.maximum(table.number(of_objects), -1).astype(np.int32),
        percpu_bytes=sums(of_percpu[known], percpu_sizes[known], len(tags)),
        percpu_calls=np.bincount(of_percpu[known], minlength=len(tags)).astype(np.int64),
        object_memcg=extensions.objcg if extensions is not None else None,
        problems=[*tags.problems, *problems],
    )


def tags_of_objects(kernel: Kernel, pages: Pages, slabs: Slabs, objects: Array) -> list[str | None]:
    """Format the tags of slab objects, given by index; ``None`` for an object without a tag."""
    extensions = None
    if page_references(kernel) is not None:
        extensions = read_object_extensions(kernel, pages, slabs, objects)
    if extensions is None:
        return [None] * len(objects)
    references = extensions.reference
    table = add_unlisted(kernel, read_tag_table(kernel), references)
    return [
        str(table.places[number]) if number >= 0 else None
        for number in table.number(references).tolist()
    ]


def _of_pages(kernel: Kernel, pages: Pages) -> Array:
    """Read the reference of every page: ``uint64``."""
    result = np.zeros(len(pages), np.uint64)
    for section in find_sections(kernel):
        if not section.online:
            continue
        row = int(pages.rows(np.array([section.start_pfn]))[0])
        if row < 0:
            continue
        end = min(section.end_pfn, pages.facts.max_pfn)
        number = end - section.start_pfn
        result[row : row + number] = page_tag_references(kernel, section, number)
    return result


def _sizes(pages: Pages, rows: Array, references: Array) -> Array:
    """Return the number of base pages of each allocation, given by the row of its first page."""
    head = pages["head"]
    compound = np.bincount(head, minlength=len(pages))[rows]
    alone = head == np.arange(len(pages))
    followers = equals(pages.state, PageState.NOREF) & (references == 0) & alone
    # A block does not continue after a hole in memory.
    followers[pages.offsets[:-1][pages.offsets[:-1] < len(pages)]] = False
    return allocation_sizes(rows, np.where(compound > 1, compound, 0), followers, pages.pfns(rows))
