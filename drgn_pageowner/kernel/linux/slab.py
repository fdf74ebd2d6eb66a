# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read SLUB's caches, and the slabs of all caches at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from drgn import Object, Type, TypeMember

from drgn_pageowner.kernel.dump.bulk import (
    byte_order,
    find_type,
    has_member,
    read_array,
    struct_dtype,
)
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    every_entry,
    name_of,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kasan import find_shadow
from drgn_pageowner.kernel.linux.kfence import KfencePool, find_kfence
from drgn_pageowner.kernel.linux.page import read_memmap
from drgn_pageowner.kernel.linux.percpu import cpu_pointer
from drgn_pageowner.kernel.linux.sections import Section, find_sections
from drgn_pageowner.kernel.linux.slab_free import Cache, FreeObjects
from drgn_pageowner.kernel.linux.topology import online_cpus, online_nodes
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.model.arrays import Array, rows_among
from drgn_pageowner.model.heap import Slabs
from drgn_pageowner.model.pages import Pages, PageState
from drgn_pageowner.units import counted

__all__ = ("read_cache", "read_slabs", "slab_caches", "slab_type")

# Maximum capacity of a sheaf, in objects; larger numbers are garbage.
_MOST_OF_SHEAF = 4095
# KMALLOC_MAX_SIZE plus the data that debugging adds; no slab has larger objects.
_LARGEST_OBJECT = 1 << 24


def read_slabs(kernel: Kernel, pages: Pages) -> tuple[Slabs, FreeObjects]:
    """
    Find all slabs, and the objects in KFENCE's pool.

    :param pages: All pages of the kernel.
    :return: The slabs, in which all objects are still marked as allocated; and a
        :class:`FreeObjects`, which finds the free objects once it has the contents of the slabs'
        pages.
    """
    problems: list[str] = []
    caches = list(_caches(kernel, problems))
    head_rows, cache_pointers, freelists, counts = _slab_heads(kernel, pages)
    index = _cache_numbers(caches, cache_pointers)
    known = index >= 0
    lost = int(len(known) - known.sum())
    if lost:
        problems.append(f"{counted(lost, 'slab')} of no slab cache: no object there is looked at")
    rows, index, freelists, counts = (
        column[known] for column in (head_rows, index, freelists, counts)
    )
    of_cache = np.array([(c.size, c.object_size, c.left) for c in caches] or [(1, 1, 0)], np.int64)
    slab_pages = _pages_of(pages, rows)
    room = slab_pages * pages.facts.page_size - of_cache[index, 2]
    fits = np.maximum(room, 0) // of_cache[index, 0]
    wrong = int(np.count_nonzero(counts > fits))
    if wrong:
        problems.append(
            f"{counted(wrong, 'slab')} with more objects than there is room for: damaged"
        )
        counts = np.minimum(counts, fits)
    columns = _Columns(
        cache=index,
        row=rows,
        pages=slab_pages,
        first=of_cache[index, 2],
        stride=of_cache[index, 0],
        size=of_cache[index, 1],
        objects=counts,
        freelist=freelists,
        kfence=np.zeros(len(rows), bool),
        allocated=np.ones(len(rows), bool),
    )
    pool = find_kfence(kernel)
    if pool is not None:
        columns = _joined(columns, _kfence(kernel, pages, caches, pool))
    start = np.concatenate([[0], np.cumsum(columns.objects)]).astype(np.int64)
    slabs = Slabs(
        caches=[cache.name for cache in caches],
        cache=columns.cache,
        row=columns.row,
        pages=columns.pages,
        first=columns.first,
        stride=columns.stride,
        size=columns.size,
        objects=columns.objects,
        start=start,
        allocated=np.repeat(columns.allocated, columns.objects),
        sheaves=np.array(sorted({sheaf for c in caches for sheaf in c.sheaves}), np.uint64),
        problems=problems,
    )
    free = FreeObjects(
        kernel, pages, slabs, caches, columns.freelist, columns.kfence, find_shadow(kernel)
    )
    return slabs, free


