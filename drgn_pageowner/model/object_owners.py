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
    """Every object of the slabs, and who allocated it, as far as this kernel knows."""

    slabs: Slabs
    """With :attr:`~drgn_pageowner.model.heap.Slabs.allocated` told."""
    tag: Array
    """``int32``, a row per object: place in :attr:`tags`, or -1."""
    tags: Tags | None
    """``None`` of a kernel without tags."""
    handle: Array
    """``uint32``, a row per object: a handle of :attr:`stacks`; 0 for none."""
    pid: Array
    """``int32``, a row per object: the task that allocated it; -1 if that is not kept."""
    stacks: Stacks
    symbolizer: Symbolizer
    page_size: int
    problems: Sequence[str] = field(default_factory=list)
    """What could not be read, a line each."""

    def frames(self, handle: int) -> list[Frame]:
        """The stack of *handle*, innermost frame first; empty for none."""
        number = int(self.stacks.index(np.array([handle], np.uint32))[0])
        return self.symbolizer.symbolize(self.stacks[number]) if number >= 0 else []
