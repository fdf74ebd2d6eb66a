# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the free slab objects by following all of SLUB's free lists at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kasan import Shadow, quarantine
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.model.arrays import Array, ranges
from drgn_pageowner.model.heap import Slabs
from drgn_pageowner.model.pages import Pages

__all__ = ("Cache", "FreeObjects")

# Size of the piece of memory whose KASAN shadow is read at once, in bytes.
_PIECE = 1 << 23


class Cache(NamedTuple):
    """Members of a ``struct kmem_cache`` that locate its objects and its free objects."""

    name: str
    address: int
    """Virtual address of the ``struct kmem_cache``."""
    size: int
    """Distance between two objects in a slab, in bytes."""
    object_size: int
    """Size of an object without padding and debugging data, in bytes."""
    offset: int
    """Offset of the free pointer in a free object, in bytes."""
    left: int
    """Number of bytes before the first object in a slab."""
    random: int
    """Random number with which free pointers are obfuscated."""
    hardened: bool
    """Whether free pointers are obfuscated with :attr:`random` and their own address."""
    lists: list[int]
    """Address of the first object of each per-CPU list of free objects."""
    free: list[int]
    """Addresses of free objects in sheaves, which are not on a list."""
    sheaves: list[int]
    """Addresses of the ``struct slab_sheaf`` of the cache."""
    link: int = -1
    """Offset of KASAN's quarantine link in an object, in bytes; -1 if objects have no such link."""


