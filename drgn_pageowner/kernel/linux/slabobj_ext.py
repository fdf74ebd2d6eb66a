# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read the memory cgroup and the allocation tag of slab objects from ``struct slabobj_ext``.

Since Linux kernel commit 21c690a349ba ("mm: introduce slabobj_ext to support slab object
extensions") (in v6.10) a slab points to an array of this structure, with an element per object.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from drgn import Object

from drgn_pageowner.kernel.dump.bulk import (
    enumerators,
    find_type,
    gather,
    has_member,
    read_word,
    struct_dtype,
)
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.page import read_memmap
from drgn_pageowner.kernel.linux.sections import find_sections, memmap_pfns
from drgn_pageowner.kernel.linux.slab import slab_type
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Slabs
from drgn_pageowner.model.pages import Pages

__all__ = ("ObjectExtensions", "object_reference", "read_object_extensions")


class ObjectExtensions(NamedTuple):
    """Members of ``struct slabobj_ext``, with a row per slab object."""

    reference: Array
    """``uint64``: reference to the object's allocation tag; 0 if it has no tag."""
    objcg: Array | None
    """``uint64``: address of the object's ``struct obj_cgroup``, or 0; ``None`` if this kernel does
    not record it."""
    missing: int
    """Number of objects whose extension is not in the dump."""


def read_object_extensions(
    kernel: Kernel, pages: Pages, slabs: Slabs, objects: Array | None = None
) -> ObjectExtensions | None:
    """
    Read the ``struct slabobj_ext`` of slab objects.

    The array of a slab's extensions is allocated separately, or is in the slab's unused space, or
    each extension is inside its object. ``slab->stride`` is the distance between two extensions.

    :param objects: Indices of the objects in *slabs*: ``int64``; by default, all objects.
    :return: A row for each object; ``None`` if this kernel has no extensions.
    """
    type_ = find_type(kernel.prog, "struct slabobj_ext")
    slab = slab_type(kernel)
    if type_ is None or not has_member(slab, "obj_exts"):
        return None
    members = [name for name in ("ref", "objcg") if has_member(type_, name)]
    dtype = struct_dtype(
        kernel.prog, type_, {"ref": "ref.ct", "objcg": "objcg"}, itemsize=int(type_.size)
    )
    vector, stride = _vectors(kernel, pages, slabs, int(type_.size))
    if objects is None:
        objects = np.arange(len(slabs))
    reference = np.zeros(len(objects), np.uint64)
    objcg = np.zeros(len(objects), np.uint64) if "objcg" in members else None
    of_slab = slabs.slab_of(objects)
    place = np.flatnonzero(vector[of_slab])
    of_slab, within = of_slab[place], objects[place] - slabs.start[of_slab[place]]
    addresses = vector[of_slab] + (within * stride[of_slab]).astype(np.uint64)
    rows, there = gather(kernel.prog, addresses, dtype)
    if "ref" in members:
        reference[place] = rows["ref"]
    if objcg is not None:
        objcg[place] = rows["objcg"]
    return ObjectExtensions(reference, objcg, int(np.count_nonzero(~there)))


def object_reference(kernel: Kernel, head: Object, object_address: int) -> int:
    """
    Read the reference from one slab object to its allocation tag.

    :param head: ``struct page *`` of the slab's first page.
    :param object_address: Virtual address of the object.
    :return: Address of the ``struct codetag``; 0 if the object has no tag.
    """
    type_ = find_type(kernel.prog, "struct slabobj_ext")
    slab_of_head = slab_type(kernel)
    if type_ is None or not has_member(type_, "ref") or not has_member(slab_of_head, "obj_exts"):
        return 0
    slab = Object(kernel.prog, kernel.prog.pointer_type(slab_of_head), value=int(head))
    vector = int(slab.obj_exts) & ~_flag_bits(kernel)
    if not vector:
        return 0
    stride = int(slab.stride) if has_member(slab_of_head, "stride") else int(type_.size)
    pfn = int(memmap_pfns(kernel, np.array([int(head)], np.uint64))[0])
    start = direct_map(kernel) + pfn * kernel.page_size
    index = (object_address - start) // int(slab.slab_cache.size)
    if not 0 <= index < int(slab.objects):
        return 0
    return read_word(kernel.prog, vector + stride * index + type_.member("ref").offset)


def _vectors(kernel: Kernel, pages: Pages, slabs: Slabs, size: int) -> tuple[Array, Array]:
    """
    Find the array of extensions of every slab.

    :param size: Size of a ``struct slabobj_ext``, in bytes.
    :return: Address of the array (``uint64``; 0 if the slab has none), and distance between two
        elements in bytes (``int64``); a row per slab in each.
    """
    # slab.stride was added in Linux kernel commit 7a8e71bc619d ("mm/slab: use stride to access
    # slabobj_ext") (in v7.0). Before, the distance is the size of the structure.
    dtype = struct_dtype(
        kernel.prog,
        slab_type(kernel),
        ("obj_exts", "stride"),
        itemsize=kernel.struct_page_size,
    )
    vector = np.zeros(len(slabs.row), np.uint64)
    stride = np.full(len(slabs.row), size, np.int64)
    pfns = pages.pfns(slabs.row)
    for section in find_sections(kernel):
        low, high = np.searchsorted(pfns, (section.start_pfn, section.end_pfn))
        if low == high:
            continue
        first = int(pfns[low])
        rows, _ = read_memmap(kernel, section, dtype, first, int(pfns[high - 1]) + 1)
        chosen = rows[pfns[low:high] - first]
        vector[low:high] = chosen["obj_exts"]
        if "stride" in (dtype.names or ()):
            stride[low:high] = chosen["stride"]
    flags = _flag_bits(kernel)
    # After a failed allocation, the word is only a flag.
    vector &= ~np.uint64(flags)
    sane = (stride >= size) & (stride <= np.maximum(slabs.stride, size))
    vector[~sane] = 0
    return vector, stride


def _flag_bits(kernel: Kernel) -> int:
    """Get OBJEXTS_FLAGS_MASK, the mask of the low bits of ``slab->obj_exts`` that are flags."""
    for enum in ("enum objext_flags", "enum page_memcg_data_flags"):
        for name, value in enumerators(kernel.prog, enum).items():
            if name in ("__NR_OBJEXTS_FLAGS", "__NR_MEMCG_DATA_FLAGS"):
                return value - 1
    return 7
