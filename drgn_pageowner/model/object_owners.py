# SPDX-License-Identifier: LGPL-2.1-or-later
"""The owners of slab objects: allocation tags, and the stacks that slab debugging records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Slabs
from drgn_pageowner.model.stacks import Frame, Stacks, Symbolizer
from drgn_pageowner.model.tags import Tags

__all__ = ("ObjectOwners",)


@dataclass
class ObjectOwners:
    """Table of all slab objects with the tag, stack and task of each allocation, where recorded."""

    slabs: Slabs
    """The slabs, with :attr:`~drgn_pageowner.model.heap.Slabs.allocated` filled in."""
    tag: Array
    """``int32``, a row per object: index in :attr:`tags`, or -1."""
    tags: Tags | None
    """``None`` for a kernel without tags."""
    handle: Array
    """``uint32``, a row per object: handle of its stack in :attr:`stacks`; 0 if it has none."""
    pid: Array
    """``int32``, a row per object: pid of the task that allocated it; -1 if not recorded."""
    stacks: Stacks
    symbolizer: Symbolizer
    page_size: int
    memcg: Array
    """``int32``, a row per object: index in :attr:`memcgs`; -1 if it is charged to none."""
    memcgs: Sequence[str] = ()
    """Paths of the memory cgroups that objects are charged to, from ``slabobj_ext.objcg``. Added in
    Linux kernel commit 21c690a349ba ("mm: introduce slabobj_ext to support slab object extensions")
    (in v6.10)."""
    problems: Sequence[str] = field(default_factory=list)
    """One line per part that could not be read."""

    def frames(self, handle: int) -> list[Frame]:
        """Return the stack of *handle*, innermost frame first; empty if the handle is unknown."""
        number = int(self.stacks.index(np.array([handle], np.uint32))[0])
        return self.symbolizer.symbolize(self.stacks[number]) if number >= 0 else []
