# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the allocation tags of per-CPU memory from ``pcpu_chunk.obj_exts`` of mm/percpu.c."""

from __future__ import annotations

import numpy as np
from drgn import FaultError, Object

from drgn_pageowner.kernel.dump.bulk import (
    find_object,
    find_type,
    has_member,
    read_bulk,
    struct_dtype,
)
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    every_entry,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.model.arrays import Array

__all__ = ("read_percpu_references",)

# PCPU_MIN_ALLOC_SIZE of mm/percpu-internal.h, the unit of a chunk's maps.
_UNIT = 4
# Limit for the bits of a unit's maps, for a unit of 1 GiB; real units have a few hundred KiB.
_MOST_UNITS = 1 << 28


def read_percpu_references(kernel: Kernel, problems: list[str]) -> tuple[Array, Array]:
    """
    Read the references from allocations of per-CPU memory to their allocation tags.

    :param problems: List of messages, to which a line is added for each chunk that is damaged.
    :return: Two arrays with a row per allocation that has a tag: the address of the ``struct
        codetag`` (``uint64``), and the size of the allocation on one CPU, in bytes (``int64``).
    """
    type_ = find_type(kernel.prog, "struct pcpu_chunk")
    extension = find_type(kernel.prog, "struct pcpuobj_ext")
    nothing = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    if type_ is None or extension is None or not has_member(extension, "tag"):
        return nothing
    parts = [nothing]
    for chunk in _chunks(kernel, problems):
        try:
            parts.append(_of_chunk(kernel, chunk))
        except DAMAGE as error:
            unless_mistaken(error)
            problems.append(f"the per-CPU chunk at {int(chunk):#x} is damaged ({error})")
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _chunks(kernel: Kernel, problems: list[str]) -> list[Object]:
    """Get the ``struct pcpu_chunk *`` of every chunk."""
    lists = find_object(kernel.prog, "pcpu_chunk_lists", "mm/percpu.c")
    if lists is None:
        lists = find_object(kernel.prog, "pcpu_chunk_lists")
    number = find_object(kernel.prog, "pcpu_nr_slots")
    if lists is None or number is None:
        return []
    found: list[Object] = []
    try:
        for slot in range(min(int(number), 256)):
            head = lists[slot].address_of_()
            found += every_entry("struct pcpu_chunk", head, "list", "a per-CPU slot", problems)
    except FaultError as fault:
        problems.append(f"not all per-CPU chunks can be found ({fault})")
    return found


def _of_chunk(kernel: Kernel, chunk: Object) -> tuple[Array, Array]:
    """Get the references and sizes of a chunk's allocations, as :func:`read_percpu_references`."""
    if not chunk.obj_exts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    units = int(chunk.nr_pages) * kernel.page_size // _UNIT
    if not 0 < units <= _MOST_UNITS:
        raise ValueError(f"{units * _UNIT} bytes")
    dtype = struct_dtype(kernel.prog, chunk.obj_exts.type_.type, {"tag": "tag.ct"})
    data = read_bulk(kernel.prog, int(chunk.obj_exts), units * dtype.itemsize).data
    references = np.frombuffer(data, dtype, units)["tag"].astype(np.uint64)
    begins = np.flatnonzero(references)
    word = kernel.word.itemsize
    # The bound map has one bit more than there are units.
    size = -(-(units + 1) // (8 * word)) * word
    bits = read_bulk(kernel.prog, int(chunk.bound_map), size).data
    bounds = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    ends = np.append(np.flatnonzero(bounds[: units + 1]), units)
    end = ends[np.minimum(np.searchsorted(ends, begins, "right"), len(ends) - 1)]
    return references[begins], (end - begins).astype(np.int64) * _UNIT
