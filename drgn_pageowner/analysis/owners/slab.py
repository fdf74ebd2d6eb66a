# SPDX-License-Identifier: LGPL-2.1-or-later
"""Slab objects grouped by cache and owner."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from drgn_pageowner.analysis.owners.allocator import allocator_name
from drgn_pageowner.model.arrays import Array, distinct, sums
from drgn_pageowner.model.object_owners import ObjectOwners
from drgn_pageowner.model.stacks import Frame

__all__ = ("SlabGroup", "SlabTop", "top_slab")


@dataclass(frozen=True)
class SlabGroup:
    """Allocated objects of one cache that have one owner."""

    cache: str
    owner: str | None
    """The allocation tag if known, else the function that asked for the object; ``None`` if
    neither is recorded."""
    objects: int
    bytes: int
    """Bytes of memory in slabs, including metadata and padding of every object."""
    tag: str | None
    stack: list[Frame]
    """The most frequent stack of the objects; empty if none is recorded."""
    pids: list[int]
    """The tasks that allocated most of them, at most 8."""
    memcgs: dict[str, int] = field(default_factory=dict)
    """Paths of the memory cgroups that most of them are charged to, and the number of objects; at
    most 8."""


@dataclass(frozen=True)
class SlabTop:
    """The largest groups of slab objects."""

    groups: list[SlabGroup]
    number_of_groups: int
    objects: int
    """Allocated objects of all groups, shown or not."""
    bytes: int
    with_owner: int
    """How many of :attr:`objects` have a known owner."""
    free_objects: int


def top_slab(owners: ObjectOwners, *, by_owner: bool = True, limit: int | None = None) -> SlabTop:
    """
    Group the allocated objects of *owners*.

    :param by_owner: Group by cache and owner instead of by cache alone.
    :param limit: Maximum number of groups to return.
    """
    slabs = owners.slabs
    objects = np.flatnonzero(slabs.allocated)
    slab = slabs.slab_of(objects)
    cache = slabs.cache[slab].astype(np.int64)
    sizes = slabs.stride[slab]
    tag, handle = owners.tag[objects].astype(np.int64), owners.handle[objects].astype(np.int64)
    # The tag, else the stack's handle; tags are shifted so that they differ from handles.
    owner = np.where(tag >= 0, tag + (np.int64(1) << 32), handle) if by_owner else 0 * tag
    width = np.int64(1) << 34
    keys, group = distinct(cache * width + owner)
    number = len(keys)
    counts = np.bincount(group, minlength=number).astype(np.int64)
    total = sums(group, sizes, number)
    order = np.lexsort((keys, -counts, -total))
    shown = order[:limit].tolist()
    members = _members(group, shown)
    groups = []
    for place, which in enumerate(shown):
        rows = members[place]
        groups.append(
            _group(
                owners,
                slabs.caches[int(keys[which]) // int(width)],
                objects[rows],
                int(total[which]),
                by_owner,
            )
        )
    known = (tag >= 0) | (handle > 0)
    return SlabTop(
        groups,
        number,
        len(objects),
        int(total.sum()),
        int(np.count_nonzero(known)),
        len(slabs) - len(objects),
    )


def _members(group: Array, shown: list[int]) -> list[Array]:
    """Return the rows of each of the groups *shown*."""
    by_group = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group)) if len(group) else np.zeros(0, np.int64)
    return [by_group[int(ends[n - 1]) if n else 0 : int(ends[n])] for n in shown]


def _group(
    owners: ObjectOwners, cache: str, objects: Array, size: int, by_owner: bool
) -> SlabGroup:
    tag = int(owners.tag[objects[0]]) if by_owner else -1
    handles, counts = np.unique(owners.handle[objects], return_counts=True)
    counts = counts[handles != 0]
    handles = handles[handles != 0]
    stack: list[Frame] = []
    if by_owner and len(handles):
        stack = owners.frames(int(handles[np.argmax(counts)]))
    text = owners.tags.text(tag) if owners.tags is not None else None
    pids, of_pid = np.unique(owners.pid[objects], return_counts=True)
    order = np.argsort(-of_pid, kind="stable")
    memcgs, charged = np.unique(owners.memcg[objects], return_counts=True)
    by_charge = np.argsort(-charged, kind="stable")
    return SlabGroup(
        cache=cache,
        owner=text or (allocator_name(stack) or None),
        objects=len(objects),
        bytes=size,
        tag=text,
        stack=stack,
        pids=[int(pid) for pid in pids[order] if pid >= 0][:8],
        memcgs={
            owners.memcgs[int(memcgs[place])]: int(charged[place])
            for place in by_charge[:9].tolist()
            if memcgs[place] >= 0
        },
    )
