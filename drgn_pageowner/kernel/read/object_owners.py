# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the owners of all slab objects from tags, SLUB's tracks or KASAN's stacks, in bulk."""

from __future__ import annotations

from typing import Any

import numpy as np
from drgn import Object

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.bulk import find_type, gather, read_bulk, struct_dtype, words
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.alloc_tag import (
    add_unlisted,
    page_references,
    read_tag_table,
)
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms
from drgn_pageowner.kernel.linux.kasan_track import alloc_meta_dtype, alloc_meta_offset
from drgn_pageowner.kernel.linux.memcg import MemcgTable
from drgn_pageowner.kernel.linux.slab import read_slabs
from drgn_pageowner.kernel.linux.slab_free import FreeObjects
from drgn_pageowner.kernel.linux.slab_track import (
    keeps_tracks,
    object_addresses,
    readable_caches,
    track_offset,
)
from drgn_pageowner.kernel.linux.slabobj_ext import read_object_extensions
from drgn_pageowner.kernel.linux.stackdepot import read_stacks
from drgn_pageowner.kernel.linux.trace import intern_traces
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.kernel.read.pages import read_all_pages
from drgn_pageowner.kernel.read.tags import read_tagged
from drgn_pageowner.model.arrays import Array, ascending, rows_among
from drgn_pageowner.model.heap import Slabs
from drgn_pageowner.model.object_facts import ObjectFacts
from drgn_pageowner.model.object_owners import ObjectOwners
from drgn_pageowner.model.pages import Memory, Pages, PageState
from drgn_pageowner.model.stacks import Stacks
from drgn_pageowner.units import counted

__all__ = ("read_object_facts", "read_object_owners")

# Number of pages to read at once.
_PIECE = 4096


def read_object_owners(kernel: Kernel, memory: Memory | None = None) -> ObjectOwners:
    """
    Read every slab object and its owner.

    :param memory: All pages, with the column ``head``, if they were read before.
    :raises PageOwnerError: if the dump lacks memory that is needed for this
    """
    if memory is None:
        memory = read_all_pages(kernel, columns=("head",))
    slabs, free = read_slabs(kernel, memory.pages)
    _mark_free(kernel, memory.pages, free)
    problems = [*memory.problems, *slabs.problems]
    tag, tags = np.full(len(slabs), -1, np.int32), None
    charged: Array | None = None
    if page_references(kernel) is not None:
        tagged = read_tagged(kernel, memory.pages, slabs)
        tag, tags, charged = tagged.object_tag, tagged.tags, tagged.object_memcg
        problems += tagged.problems
    else:
        extensions = read_object_extensions(kernel, memory.pages, slabs)
        charged = extensions.objcg if extensions is not None else None
    memcgs = MemcgTable(kernel)
    memcg = np.full(len(slabs), -1, np.int32)
    if charged is not None:
        memcg = memcgs.columns(np.where(slabs.allocated, charged, 0).astype(np.uint64))[0]
    handle, pid, stacks = _stacks(kernel, memory.pages, slabs, problems)
    return ObjectOwners(
        slabs=slabs,
        tag=tag,
        tags=tags,
        handle=handle,
        pid=pid,
        stacks=stacks,
        symbolizer=load_kallsyms(kernel),
        page_size=kernel.page_size,
        memcg=memcg,
        memcgs=[memcg.path for memcg in memcgs.memcgs],
        problems=list(dict.fromkeys(problems)),
    )


def read_object_facts(
    kernel: Kernel, pages: Pages, slabs: Slabs, objects: Array, problems: list[str]
) -> ObjectFacts:
    """
    Read stack, task, tag and memory cgroup of some slab objects, where this kernel records them.

    :param objects: ``int64``, ascending: indices of the objects.
    :param problems: List to which a line is added for each part that cannot be read.
    """
    result = ObjectFacts.of(object_addresses(kernel, pages, slabs, objects))
    chosen = np.zeros(len(slabs), bool)
    chosen[objects] = True
    handle, pid, stacks = _stacks(kernel, pages, slabs, problems, chosen)
    numbers, inverse = np.unique(stacks.index(handle[objects]), return_inverse=True)
    symbolizer = load_kallsyms(kernel)
    known = numbers >= 0
    result.stacks = [symbolizer.symbolize(stacks[n]) for n in numbers[known].tolist()]
    result.stack = np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)[inverse]
    result.pid = np.where(result.stack >= 0, pid[objects], -1).astype(np.int32)
    extensions = read_object_extensions(kernel, pages, slabs, objects)
    if extensions is None:
        return result
    if page_references(kernel) is not None:
        table = add_unlisted(kernel, read_tag_table(kernel), extensions.reference)
        tags, inverse = np.unique(table.number(extensions.reference), return_inverse=True)
        known = tags >= 0
        result.tags = [str(table.places[number]) for number in tags[known].tolist()]
        result.tag = np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)[inverse]
    if extensions.objcg is not None:
        memcgs = MemcgTable(kernel)
        result.memcg = memcgs.columns(extensions.objcg)[0]
        result.memcgs = [memcg.path for memcg in memcgs.memcgs]
    return result


