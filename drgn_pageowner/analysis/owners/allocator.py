# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the function that asked for memory: the first frame outside the memory manager."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from drgn_pageowner.model.stacks import Frame

__all__ = (
    "allocator_name",
    "allocator_of",
    "function_of",
    "is_allocation_function",
    "kind_of_frame",
    "kind_of_stack",
    "modules_of",
    "plain_name",
    "without_offset",
)

# Functions that allocate memory for their callers, by kernel source file. Names are matched
# without leading underscores, and without the suffixes that the kernel's build ("_noprof") and the
# compiler append (.isra.0, .constprop.0, .part.0, .cold).
_ALLOCATION_FUNCTIONS = re.compile(
    "|".join(
        (
            # mm/page_owner.c, lib/stackdepot.c
            r"save_stack|set_page_owner|reset_page_owner|create_dummy_stack",
            # mm/page_alloc.c, mm/compaction.c
            r"post_alloc_hook|prep_new_page|get_page_from_freelist|rmqueue\w*",
            r"alloc_pages\w*|alloc_page|alloc_frozen_pages\w*|folio_alloc\w*|alloc_folio\w*",
            r"get_free_pages?|get_zeroed_page|make_alloc_exact|page_frag_alloc\w*",
            r"page_frag_cache_\w+|alloc_contig_\w+|compact_zone\w*|compaction_alloc\w*",
            r"split_map_pages|isolate_freepages\w*",
            # mm/mempolicy.c
            r"vma_alloc_\w+|alloc_page_interleave|alloc_pages_mpol|folio_alloc_mpol",
            # mm/slub.c, mm/slab.c, mm/slab_common.c
            r"new_slab\w*|allocate_slab|alloc_slab_page|slab_alloc\w*|alloc_single_from_\w+",
            r"kmem_cache_alloc\w*|kmem_getpages|cache_grow\w*|cache_alloc\w*|fallback_alloc",
            r"kmalloc\w*|kzalloc\w*|kcalloc\w*|do_kmalloc\w*|krealloc\w*|refill_\w*sheaf\w*",
            r"alloc_(full|empty)_sheaf|kmem_cache_(prefill|refill)_sheaf|memcg_alloc_\w+",
            r"refill_objects|pcs_\w+|slab_post_alloc_hook|account_slab",
            # mm/kasan/: stacks of slab objects begin where KASAN saves them
            r"kasan_(save|set)_\w+|kasan_k\w*alloc\w*|kasan_slab_alloc|poison_k\w*alloc\w*",
            # mm/util.c
            r"kvmalloc\w*|kvzalloc\w*|kvcalloc|kvrealloc\w*|kmemdup\w*|kstrdup\w*|memdup_\w+",
            # mm/vmalloc.c
            r"vmalloc\w*|vzalloc\w*|vm_area_alloc_pages|vmap_\w*alloc\w*",
            # mm/percpu*.c
            r"pcpu_\w+|alloc_percpu\w*",
            # mm/mempool.c, mm/dmapool.c, mm/cma.c, kernel/dma
            r"mempool_alloc\w*|mempool_init\w*|mempool_create\w*|dma_pool_alloc|cma_alloc\w*",
            r"dma_alloc_\w+|dma_direct_alloc\w*",
            # mm/swap_state.c, mm/filemap.c: thin wrappers of the page allocator
            r"filemap_alloc_folio\w*|page_cache_alloc\w*|pagecache_get_page",
        )
    )
)
_OFFSET = re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+")
_SUFFIX = re.compile(r"(_noprof)?(\.(isra|constprop|part|cold|llvm)[.\w]*)*$")

_SLAB = re.compile(r"_*(new_slab|allocate_slab|alloc_slab_page|kmem_getpages)(_noprof)?\b")
_VMALLOC = re.compile(r"_*(vmalloc_node_range|vmalloc_area_node|vm_area_alloc_pages)(_noprof)?\b")


@functools.cache
def plain_name(name: str) -> str:
    """Return *name* without the suffixes that the compiler or the kernel's build append."""
    return _SUFFIX.sub("", name)


@functools.cache
def is_allocation_function(name: str) -> bool:
    """Return whether *name* is a function of the memory manager that allocates for its caller."""
    return bool(_ALLOCATION_FUNCTIONS.fullmatch(plain_name(name.lstrip("_"))))


def allocator_of(frames: list[Frame]) -> Frame | None:
    """
    Return the allocator: the first of *frames* outside the memory manager; if all frames are inside
    it, the outermost frame; ``None`` if there are no frames.

    If the frame's symbol is of a module that was loaded later (:attr:`Frame.replaced`), a frame
    without a name is returned.
    """
    for frame in frames:
        if frame.name is None or not is_allocation_function(frame.name):
            return Frame(frame.pc, None, 0, 0, None) if frame.replaced else frame
    return frames[-1] if frames else None


def allocator_name(frames: list[Frame]) -> str:
    """Return the name of :func:`allocator_of` without offsets; empty for an empty stack."""
    frame = allocator_of(frames)
    return "" if frame is None else function_of(frame)


def function_of(frame: Frame) -> str:
    """
    Return the name of a frame's function without offsets, and its module; the PC if there is no
    name, or only that of a function of a module that was loaded later (:attr:`Frame.replaced`).
    """
    if frame.name is None or frame.replaced:
        return f"{frame.pc:#x}"
    return frame.name + (f" [{frame.module}]" if frame.module else "")


def modules_of(frames: Sequence[Frame]) -> list[str]:
    """
    Return the modules that the frames of a stack are in, the innermost first. A module that was
    loaded later (:attr:`Frame.replaced`) is none of them.

    :param frames: Of :func:`~drgn_pageowner.model.stacks.frames_of_stack`.
    """
    found = (f.module for f in frames if f.module is not None and not f.replaced)
    return list(dict.fromkeys(found))


def without_offset(function: str) -> str:
    """Return a function as ``%pS`` prints it without the offset and the size."""
    return _OFFSET.sub("", function)


def kind_of_frame(frame: Frame) -> str | None:
    """Return ``"slab"`` or ``"vmalloc"`` if ``page_owner_sort`` assigns this type because of
    *frame*."""
    if frame.name is not None:
        if _SLAB.match(frame.name):
            return "slab"
        if _VMALLOC.match(frame.name):
            return "vmalloc"
    return None


def kind_of_stack(frames: list[Frame]) -> str:
    """Return ``"slab"``, ``"vmalloc"`` or ``"others"``, by the rules of ``page_owner_sort``."""
    return next(filter(None, map(kind_of_frame, frames)), "others")
