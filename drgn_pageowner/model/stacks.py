# SPDX-License-Identifier: LGPL-2.1-or-later
"""Distinct stack traces of a snapshot, and the frames that their PCs resolve to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from drgn_pageowner.model.arrays import Array, by_runs, distinct, ranges, slices
from drgn_pageowner.model.threads import in_threads

__all__ = (
    "Frame",
    "SourceFrame",
    "StackList",
    "Stacks",
    "Symbolizer",
    "frames_of_stack",
    "is_entry",
)


class SourceFrame(NamedTuple):
    """A function that contains a PC according to DWARF, possibly inlined into another function."""

    function: str
    filename: str
    line: int
    inlined: bool


class Frame(NamedTuple):
    """A PC, resolved as ``%pS`` prints it."""

    pc: int
    name: str | None
    """Name of the function; ``None`` if no symbol contains the PC, as in a module that was
    unloaded."""
    offset: int
    """Offset of the PC in the function, in bytes; -1 if only the function is known, as for an
    allocation tag."""
    size: int
    module: str | None
    called: bool = True
    """Whether the instruction before the PC is a call, as before every return address; true if
    unknown. For a frame of a module, false means that the PC was in another module, which was
    unloaded, or that an interrupt or exception occurred at the PC. In a stack,
    :func:`frames_of_stack` tells them apart."""

    @property
    def replaced(self) -> bool:
        """
        Whether the symbol is of a module that was loaded at the address of the original module
        after this was unloaded.

        This is right for the frames of :func:`frames_of_stack`. For a single frame it may be wrong
        if an interrupt or exception occurred at the PC, or if the other module happens to have a
        call there.
        """
        return self.module is not None and not self.called

    def __str__(self) -> str:
        if self.name is None:
            return f"{self.pc:#x}"
        module = f" [{self.module}]" if self.module is not None else ""
        if self.offset < 0:
            return self.name + module
        return f"{self.name}+{self.offset:#x}/{self.size:#x}{module}"


# Entry code of x86 (asm_exc_page_fault, asm_sysvec_apic_timer_interrupt; in older kernels
# page_fault, apic_timer_interrupt) and of arm64 (el1h_64_irq; in older kernels el1_irq).
_ENTRY = re.compile(r"(asm_)?(exc|sysvec)_|asm_common|\w*page_fault$|\w*interrupt$|error_entry|"
                    r"ret_from_intr|el1")  # fmt: skip


def is_entry(frame: Frame) -> bool:
    """Return whether the PC is in code of the kernel that interrupts and exceptions begin with."""
    return frame.name is not None and _ENTRY.match(frame.name) is not None


def frames_of_stack(frames: list[Frame]) -> list[Frame]:
    """
    Return the frames of one stack, innermost first, with :attr:`Frame.called` corrected by what the
    others tell, so that :attr:`Frame.replaced` is right:

    - At a PC outside of entry code, an interrupt or exception occurred. It needs no call.
    - If one PC in the memory of a module is no return address, this was another module's when the
      stack was saved, and so were the other PCs there, although the module that came later happens
      to have calls before them.
    """
    if all(frame.called for frame in frames):
        return frames
    found = [
        frame._replace(called=True) if place and is_entry(frames[place - 1]) else frame
        for place, frame in enumerate(frames)
    ]
    later = {frame.module for frame in found if frame.replaced}
    return [frame._replace(called=False) if frame.module in later else frame for frame in found]


class Symbolizer(Protocol):
    """An object that resolves PCs to symbols, as the kernel does."""

    def symbolize(self, pcs: Array) -> list[Frame]:
        """
        Resolve PCs.

        :param pcs: ``uint64`` array of shape ``(n,)``.
        :return: One frame per PC.
        """
        ...


# Number of handles from which on a table finds them faster than a binary search.
_MANY = 1 << 17
# Maximum number of elements of such a table.
_LARGEST_TABLE = 1 << 23


class _Halves(NamedTuple):
    """
    Table of the handles of all stacks.

    A handle consists of the number of a pool and an offset in the pool. There are few of either,
    whichever comes first, so there are few different upper halves and few different lower halves.
    """

    upper: Array
    """``int32``, shape ``(65536,)``: number of each upper half, times the number of lower halves;
    0 for a half that no handle has."""
    lower: Array
    """``int32``, shape ``(65536,)``: number of each lower half; 0 for a half that no handle has."""
    stack: Array
    """``int32``: index of the stack by the sum of the two; -1 for none."""

    @classmethod
    def of(cls, handles: Array) -> _Halves | None:
        """
        Make the table.

        :param handles: ``uint32``, ascending.
        :return: ``None`` if the table would be too large.
        """
        halves = [handles >> np.uint32(16), handles & np.uint32(0xFFFF)]
        found = [np.flatnonzero(np.bincount(half, minlength=1 << 16)) for half in halves]
        rows, columns = len(found[0]) + 1, len(found[1]) + 1
        if rows * columns > _LARGEST_TABLE:
            return None
        upper, lower = np.zeros(1 << 16, np.int32), np.zeros(1 << 16, np.int32)
        upper[found[0]] = np.arange(1, rows) * columns
        lower[found[1]] = np.arange(1, columns)
        stack = np.full(rows * columns, -1, np.int32)
        stack[upper[halves[0]] + lower[halves[1]]] = np.arange(len(handles))
        return cls(upper, lower, stack)

    def find(self, handles: Array) -> Array:
        """Return the index of the stack of each handle, as :meth:`Stacks.index` does: ``int32``."""
        upper = self.upper[handles >> np.uint32(16)]
        result: Array = self.stack[upper + self.lower[handles & np.uint32(0xFFFF)]]
        return result


class Stacks:
    """
    The distinct stacks of a snapshot; the stack with index ``i`` has the handle ``handles[i]``.

    Index -1 means "no stack": the handle is 0, or is not in the stack depot.
    """

    def __init__(
        self,
        handles: Array,
        offsets: Array,
        pcs: Array,
        counts: Array | None = None,
        *,
        addresses: bool = True,
    ) -> None:
        """
        :param handles: ``uint32``, shape ``(n,)``, ascending ``depot_stack_handle_t``.
        :param offsets: ``int64``, shape ``(n + 1,)``: stack ``i`` is
            ``pcs[offsets[i]:offsets[i + 1]]``.
        :param pcs: ``uint64``, return addresses, innermost frame first.
        :param counts: ``int64``, shape ``(n,)``: number of base pages of the stack according to
            ``stack_record.count``; ``None`` before Linux kernel commit 217b2119b9e2
            ("mm,page_owner: implement the tracking of the stacks count") (in v6.9).
        :param addresses: Whether *pcs* are addresses; if a text prints only names, they are numbers
            that identify the names.
        """
        self.handles = handles
        self.offsets = offsets
        self.pcs = pcs
        self.counts = counts
        self.addresses = addresses
        self._table: list[_Halves | None] | None = None
        self._coded: tuple[Array, Array] | None = None

    @classmethod
    def empty(cls) -> Stacks:
        return cls(np.zeros(0, np.uint32), np.zeros(1, np.int64), np.zeros(0, np.uint64))

    def __len__(self) -> int:
        return len(self.handles)

    def __getitem__(self, index: int) -> Array:
        """Return the PCs of the stack at *index*: ``uint64``, shape ``(depth,)``."""
        if index < 0:
            return self.pcs[:0]
        result: Array = self.pcs[self.offsets[index] : self.offsets[index + 1]]
        return result

    def coded_pcs(self) -> tuple[Array, Array]:
        """
        Return the distinct PCs of all stacks, ascending; and ``int32``, the shape of :attr:`pcs`:
        the index of each PC among them. They are found once.
        """
        if self._coded is None:
            found, code = distinct(self.pcs)
            self._coded = found, code.astype(np.int32)
        return self._coded

    def index(self, handles: Array) -> Array:
        """
        Return the index of the stack of each handle.

        :param handles: ``uint32``, shape ``(k,)``.
        :return: ``int64``, shape ``(k,)``; -1 for a handle without a stack.
        """
        if not len(self.handles):
            return np.full(len(handles), -1, np.int64)
        if len(handles) >= _MANY and (table := self._halves()) is not None:
            result: Array = np.empty(len(handles), np.int64)

            def find(piece: slice) -> None:
                # Pages that were allocated together have the same stack.
                result[piece] = by_runs(table.find, handles[piece])

            in_threads(find, slices(len(handles), _MANY))
            return result
        position = np.searchsorted(self.handles, handles)
        position[position == len(self.handles)] = 0
        position[self.handles[position] != handles] = -1
        found: Array = position.astype(np.int64, copy=False)
        return found

    def _halves(self) -> _Halves | None:
        """Return a table of all handles; ``None`` if it would be too large."""
        if self._table is None:
            self._table = [_Halves.of(self.handles)]
        return self._table[0]

    def with_those_of(self, other: Stacks) -> Stacks:
        """
        Return the stacks of both.

        :param other: Stacks with other handles.
        """
        if not len(self):
            return other
        if not len(other):
            return self
        handles = np.concatenate([self.handles, other.handles])
        order = np.argsort(handles)
        starts = np.concatenate([self.offsets[:-1], other.offsets[:-1] + len(self.pcs)])[order]
        depths = np.concatenate([self.depths(), other.depths()])[order]
        counts = None
        if self.counts is not None and other.counts is not None:
            counts = np.concatenate([self.counts, other.counts])[order]
        return Stacks(
            handles[order],
            np.concatenate([[0], np.cumsum(depths)]),
            np.concatenate([self.pcs, other.pcs])[ranges(starts, depths)],
            counts,
            addresses=self.addresses,
        )

    def depths(self) -> Array:
        """Return the number of frames of each stack: ``int64``, shape ``(n,)``."""
        result: Array = np.diff(self.offsets)
        return result


@dataclass(frozen=True)
class StackList:
    """
    page_owner's list of stacks, in its order: the data that the files of
    ``/sys/kernel/debug/page_owner_stacks`` print.
    """

    handles: Array | None
    """``uint32``, shape ``(n,)``: ``depot_stack_handle_t``; ``None`` if a text does not say."""
    pages: Array | None
    """``int64``, shape ``(n,)``: number of base pages allocated by each stack; ``None`` if a text
    does not say."""
    offsets: Array | None
    """``int64``, shape ``(n + 1,)``: stack ``i`` is ``pcs[offsets[i]:offsets[i + 1]]``; ``None``
    if a text does not say."""
    pcs: Array
    """``uint64``: PCs of all stacks, one stack after another, innermost frame first."""
    symbolizer: Symbolizer
    threshold: int = 0
    """``page_owner_pages_threshold``: ``show_stacks`` omits stacks with fewer pages."""
    problems: Sequence[str] = ()
    """One line per part that could not be read."""