def _mark_free(kernel: Kernel, pages: Pages, free: FreeObjects) -> None:
    """Mark free objects as such, by following the free lists in the slabs' pages."""
    rows = rows_among(pages.state, [PageState.SLAB])
    pfns = pages.pfns(rows)
    cuts = np.flatnonzero(np.diff(pfns) != 1) + 1
    for piece in np.split(np.arange(len(rows)), cuts) if len(rows) else []:
        for start in range(0, len(piece), _PIECE):
            chosen = piece[start : start + _PIECE]
            address = direct_map(kernel) + int(pfns[chosen[0]]) * kernel.page_size
            bulk = read_bulk(kernel.prog, address, len(chosen) * kernel.page_size)
            free.collect(rows[chosen], words(kernel.prog, bulk.data))
    free.mark()


def _stacks(
    kernel: Kernel, pages: Pages, slabs: Slabs, problems: list[str], chosen: Array | None = None
) -> tuple[Array, Array, Stacks]:
    """
    Read the handle and pid of every object's allocation, and the stacks of the handles.

    :param chosen: ``bool``, a row per object: the requested objects; all by default.
    :return: ``depot_stack_handle_t`` (``uint32``; 0 if unknown) and pid (``int32``; -1 if unknown),
        a row per object in each; and the stacks.
    """
    chosen = slabs.allocated if chosen is None else slabs.allocated & chosen
    handle, pid = np.zeros(len(slabs), np.uint32), np.full(len(slabs), -1, np.int32)
    traces: list[tuple[Array, Array]] = []
    caches = readable_caches(kernel)
    of_object = np.repeat(slabs.cache, slabs.objects)
    for number, name in enumerate(slabs.caches):
        cache = caches.get(name)
        if cache is None:
            continue
        try:
            place = _place(kernel, cache)
        except DAMAGE as error:
            unless_mistaken(error)
            problems.append(f"the slab cache {name} is damaged ({error})")
            continue
        if place is None:
            continue
        objects = np.flatnonzero((of_object == number) & chosen)
        addresses = object_addresses(kernel, pages, slabs, objects) + np.uint64(place[0])
        rows, there = gather(kernel.prog, addresses, place[1])
        fields = place[1].names or ()
        pid[objects[there]] = rows["pid"][there]
        if "handle" in fields:
            handle[objects[there]] = rows["handle"][there]
        elif "addrs" in fields:
            traces.append((objects[there], rows["addrs"][there]))
    if traces:
        # The track itself contains the stack, as an array, before Linux kernel commit 5cf909c553e9
        # ("mm/slub: use stackdepot to save stack trace in objects") (in v5.19).
        objects = np.concatenate([part[0] for part in traces])
        entries = np.concatenate([part[1] for part in traces])
        handle[objects], stacks, _ = intern_traces((entries != 0).sum(axis=1), entries)
        return handle, pid, stacks
    return handle, pid, _depot_stacks(kernel, handle, problems)


def _depot_stacks(kernel: Kernel, handles: Array, problems: list[str]) -> Stacks:
    """Read the stacks of *handles*, some of which may be 0."""
    wanted = ascending(handles.copy())
    wanted = wanted[wanted != 0]
    if not len(wanted):
        return Stacks.empty()
    try:
        stacks, lost = read_stacks(kernel, wanted)
    except (PageOwnerError, *DAMAGE) as error:
        unless_mistaken(error)
        problems.append(f"stacks of slab objects are unknown: no stack depot can be read ({error})")
        return Stacks.empty()
    if len(lost):
        problems.append(f"{counted(len(lost), 'stack')} of slab objects not in the stack depot")
    return stacks


def _place(kernel: Kernel, cache: Object) -> tuple[int, np.dtype[Any]] | None:
    """
    Get the offset from an object to the record of its allocation, and the dtype of that record.
    """
    if keeps_tracks(kernel, cache):
        type_ = find_type(kernel.prog, "struct track")
        if type_ is not None:
            dtype = struct_dtype(kernel.prog, type_, ("pid", "handle", "addrs"))
            return track_offset(kernel, cache), dtype
    meta, offset = alloc_meta_dtype(kernel), alloc_meta_offset(cache)
    return (offset, meta) if meta is not None and offset else None
