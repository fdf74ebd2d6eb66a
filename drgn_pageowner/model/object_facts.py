# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stack, task, tag and memory cgroup of allocated slab objects, as far as they are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.stacks import Frame

__all__ = ("ObjectFacts",)


@dataclass
class ObjectFacts:
    """Table of slab objects with the stack, task, tag and memory cgroup of each allocation."""

    address: Array
    """``uint64``, shape ``(n,)``: virtual address."""
    stack: Array
    """``int32``, shape ``(n,)``: index in :attr:`stacks`; -1 for none."""
    pid: Array
    """``int32``, shape ``(n,)``: pid of the task that allocated it; -1 if not recorded."""
    stacks: Sequence[list[Frame]]
    tag: Array
    """``int32``, shape ``(n,)``: index in :attr:`tags`; -1 for none."""
    tags: Sequence[str]
    """Allocation tags as /proc/allocinfo prints them."""
    memcg: Array
    """``int32``, shape ``(n,)``: index in :attr:`memcgs`; -1 for none."""
    memcgs: Sequence[str]
    """Paths of the memory cgroups that objects are charged to (``slabobj_ext.objcg``)."""

    @classmethod
    def of(cls, address: Array) -> ObjectFacts:
        """Return a table of objects of which only the address is known."""
        none = np.full(len(address), -1, np.int32)
        return cls(address, none, none, [], none, [], none, [])

    def and_unknown(self, address: Array) -> ObjectFacts:
        """Return this table with rows appended for memory of which only the address is known."""
        none = np.full(len(address), -1, np.int32)
        return replace(
            self,
            address=np.concatenate([self.address, address]),
            stack=np.concatenate([self.stack, none]),
            pid=np.concatenate([self.pid, none]),
            tag=np.concatenate([self.tag, none]),
            memcg=np.concatenate([self.memcg, none]),
        )
