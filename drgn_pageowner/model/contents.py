# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pages whose contents are in a dump file, and those that are missing from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from drgn_pageowner.model.arrays import Array

__all__ = ("DumpContents", "PfnRanges", "RangeBuilder")


class PfnRanges:
    """A set of PFNs: half-open ranges, ascending, neither overlapping nor adjacent."""

    def __init__(self, start: Array, end: Array) -> None:
        """
        :param start: ``int64``, shape ``(n,)``: first PFN of each range.
        :param end: ``int64``, shape ``(n,)``: the PFN after the last one of each range.
        """
        self.start = start
        self.end = end

    @classmethod
    def empty(cls) -> PfnRanges:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def union(cls, start: Array, end: Array) -> PfnRanges:
        """Return the union of ranges, which may overlap, be empty, and be in any order."""
        kept = end > start
        start, end = start[kept].astype(np.int64), end[kept].astype(np.int64)
        if not len(start):
            return cls.empty()
        order = np.argsort(start, kind="stable")
        start, end = start[order], np.maximum.accumulate(end[order])
        first = np.flatnonzero(np.concatenate([[True], start[1:] > end[:-1]]))
        return cls(start[first], end[np.append(first[1:], len(start)) - 1])

    def __len__(self) -> int:
        """Return the number of PFNs."""
        return int((self.end - self.start).sum())

    def has(self, pfns: Array) -> Array:
        """
        Return whether each PFN is in the set.

        :param pfns: ``int64``, any shape.
        :return: ``bool`` of the same shape.
        """
        if not len(self.start):
            return np.zeros(np.shape(pfns), bool)
        place = np.searchsorted(self.start, pfns, "right") - 1
        result: Array = (place >= 0) & (pfns < self.end[place])
        return result

    def minus(self, other: PfnRanges) -> PfnRanges:
        """Return the PFNs of this set that are not in *other*."""
        edges = np.concatenate([self.start, self.end, other.start, other.end])
        mine = np.concatenate([np.ones(len(self.start)), -np.ones(len(self.end))])
        theirs = np.concatenate([np.ones(len(other.start)), -np.ones(len(other.end))])
        order = np.argsort(edges, kind="stable")
        inside = np.cumsum(np.concatenate([mine, np.zeros(len(theirs))])[order])
        outside = np.cumsum(np.concatenate([np.zeros(len(mine)), theirs])[order])
        edges = edges[order]
        kept = np.flatnonzero((inside[:-1] > 0) & (outside[:-1] == 0))
        return PfnRanges.union(edges[kept], edges[kept + 1])


class RangeBuilder:
    """Builds :class:`PfnRanges` from boolean masks of consecutive PFNs, added in PFN order."""

    def __init__(self) -> None:
        self._start: list[Array] = []
        self._end: list[Array] = []

    def add(self, mask: Array, first: int) -> None:
        """
        Add the PFNs whose element of *mask* is true.

        :param mask: ``bool``, one element per PFN.
        :param first: PFN of the first element.
        """
        if not len(mask):
            return
        edges = np.flatnonzero(mask[1:] != mask[:-1]) + (first + 1)
        before = [first] if mask[0] else []
        behind = [first + len(mask)] if mask[-1] else []
        edges = np.concatenate([np.array(before, np.int64), edges, np.array(behind, np.int64)])
        self._start.append(edges[::2])
        self._end.append(edges[1::2])

    def ranges(self) -> PfnRanges:
        """Return everything added so far."""
        if not self._start:
            return PfnRanges.empty()
        start, end = np.concatenate(self._start), np.concatenate(self._end)
        apart = start[1:] != end[:-1]
        return PfnRanges(
            start[np.concatenate([[True], apart])] if len(start) else start,
            end[np.concatenate([apart, [True]])] if len(end) else end,
        )


@dataclass
class DumpContents:
    """The pages that a dump file lists, has and lacks, by its own tables and its length."""

    format: str
    """``"kdump"`` or ``"ELF"``."""
    page_size: int
    """The kernel's page size, in bytes."""
    listed: PfnRanges
    """Pages that the file should have according to its tables."""
    present: PfnRanges
    """Pages whose contents are in the file."""
    excluded: PfnRanges = field(default_factory=PfnRanges.empty)
    """Pages that exist on the machine and were excluded by the dump level."""
    zero: PfnRanges = field(default_factory=PfnRanges.empty)
    """Pages of :attr:`present` that are in holes of a sparse file: all their bytes are zero."""
    level: int | None = None
    """makedumpfile's dump level: a sum of 1 (zero pages), 2 (cache), 4 (private cache), 8 (user
    data) and 16 (free pages); ``None`` if the file does not say."""
    incomplete: bool = False
    """Whether makedumpfile marked the file as incomplete."""
    part: tuple[int, int] | None = None
    """First PFN and end PFN (exclusive) of the part of memory in this file, if it is one of several
    files written by ``makedumpfile --split``."""
    size: int = 0
    """Size of the file in bytes."""
    name: str = "the dump"
    """Path of the file."""

    @property
    def lost(self) -> PfnRanges:
        """
        The pages that are listed in the file's tables, but whose contents are not in the file.
        """
        return self.listed.minus(self.present)

    def problems(self) -> list[str]:
        """Return one line for each way in which pages are missing, with the number of pages."""
        name, lost, listed = self.name, len(self.lost), len(self.listed)
        lines = []
        if self.part is not None and lost:
            first, last = self.part
            lines.append(
                f"{name} is one part of a dump that makedumpfile --split wrote: it has the pages "
                f"from pfn {first:#x} to {last - 1:#x}, and {lost:,} of {listed:,} dumped pages "
                "are in other parts; join them with makedumpfile --reassemble"
            )
        elif lost:
            why = (
                "was not written to its end (makedumpfile marked it as incomplete: was the disk "
                "full?)"
                if self.incomplete
                else f"is cut off after {self.size:,} bytes"
            )
            lines.append(f"{name} {why}: {lost:,} of {listed:,} pages that were dumped are lost")
        elif self.incomplete:
            lines.append(
                f"{name} is marked as incomplete by makedumpfile (was the disk full?), though all "
                f"{listed:,} pages that it lists are there: pages that it does not list may be "
                "missing"
            )
        return lines
