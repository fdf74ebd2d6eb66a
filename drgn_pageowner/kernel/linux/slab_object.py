# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look up one slab object: its cache, its start, and whether it is free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drgn import Object
from drgn.helpers.linux.slab import slab_object_info

from drgn_pageowner.kernel.dump.bulk import read_word
from drgn_pageowner.kernel.dump.damage import name_of
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.slab import read_cache, slab_type
from drgn_pageowner.kernel.linux.slab_free import Cache
from drgn_pageowner.kernel.linux.translate import direct_map

__all__ = ("slab_of",)


def slab_of(kernel: Kernel, head: Object, head_pfn: int, address: int) -> dict[str, Any] | None:
    """
    Find the slab object that contains an address.

    :param head: ``struct page *`` of the slab's first page.
    :param head_pfn: PFN of the slab's first page.
    :param address: Virtual address in the direct map.
    :return: ``cache`` (name), ``object`` (virtual address), ``offset`` of *address* in the object,
        ``object_size`` (both in bytes), and ``allocated``; ``None`` if no object contains the
        address.
    """
    try:
        info = slab_object_info(kernel.prog, address)
    except (LookupError, NotImplementedError):
        # drgn cannot find the struct page of an address on classic SPARSEMEM or in a 32-bit kernel.
        return _look_up(kernel, head, head_pfn, address)
    if info is None:
        return None
    return _described(info.slab_cache, info.address, address, info.allocated)


def _described(cache: Object, start: int, address: int, allocated: bool | None) -> dict[str, Any]:
    return {
        "cache": name_of(cache.name),
        "object": start,
        "offset": address - start,
        "object_size": int(cache.object_size),
        "allocated": allocated,
    }


def _look_up(kernel: Kernel, head: Object, head_pfn: int, address: int) -> dict[str, Any] | None:
    type_ = kernel.prog.pointer_type(slab_type(kernel))
    slab = Object(kernel.prog, type_, value=int(head))
    cache = read_cache(kernel, slab.slab_cache)
    first = direct_map(kernel) + head_pfn * kernel.page_size + cache.left
    number, objects = (address - first) // cache.size, int(slab.objects)
    if not 0 <= number < objects:
        return None
    start = first + number * cache.size
    slab_range = range(first, first + objects * cache.size, cache.size)
    free = set(cache.free)
    for pointer in (int(slab.freelist), *cache.lists):
        free.update(_free_list(kernel, cache, pointer, slab_range))
    return _described(slab.slab_cache, start, address, start not in free)


def _free_list(kernel: Kernel, cache: Cache, pointer: int, slab: range) -> Iterator[int]:
    """
    Yield the addresses of the objects on a free list, as long as they are in one slab.

    :param pointer: Address of the first object of the list.
    :param slab: Addresses of the slab's objects.
    """
    word = kernel.word
    for _ in slab:
        if pointer not in slab:
            return
        yield pointer
        place = pointer + cache.offset
        pointer = read_word(kernel.prog, place)
        if cache.hardened:
            # freelist_ptr_decode(): the address is byte-swapped since Linux kernel commit
            # 1ad53d9fa3f6 ("slub: improve bit diffusion for freelist ptr obfuscation") (in v5.7).
            pointer ^= cache.random ^ int.from_bytes(place.to_bytes(word.itemsize, "big"), "little")
