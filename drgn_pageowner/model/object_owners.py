# SPDX-License-Identifier: LGPL-2.1-or-later
"""The owners of slab objects: tags, and the stacks that slab debugging keeps."""

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
    """Every slab object and who allocated it, as far as this kernel records that."""

    slabs: Slabs
    """The slabs, with :attr:`~drgn_pageowner.model.heap.Slabs.allocated` filled in."""
    tag: Array
    """``int32``, a row per object: place in :attr:`tags`, or -1."""
    tags: Tags | None
    """``None`` for a kernel without tags."""
    handle: Array
    """``uint32``, a row per object: a handle of :attr:`stacks`; 0 for none."""
    pid: Array
    """``int32``, a row per object: the task that allocated it; -1 if not recorded."""
    stacks: Stacks
    symbolizer: Symbolizer
    page_size: int
    problems: Sequence[str] = field(default_factory=list)
    """One line per part that could not be read."""

    def frames(self, handle: int) -> list[Frame]:
        """Return the stack of *handle*, innermost frame first; empty if there is none."""
        number = int(self.stacks.index(np.array([handle], np.uint32))[0])
        return self.symbolizer.symbolize(self.stacks[number]) if number >= 0 else []
