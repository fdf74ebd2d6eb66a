# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locate slab objects, and ``struct track`` of their allocations, stored with ``slub_debug=U``."""

from __future__ import annotations

import numpy as np
from drgn import Object

from drgn_pageowner.kernel.dump.damage import name_of, suppress_damage
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.slab import slab_caches
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Slabs
from drgn_pageowner.model.pages import Pages

__all__ = ("keeps_tracks", "object_addresses", "readable_caches", "track_offset")

# Number of the bit SLAB_STORE_USER of include/linux/slab.h. The flag is a macro before Linux kernel
# commit cc61eb851c9a ("mm, slab: use an enum to define SLAB_ cache creation flags") (in v6.9);
# since then, the enumerator _SLAB_STORE_USER is the number of the bit.
_STORE_USER_BIT = 16


def object_addresses(kernel: Kernel, pages: Pages, slabs: Slabs, objects: Array) -> Array:
    """
    Get the virtual addresses of slab objects.

    :param objects: Indices of the objects in *slabs*: ``int64``.
    :return: ``uint64``, the shape of *objects*.
    """
    slab = slabs.slab_of(objects)
    page = pages.pfns(slabs.row[slab]) * pages.facts.page_size
    offset = slabs.first[slab] + (objects - slabs.start[slab]) * slabs.stride[slab]
    result: Array = (page + offset).astype(np.uint64) + np.uint64(direct_map(kernel))
    return result


def readable_caches(kernel: Kernel) -> dict[str, Object]:
    """Get a dictionary of slab caches: name -> ``struct kmem_cache *``, if the name is readable."""
    caches = {}
    for cache in slab_caches(kernel, kernel.losses):
        with suppress_damage():
            caches[name_of(cache.name)] = cache
    return caches


def keeps_tracks(kernel: Kernel, cache: Object) -> bool:
    """Return whether a ``struct kmem_cache *`` stores a ``struct track`` with each object."""
    try:
        bit = int(kernel.prog.constant("_SLAB_STORE_USER"))
    except LookupError:
        bit = _STORE_USER_BIT
    return bool(int(cache.flags) >> bit & 1)


def track_offset(kernel: Kernel, cache: Object) -> int:
    """
    Get the offset of the ``struct track`` of an allocation from the start of the object, in bytes.

    :param cache: ``struct kmem_cache *``
    """
    # As in get_info_end(): if the free pointer is outside of the object, the tracks follow it.
    outside = int(cache.offset) >= int(cache.inuse)
    return int(cache.offset) + kernel.word.itemsize if outside else int(cache.inuse)
