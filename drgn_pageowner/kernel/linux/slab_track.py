# SPDX-License-Identifier: LGPL-2.1-or-later
"""Allocation stacks of slab objects, kept with ``slub_debug=U``: ``struct track``."""

from __future__ import annotations

import numpy as np
from drgn import Object

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.bulk import has_member
from drgn_pageowner.kernel.dump.damage import DAMAGE, name_of, suppress_damage, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms
from drgn_pageowner.kernel.linux.slab import slab_caches
from drgn_pageowner.kernel.linux.stackdepot import read_stacks
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Slabs
from drgn_pageowner.model.pages import Pages
from drgn_pageowner.model.stacks import Frame, Stacks

__all__ = ("keeps_tracks", "object_addresses", "object_tracks", "readable_caches", "track_offset")

# SLAB_STORE_USER of include/linux/slab.h: a macro with this bit before Linux kernel commit
# cc61eb851c9a ("mm, slab: use an enum to define SLAB_ cache creation flags") (in v6.9), an
# enumerator with its number since.
_STORE_USER_BIT = 16


def object_addresses(kernel: Kernel, pages: Pages, slabs: Slabs, objects: Array) -> Array:
    """Get the virtual addresses of slab objects: ``uint64``, the shape of *objects*."""
    slab = slabs.slab_of(objects)
    page = pages.pfns(slabs.row[slab]) * pages.facts.page_size
    offset = slabs.first[slab] + (objects - slabs.start[slab]) * slabs.stride[slab]
    result: Array = (page + offset).astype(np.uint64) + np.uint64(direct_map(kernel))
    return result


def object_tracks(
    kernel: Kernel, slabs: Slabs, objects: Array, addresses: Array
) -> list[tuple[list[Frame], int] | None]:
    """
    Get the stack and the pid of every object's allocation; ``None`` if they are not recorded.

    :param addresses: The result of :func:`object_addresses`.
    """
    caches = readable_caches(kernel)
    names = [slabs.caches[number] for number in slabs.cache[slabs.slab_of(objects)].tolist()]
    tracks = [
        _track(kernel, caches[name], address) if name in caches else None
        for name, address in zip(names, addresses.tolist(), strict=True)
    ]
    return _with_frames(kernel, tracks)


def readable_caches(kernel: Kernel) -> dict[str, Object]:
    """Get every ``struct kmem_cache *`` that can be read, by name."""
    caches = {}
    for cache in slab_caches(kernel, kernel.losses):
        with suppress_damage():
            caches[name_of(cache.name)] = cache
    return caches


def keeps_tracks(kernel: Kernel, cache: Object) -> bool:
    """Return whether a ``struct kmem_cache *`` keeps a ``struct track`` with each object."""
    try:
        bit = int(kernel.prog.constant("_SLAB_STORE_USER"))
    except LookupError:
        bit = _STORE_USER_BIT
    return bool(int(cache.flags) >> bit & 1)


def track_offset(kernel: Kernel, cache: Object) -> int:
    """Get the offset from an object to the ``struct track`` of its allocation."""
    # get_info_end(): after the free pointer, if that is outside the object.
    outside = int(cache.offset) >= int(cache.inuse)
    return int(cache.offset) + kernel.word.itemsize if outside else int(cache.inuse)


def _track(kernel: Kernel, cache: Object, address: int) -> Object | None:
    """Get the ``struct track``, as ``get_track(s, object, TRACK_ALLOC)`` of mm/slub.c does."""
    if not keeps_tracks(kernel, cache):
        return None
    try:
        place = address + track_offset(kernel, cache)
        return Object(kernel.prog, "struct track", address=place).read_()
    except DAMAGE as error:
        unless_mistaken(error)
        return None


def _with_frames(
    kernel: Kernel, tracks: list[Object | None]
) -> list[tuple[list[Frame], int] | None]:
    stacks = _depot_stacks(kernel, tracks)
    kallsyms = load_kallsyms(kernel)
    result: list[tuple[list[Frame], int] | None] = []
    for track in tracks:
        pcs = _pcs(track, stacks) if track is not None else []
        if track is None or not pcs:
            result.append(None)
        else:
            frames = kallsyms.symbolize(np.array(pcs, np.uint64))
            result.append((frames, int(track.pid)))
    return result


def _depot_stacks(kernel: Kernel, tracks: list[Object | None]) -> Stacks:
    """
    Read the stacks that the tracks have handles of.

    Tracks have handles since Linux kernel commit 5cf909c553e9 ("mm/slub: use stackdepot to save
    stack trace in objects") (in v5.19).
    """
    handles = {
        int(track.handle)
        for track in tracks
        if track is not None and has_member(track.type_, "handle")
    }
    wanted = np.array(sorted(handles - {0}), np.uint32)
    if not len(wanted):
        return Stacks.empty()
    try:
        return read_stacks(kernel, wanted)[0]
    except (PageOwnerError, *DAMAGE) as error:
        unless_mistaken(error)
        return Stacks.empty()


def _pcs(track: Object, stacks: Stacks) -> list[int]:
    if has_member(track.type_, "addrs"):
        # An array in the track itself before 5cf909c553e9 (see above).
        return [int(pc) for pc in track.addrs if int(pc)]
    if has_member(track.type_, "handle"):
        number = int(stacks.index(np.array([int(track.handle)], np.uint32))[0])
        if number >= 0:
            return [int(pc) for pc in stacks[number].tolist()]
    return [int(track.addr)] if int(track.addr) else []
