# SPDX-License-Identifier: LGPL-2.1-or-later
"""KFENCE: find slab objects in its pool, where each object has a page between guard pages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from drgn import Object, TypeKind, sizeof

from drgn_pageowner.kernel.dump.bulk import (
    enumerators,
    find_object,
    find_type,
    read_bulk,
    struct_dtype,
)
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.model.arrays import Array

__all__ = ("KfencePool", "find_kfence")

# Maximum of CONFIG_KFENCE_NUM_OBJECTS.
_MOST_OBJECTS = 65535


class KfencePool(NamedTuple):
    """Location of KFENCE's pool, and a table with a row for each of its objects, by address."""

    start: int
    """``__kfence_pool``: virtual address, in the direct map."""
    size: int
    """``KFENCE_POOL_SIZE``, in bytes."""
    address: Array
    """``uint64``: virtual address of the object, or of its page if it was never allocated."""
    length: Array
    """``int64``: requested size of the object, in bytes."""
    cache: Array
    """``uint64``: address of the object's ``struct kmem_cache``; 0 if it was never allocated."""
    allocated: Array
    """``bool``: whether the object is allocated."""
    metadata: tuple[int, int]
    """Address, and size in bytes, of the array ``kfence_metadata``, which has pointers to all
    objects."""


def find_kfence(kernel: Kernel) -> KfencePool | None:
    """Find KFENCE's pool; return ``None`` if this kernel has no pool or did not initialize it."""
    pool, metadata = (
        find_object(kernel.prog, name) for name in ("__kfence_pool", "kfence_metadata")
    )
    type_ = find_type(kernel.prog, "struct kfence_metadata")
    states = enumerators(kernel.prog, "enum kfence_object_state")
    if pool is None or metadata is None or type_ is None or not states:
        return None
    rows = None
    with kernel.tolerate("KFENCE's pool cannot be read: its objects are unknown", gap=True):
        start = int(pool)
        if start:
            dtype = struct_dtype(kernel.prog, type_, ("state", "addr", "size", "cache"))
            rows = _metadata(kernel, metadata, dtype, start)
    if rows is None or not len(rows):
        return None
    # An object that waits for an RCU grace period may still be read. This state was added in Linux
    # kernel commit c36be0cdf63d ("kfence: save freeing stack trace at calling time instead of
    # freeing time") (in v6.12).
    names = ("KFENCE_OBJECT_ALLOCATED", "KFENCE_OBJECT_RCU_FREEING")
    kept = [states[name] for name in names if name in states]
    # The first two pages are guard pages, and so is the page after each object's page.
    return KfencePool(
        start,
        (len(rows) + 1) * 2 * kernel.page_size,
        rows["addr"].astype(np.uint64),
        rows["size"].astype(np.int64),
        rows["cache"].astype(np.uint64),
        np.isin(rows["state"], kept),
        (_address(metadata), len(rows) * dtype.itemsize),
    )


def _address(metadata: Object) -> int:
    """Get the address of the first ``struct kfence_metadata``."""
    # A pointer since Linux kernel commit cabdf74e6b31 ("mm: kfence: allocate kfence_metadata at
    # runtime") (in v6.6).
    is_array = metadata.type_.kind == TypeKind.ARRAY
    return int(metadata.address_ or 0) if is_array else int(metadata)


def _metadata(kernel: Kernel, metadata: Object, dtype: np.dtype[np.void], start: int) -> Array:
    """Read the ``struct kfence_metadata`` of every object."""
    address, number = _address(metadata), _MOST_OBJECTS
    if metadata.type_.kind == TypeKind.ARRAY:
        number = sizeof(metadata.type_) // dtype.itemsize
    # If kfence_metadata is a pointer, the number of elements is unknown. The first element whose
    # object is not in the page that belongs to it is after the end of the array.
    size, found = kernel.page_size, []
    step = max((1 << 16) // dtype.itemsize, 1)
    for first in range(0, number if address else 0, step):
        count = min(step, number - first)
        bulk = read_bulk(kernel.prog, address + first * dtype.itemsize, count * dtype.itemsize)
        rows = np.frombuffer(bulk.data, dtype, count)
        place = 2 * (first + np.arange(count, dtype=np.uint64) + np.uint64(1))
        wrong = np.flatnonzero(rows["addr"] // size != start // size + place)
        found.append(rows[: wrong[0] if len(wrong) else count])
        if len(wrong):
            break
    return np.concatenate(found) if found else np.zeros(0, dtype)