class _Columns(NamedTuple):
    """
    Table with a row per slab: the columns of :class:`Slabs`, and those that :class:`FreeObjects`
    needs.
    """

    cache: Array
    row: Array
    pages: Array
    first: Array
    stride: Array
    size: Array
    objects: Array
    freelist: Array
    kfence: Array
    """``bool``: whether the row is not a slab, but a page of KFENCE's pool, with one object."""
    allocated: Array
    """``bool``: false only for a page of KFENCE's pool whose object is free."""


def _joined(one: _Columns, other: _Columns) -> _Columns:
    """Merge two tables of slabs, in the order of the slabs' first pages."""
    order = np.argsort(np.concatenate([one.row, other.row]), kind="stable")
    pairs = zip(one, other, strict=True)
    return _Columns(*(np.concatenate(pair)[order].astype(pair[0].dtype) for pair in pairs))


def _kfence(kernel: Kernel, pages: Pages, caches: list[Cache], pool: KfencePool) -> _Columns:
    """Make a table of slabs in which each object in KFENCE's pool is a slab of one page."""
    index = _cache_numbers(caches, pool.cache)
    size = pages.facts.page_size
    offset = (pool.address - np.uint64(direct_map(kernel))).astype(np.int64)
    row = pages.rows(offset // size)
    first = offset % size
    # Leave out objects that were never allocated, which have no cache, and objects of caches that
    # were destroyed.
    kept = np.flatnonzero((index >= 0) & (row >= 0) & (first + pool.length <= size))
    one = np.ones(len(kept), np.int64)
    return _Columns(
        cache=index[kept],
        row=row[kept],
        pages=one,
        first=first[kept],
        stride=one * size,
        size=pool.length[kept],
        objects=one,
        freelist=np.zeros(len(kept), np.uint64),
        kfence=one.astype(bool),
        allocated=pool.allocated[kept],
    )


def _cache_numbers(caches: list[Cache], pointers: Array) -> Array:
    """
    Return the index of the cache that each pointer points to.

    :param pointers: Addresses of ``struct kmem_cache``: ``uint64``.
    :return: Index in *caches*: ``int32``; -1 if no cache is at the address.
    """
    if not caches:
        return np.full(len(pointers), -1, np.int32)
    addresses = np.array([cache.address for cache in caches], np.uint64)
    by_address = np.argsort(addresses)
    place = np.minimum(np.searchsorted(addresses[by_address], pointers), len(caches) - 1)
    number = by_address[place].astype(np.int32)
    return np.where(addresses[number] == pointers, number, -1).astype(np.int32)


def _caches(kernel: Kernel, problems: list[str]) -> Iterator[Cache]:
    if not has_member(kernel.prog.type("struct kmem_cache"), "offset"):
        problems.append("this kernel's slab allocator is not SLUB: free objects are unknown")
        return
    for cache in slab_caches(kernel, kernel.gaps):
        try:
            yield read_cache(kernel, cache)
        except DAMAGE as error:
            unless_mistaken(error)
            problems.append(f"the slab cache at {int(cache):#x} is damaged ({error})")


def slab_caches(kernel: Kernel, problems: list[str]) -> list[Object]:
    """
    Get the ``struct kmem_cache *`` of every slab cache.

    :param problems: List of messages, to which a line is added if the list of caches is broken.
    """
    head = kernel.prog["slab_caches"].address_of_()
    return every_entry("struct kmem_cache", head, "list", "the list of slab caches", problems)


def read_cache(kernel: Kernel, cache: Object) -> Cache:
    """
    Read the members of a slab cache that locate its objects.

    :param cache: ``struct kmem_cache *`` of SLUB.
    :raises ValueError: if sizes or offsets in the cache are impossible
    """
    type_ = cache.type_.type
    hardened = has_member(type_, "random")
    size, object_size, offset = int(cache.size), int(cache.object_size), int(cache.offset)
    left = int(cache.red_left_pad) if has_member(type_, "red_left_pad") else 0
    inside = 0 <= left < size and 0 <= offset < size and 0 < object_size <= size
    if not (0 < size <= _LARGEST_OBJECT and inside):
        raise ValueError(f"objects of {object_size} bytes, {size} with what is behind them")
    lists, free, sheaves = _ready(kernel, cache)
    return Cache(
        name=name_of(cache.name),
        address=int(cache),
        size=size,
        object_size=object_size,
        offset=offset,
        left=left,
        random=int(cache.random) if hardened else 0,
        hardened=hardened,
        lists=lists,
        free=free,
        sheaves=sheaves,
        link=_quarantine_link(cache),
    )


def _quarantine_link(cache: Object) -> int:
    """
    Get the offset of KASAN's quarantine link from the start of an object, in bytes.

    :param cache: ``struct kmem_cache *``
    :return: -1 if objects of the cache have no such link.
    """
    if not has_member(cache.type_.type, "kasan_info.free_meta_offset"):
        return -1
    offset = int(cache.kasan_info.free_meta_offset)
    # KASAN_NO_FREE_META is INT_MAX.
    return offset if 0 <= offset < int(cache.size) else -1


def _ready(kernel: Kernel, cache: Object) -> tuple[list[int], list[int], list[int]]:
    """
    Get the free objects of a cache that are not on the list of their slab.

    :param cache: ``struct kmem_cache *``
    :return: Address of the first object of each per-CPU list; addresses of the objects in sheaves;
        and addresses of the sheaves.
    """
    type_ = cache.type_.type
    lists: list[int] = []
    free: list[int] = []
    sheaves: list[int] = []
    name = name_of(cache.name)
    cost = "the CPUs' free objects of {} cannot be read: some look allocated"
    with kernel.tolerate(cost, of=name):
        # Removed in Linux kernel commit 32c894c7274b ("slab: remove struct kmem_cache_cpu") (in
        # v7.0).
        if has_member(type_, "cpu_slab") and cache.cpu_slab:
            for cpu in online_cpus(kernel):
                head = int(cpu_pointer(kernel, cache.cpu_slab, cpu).freelist)
                if head:
                    lists.append(head)
        if has_member(type_, "cpu_sheaves") and cache.cpu_sheaves:
            for sheaf in _sheaves(kernel, cache):
                sheaves.append(int(sheaf))
                free += _objects(kernel, sheaf)
    return lists, free, sheaves


def _sheaves(kernel: Kernel, cache: Object) -> Iterator[Object]:
    """
    Yield every ``struct slab_sheaf *`` of a cache.

    A sheaf is an array of free objects of a CPU or a node. Sheaves exist since Linux kernel commit
    2d517aa09bbc ("slab: add opt-in caching layer of percpu sheaves") (in v6.18).
    """
    for cpu in online_cpus(kernel):
        sheaves = cpu_pointer(kernel, cache.cpu_sheaves, cpu)
        for name in ("main", "spare", "rcu_free"):
            sheaf = sheaves.member_(name)
            if sheaf:
                yield sheaf
    for barn in _barns(kernel, cache):
        for name in ("sheaves_full", "sheaves_empty"):
            head = barn.member_(name).address_of_()
            subject = "the list of a node's free slab objects"
            yield from every_entry("struct slab_sheaf", head, "barn_list", subject, kernel.losses)


def _barns(kernel: Kernel, cache: Object) -> Iterator[Object]:
    type_ = cache.type_.type
    for node, _ in online_nodes(kernel):
        # kmem_cache.per_node was added in Linux kernel commit 5ba6bc27b1f9 ("slab: decouple pointer
        # to barn from kmem_cache_node") (in v7.1).
        if has_member(type_, "per_node"):
            barn = cache.per_node[node].barn
        else:
            barn = cache.node[node].barn if cache.node[node] else None
        if barn:
            yield barn


def _objects(kernel: Kernel, sheaf: Object) -> list[int]:
    size = int(sheaf.size)
    if not 0 < size <= _MOST_OF_SHEAF:
        return []
    objects = read_array(kernel.prog, int(sheaf.objects.address_of_()), kernel.word, size)
    return [int(pointer) for pointer in objects.tolist()]


def _slab_heads(kernel: Kernel, pages: Pages) -> tuple[Array, Array, Array, Array]:
    """
    Read the ``struct slab`` of every slab.

    :return: Row of the slab's first page in *pages* (``int64``), ``slab_cache`` (``uint64``),
        ``freelist`` (``uint64``) and number of objects (``int64``); a row per slab in each.
    """
    type_ = slab_type(kernel)
    dtype = struct_dtype(
        kernel.prog,
        type_,
        {"cache": "slab_cache", "freelist": "freelist", "counters": "counters"},
        itemsize=kernel.struct_page_size,
    )
    objects = type_.member("objects")
    bit = _shift_in_counters(type_, objects, byte_order(kernel.prog) == "<")
    width = objects.bit_field_size or 15
    slab = rows_among(pages.state, [PageState.SLAB])
    head = slab[pages["head"][slab] == slab]
    parts: list[tuple[Array, ...]] = []
    for section in find_sections(kernel):
        low, high = np.searchsorted(
            head, pages.rows(np.array([section.start_pfn]))[0] + np.array([0, _length(section)])
        )
        mine = head[low:high]
        if not len(mine):
            continue
        pfns = pages.pfns(mine)
        rows, _ = read_memmap(kernel, section, dtype, int(pfns[0]), int(pfns[-1]) + 1)
        chosen = rows[pfns - pfns[0]]
        number = (chosen["counters"] >> np.uint64(bit)) & np.uint64((1 << width) - 1)
        parts.append((mine, chosen["cache"], chosen["freelist"], number.astype(np.int64)))
    if not parts:
        empty = np.zeros(0, np.int64)
        return empty, empty.astype(np.uint64), empty.astype(np.uint64), empty
    joined = [np.concatenate([part[index] for part in parts]) for index in range(4)]
    return joined[0], joined[1], joined[2], joined[3]


def slab_type(kernel: Kernel) -> Type:
    """
    Get the C type that describes a slab.

    :return: ``struct slab``, which overlays the ``struct page`` of the slab's first page, since
        Linux kernel commit bb192ed9aa71 ("mm/slub: Convert most struct page to struct slab by
        spatch") (in v5.17); ``struct page`` before.
    """
    type_ = find_type(kernel.prog, "struct slab")
    if type_ is None or not type_.is_complete() or not has_member(type_, "slab_cache"):
        type_ = kernel.prog.type("struct page")
    return type_


def _length(section: Section) -> int:
    return section.end_pfn - section.start_pfn


def _shift_in_counters(type_: Type, field: TypeMember, little_endian: bool) -> int:
    """
    Return the position of a bit field of ``struct slab`` in the integer ``slab.counters``.

    :return: Number of the field's lowest bit.
    """
    counters = type_.member("counters")
    place = int(field.bit_offset - counters.bit_offset)
    if little_endian:
        return place
    return int(counters.type.size) * 8 - place - (field.bit_field_size or 0)


def _pages_of(pages: Pages, rows: Array) -> Array:
    """
    Return the number of pages of each slab: ``int64``.

    :param rows: Row of each slab's first page in *pages*, ascending.
    """
    # The column "head" of a slab's pages is the row of its first page.
    heads = pages["head"][rows_among(pages.state, [PageState.SLAB])]
    number: Array = np.searchsorted(heads, rows, "right") - np.searchsorted(heads, rows)
    return number