class _ObjectWords:
    """Accumulates one word of every slab object, while the pages of slabs are read."""

    def __init__(self, slabs: Slabs, offset: Array, page_size: int, word_size: int) -> None:
        """:param offset: Offset of the word in an object, in bytes: ``int64``, a row per slab."""
        of_slab = np.repeat(np.arange(len(slabs.row)), slabs.objects)
        number = np.arange(len(slabs)) - slabs.start[of_slab]
        byte = slabs.first[of_slab] + number * slabs.stride[of_slab] + offset[of_slab]
        self._row = (slabs.row[of_slab] + byte // page_size).astype(np.int64)
        self._word = (byte % page_size // word_size).astype(np.int64)
        self._per_page = page_size // word_size
        self.values = np.zeros(len(slabs), np.uint64)
        """The words: ``uint64``, a row per object; 0 if the object's page was not collected."""

    def collect(self, rows: Array, data: Array) -> None:
        """
        Extract the words of the objects in some pages.

        :param rows: Rows of the pages, ascending.
        :param data: Contents of the pages, as words: ``uint64``.
        """
        low, high = np.searchsorted(self._row, [rows[0], rows[-1] + 1])
        mine = np.arange(low, high)
        place = np.searchsorted(rows, self._row[mine])
        here = rows[np.minimum(place, len(rows) - 1)] == self._row[mine]
        mine, place = mine[here], place[here]
        self.values[mine] = data[place * self._per_page + self._word[mine]]


class FreeObjects:
    """
    Finds free slab objects, by following all free lists at once, one step at a time.

    The free pointers that link the objects are in the objects themselves. Therefore, the contents
    of the slabs' pages must be passed to :meth:`collect` before :meth:`mark` is called.
    """

    def __init__(
        self,
        kernel: Kernel,
        pages: Pages,
        slabs: Slabs,
        caches: list[Cache],
        freelists: Array,
        kfence: Array,
        shadow: Shadow | None,
    ) -> None:
        """
        :param freelists: ``freelist`` of each slab, the first object of its list: ``uint64``, a row
            per slab.
        :param kfence: Whether each slab is a page of KFENCE's pool, whose object has no free
            pointer: ``bool``, a row per slab.
        :param shadow: KASAN's shadow memory; ``None`` if this kernel has none.
        """
        self._shadow = shadow
        self._slabs = slabs
        self._caches = caches
        self._word_dtype = kernel.word
        self._base = np.uint64(direct_map(kernel))
        self._page_size = pages.facts.page_size
        self._address = self._base + pages.pfns(slabs.row).astype(np.uint64) * np.uint64(
            self._page_size
        )
        self._heads = freelists
        offset = np.array([cache.offset for cache in caches] or [0], np.int64)[slabs.cache]
        offset[kfence] = 0
        self._pointers = _ObjectWords(slabs, offset, self._page_size, kernel.word.itemsize)
        self._links: _ObjectWords | None = None
        self._quarantine = np.array(quarantine(kernel) if shadow is not None else [], np.uint64)
        if len(self._quarantine):
            offset = np.array([cache.link for cache in caches] or [0], np.int64)[slabs.cache]
            offset[kfence | (offset < 0)] = 0
            self._links = _ObjectWords(slabs, offset, self._page_size, kernel.word.itemsize)

    def of_cache(self, address: int) -> Array:
        """
        Return the objects of a cache, whether they are allocated or free.

        :param address: Address of the ``struct kmem_cache``.
        :return: Indices of the objects among all slab objects: ``int64``; empty if no cache is at
            *address*.
        """
        found = [number for number, cache in enumerate(self._caches) if cache.address == address]
        slab = np.flatnonzero(np.isin(self._slabs.cache, found))
        return ranges(self._slabs.start[slab], self._slabs.objects[slab])

    def share(self, make: Callable[[int], Array]) -> None:
        """
        Store what :meth:`collect` finds in other arrays, so that several processes may call it.

        :param make: Function that returns an array of a number of words (``uint64``), whatever its
            contents.
        """
        for words in (self._pointers, self._links):
            if words is not None:
                words.values = make(len(self._slabs))
                words.values[:] = 0

    def collect(self, rows: Array, data: Array) -> None:
        """
        Collect the free pointers from some pages.

        :param rows: Rows of the pages, ascending.
        :param data: Contents of the pages, as words: ``uint64``.
        """
        self._pointers.collect(rows, data)
        if self._links is not None:
            self._links.collect(rows, data)

    def mark(self) -> None:
        """Clear :attr:`Slabs.allocated` for free objects, after all pages were collected."""
        allocated = self._slabs.allocated
        ready = np.array([a for cache in self._caches for a in cache.free], np.uint64)
        slab, number = self._locate(ready)
        known = slab >= 0
        allocated[self._slabs.start[slab[known]] + number[known]] = False
        lists = np.array([a for cache in self._caches for a in cache.lists], np.uint64)
        current = np.concatenate([self._heads, lists])
        current = current[current != 0]
        random = np.array([cache.random for cache in self._caches] or [0], np.uint64)
        hardened = np.array([cache.hardened for cache in self._caches] or [False], bool)
        offset = np.array([cache.offset for cache in self._caches] or [0], np.uint64)
        # A list is not longer than the number of objects in a slab.
        for _ in range(int(self._slabs.objects.max(initial=0)) + 1):
            if not len(current):
                break
            slab, number = self._locate(current)
            good = slab >= 0
            slab, current = slab[good], current[good]
            node = self._slabs.start[slab] + number[good]
            fresh = allocated[node]
            allocated[node] = False
            # Stop at an object that was visited before, because the rest of the list is known or
            # the list is a ring.
            slab, node, current = slab[fresh], node[fresh], current[fresh]
            cache = self._slabs.cache[slab]
            words = self._pointers.values[node]
            # freelist_ptr_decode(): the address is byte-swapped since Linux kernel commit
            # 1ad53d9fa3f6 ("slub: improve bit diffusion for freelist ptr obfuscation") (in v5.7).
            places = (current + offset[cache]).astype(self._word_dtype).byteswap()
            mixed = words ^ random[cache] ^ places.astype(np.uint64)
            current = np.where(hardened[cache], mixed, words)
            current = current[current != 0]
        if self._shadow is not None:
            self._mark_poisoned(self._shadow)
        if self._links is not None:
            self._mark_quarantined(self._links.values)

    def _mark_quarantined(self, links: Array) -> None:
        """
        Clear :attr:`Slabs.allocated` for objects in KASAN's quarantine.

        The shadow memory does not show all of them, because objects of caches with
        SLAB_TYPESAFE_BY_RCU are not poisoned in the quarantine.

        :param links: Quarantine link of each object: ``uint64``, a row per object.
        """
        slabs, current = self._slabs, self._quarantine
        link = np.array([cache.link for cache in self._caches] or [0], np.int64)
        seen = np.zeros(len(slabs), bool)
        while len(current):
            slab = np.searchsorted(self._address, current, "right") - 1
            inside = slab >= 0
            slab = np.maximum(slab, 0)
            # The link may be in the object or after it.
            offset = (current - self._address[slab]).astype(np.int64) - slabs.first[slab]
            offset -= link[slabs.cache[slab]]
            number = offset // slabs.stride[slab]
            inside &= (number >= 0) & (number < slabs.objects[slab])
            inside &= offset % slabs.stride[slab] == 0
            node = slabs.start[slab[inside]] + number[inside]
            # A list ends at an object that was visited before.
            node = node[~seen[node]]
            seen[node] = True
            current = links[node]
            current = current[current != 0]
        slabs.allocated[seen] = False

    def _mark_poisoned(self, shadow: Shadow) -> None:
        """Clear :attr:`Slabs.allocated` for objects that are freed according to KASAN's shadow."""
        slabs = self._slabs
        of_slab = np.repeat(np.arange(len(slabs.row)), slabs.objects)
        number = np.arange(len(slabs)) - slabs.start[of_slab]
        address = self._address[of_slab] + (
            slabs.first[of_slab] + number * slabs.stride[of_slab]
        ).astype(np.uint64)
        # The addresses are ascending, because the slabs are. Read the shadow of each piece at once.
        piece = address // np.uint64(_PIECE)
        for members in np.split(np.arange(len(address)), np.flatnonzero(np.diff(piece)) + 1):
            if not len(members):
                continue
            start = int(address[members[0]])
            # Objects have eight bytes or more, so a shadow byte belongs to one object.
            offsets = (address[members] - np.uint64(start)).astype(np.int64)
            freed = shadow.freed(start, int(offsets[-1]) + 8, offsets)
            slabs.allocated[members[freed]] = False

    def _locate(self, objects: Array) -> tuple[Array, Array]:
        """
        Find the slab and the object that begins at each address.

        :param objects: Virtual addresses: ``uint64``, shape ``(n,)``.
        :return: Index of the slab, and of the object in the slab: ``int64``, shape ``(n,)``; the
            index of the slab is -1 if no object begins at the address.
        """
        if not len(self._address):
            return np.full(len(objects), -1, np.int64), np.zeros(len(objects), np.int64)
        slab = np.searchsorted(self._address, objects, "right") - 1
        inside = slab >= 0
        slab = np.maximum(slab, 0)
        offset = (objects - self._address[slab]).astype(np.int64) - self._slabs.first[slab]
        number = offset // self._slabs.stride[slab]
        inside &= (offset >= 0) & (number < self._slabs.objects[slab])
        inside &= offset % self._slabs.stride[slab] == 0
        return np.where(inside, slab, -1), number
