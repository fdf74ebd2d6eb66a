# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Allocation tags of memory allocation profiling: the source lines that allocate memory.

They were added in Linux kernel commit 22d407b164ff ("lib: add allocation tagging support for memory
allocation profiling") (in v6.10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from drgn_pageowner.model.arrays import Array, sums
from drgn_pageowner.model.stacks import Frame, SourceFrame, Stacks

__all__ = (
    "UNKNOWN", "Profiling", "Tag", "TagSums", "TagUse", "Tagged", "Tags", "allocation_sizes",
    "tag_stacks",
)  # fmt: skip


UNKNOWN = "?"
"""Placeholder for a name that cannot be read, because it was in a module that was unloaded."""


class Profiling(NamedTuple):
    """State of memory allocation profiling in a kernel."""

    state: str
    """``"absent"`` (not compiled in), ``"never"`` (off for good), ``"off"`` (switched off now) or
    ``"on"``."""
    compressed: bool = False
    """Whether the tag of a page is an index in ``page.flags`` instead of a reference in its
    page_ext."""


class Tag(NamedTuple):
    """An allocation tag: the source line of an allocation, as in ``struct codetag``."""

    filename: str
    lineno: int
    module: str | None
    """Name of the module; ``None`` for the kernel itself."""
    function: str

    def __str__(self) -> str:
        """Format the tag as ``codetag_to_text()`` of lib/codetag.c does."""
        module = f" [{self.module}]" if self.module is not None else ""
        return f"{self.filename}:{self.lineno}{module} func:{self.function}"


@dataclass
class Tags:
    """
    The tags of a kernel and its modules, in the order of /proc/allocinfo, and their counters.

    Values of columns named ``tag`` are indices in these arrays; -1 for no tag.
    """

    places: Sequence[Tag]
    bytes: Array
    """``int64``, shape ``(n,)``: bytes that are allocated."""
    calls: Array
    """``int64``, shape ``(n,)``: number of allocations that were not freed."""
    inaccurate: Array
    """``bool``, shape ``(n,)``: whether ``CODETAG_FLAG_INACCURATE`` is set, because the counters
    may be wrong."""
    version: str
    """The version of this kernel's /proc/allocinfo: ``"1.0"`` or ``"2.0"``."""
    listed: Array
    """``bool``, shape ``(n,)``: whether /proc/allocinfo prints it; false if its module was
    unloaded."""
    counted: Array
    """``bool``, shape ``(n,)``: whether its counters still exist; if not, they are 0 here."""
    problems: Sequence[str] = field(default_factory=list)
    """One line per part that could not be read."""

    def __len__(self) -> int:
        return len(self.places)

    def shown(self) -> Array:
        """Return the indices of the tags that /proc/allocinfo prints: ``int64``."""
        return np.flatnonzero(self.listed)

    def text(self, number: int) -> str | None:
        """Format the tag at index *number*; ``None`` for -1."""
        return str(self.places[number]) if number >= 0 else None


@dataclass(frozen=True)
class TagSums:
    """Sums over the memory that refers to each tag: ``int64`` arrays, a row per tag."""

    page_allocations: Array
    pages: Array
    """Number of base pages."""
    objects: Array
    object_bytes: Array
    percpu_allocations: Array
    percpu_bytes: Array
    """Bytes of one CPU's copies, as the kernel counts them."""


@dataclass(frozen=True)
class TagUse:
    """The kernel's counters of each tag, and sums of the memory that refers to it."""

    tags: Tags
    found: TagSums | None
    """``None`` if a text was read, because there is no memory to search."""
    page_size: int
    problems: Sequence[str] = ()
    """One line per part that could not be read."""


@dataclass
class Tagged:
    """
    The memory that refers to tags: each page and slab object, and sums of per-CPU memory.

    Only the first page of an allocation has a tag.
    """

    tags: Tags
    row: Array
    """``int64``, shape ``(n,)``: row in :class:`~drgn_pageowner.model.pages.Pages` of every page
    that has a tag; ascending."""
    tag: Array
    """``int32``, shape ``(n,)``: index of the tag of that page."""
    pages: Array
    """``int64``, shape ``(n,)``: number of base pages of the allocation that begins there."""
    object_tag: Array
    """``int32``, a row per slab object: index of its tag, or -1."""
    percpu_bytes: Array
    """``int64``, a row per tag: bytes of one CPU's copies of per-CPU memory."""
    percpu_calls: Array
    """``int64``, a row per tag: number of per-CPU allocations."""
    object_memcg: Array | None = None
    """``uint64``, a row per slab object: ``slabobj_ext.objcg``; ``None`` if this kernel does not
    have that member."""
    problems: Sequence[str] = field(default_factory=list)
    """One line per part that could not be read."""

    def sums(self, object_sizes: Array) -> TagSums:
        """
        Sum the memory that refers to each tag.

        :param object_sizes: ``int64``, a row per object: its size, including metadata and padding.
        """
        number, tagged = len(self.tags), self.object_tag >= 0
        of_objects = self.object_tag[tagged]
        return TagSums(
            np.bincount(self.tag, minlength=number).astype(np.int64),
            sums(self.tag, self.pages, number),
            np.bincount(of_objects, minlength=number).astype(np.int64),
            sums(of_objects, object_sizes[tagged], number),
            self.percpu_calls,
            self.percpu_bytes,
        )


def allocation_sizes(rows: Array, compound: Array, followers: Array, pfns: Array) -> Array:
    """
    Find the size of each allocation from its first page.

    A compound page records its size. In any other block of 2^order pages, which is aligned to its
    size, only the first page has a reference count; the other pages have none.

    :param rows: ``int64``, shape ``(n,)``: rows of the first pages, ascending.
    :param compound: ``int64``, shape ``(n,)``: number of base pages of the compound page; 0 if the
        page is not compound.
    :param followers: ``bool``, a row per page: whether the page can be in a block whose first page
        is another page.
    :param pfns: ``int64``, shape ``(n,)``: PFNs of the first pages.
    :return: ``int64``, shape ``(n,)``: number of base pages of each allocation.
    """
    stops = np.append(np.flatnonzero(~followers), len(followers))
    end = stops[np.searchsorted(stops, rows + 1)]
    run = np.maximum(end - rows, 1)
    # The largest power of two that fits, and that the PFN is aligned to.
    order = np.frexp(run.astype(np.float64))[1] - 1
    aligned = np.where(pfns > 0, np.log2(np.maximum(pfns & -pfns, 1)), 62).astype(np.int64)
    block = np.int64(1) << np.minimum(order, aligned)
    result: Array = np.where(compound > 0, compound, block)
    return result


def tag_stacks(tags: Tags) -> tuple[Stacks, dict[int, Frame], dict[int, list[SourceFrame]]]:
    """
    Return a stack of one frame for each tag.

    :return: The stacks, whose PCs are the tags' indices plus 1; the frame of each such PC; and the
        source line of each such PC.
    """
    number = len(tags)
    frames = {
        pc: Frame(pc, tag.function, -1, 0, tag.module)
        if tag.function != UNKNOWN
        else Frame(pc, f"line {tag.lineno} of a module that is gone", -1, 0, None)
        for pc, tag in enumerate(tags.places, 1)
    }
    lines = {
        pc: [SourceFrame(tag.function, tag.filename, tag.lineno, False)]
        for pc, tag in enumerate(tags.places, 1)
    }
    pcs = np.arange(1, number + 1, dtype=np.uint64)
    stacks = Stacks(
        pcs.astype(np.uint32), np.arange(number + 1, dtype=np.int64), pcs, addresses=False
    )
    return stacks, frames, lines
