# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interned stack traces and the frames that their PCs name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from drgn_pageowner.model.arrays import Array

__all__ = (
    "Frame",
    "SourceFrame",
    "StackList",
    "Stacks",
    "Symbolizer",
)


class SourceFrame(NamedTuple):
    """A function at a PC as DWARF has it, inlined ones first."""

    function: str
    filename: str
    line: int
    inlined: bool


class Frame(NamedTuple):
    """A PC, resolved as ``%pS`` prints it."""

    pc: int
    name: str | None
    """``None`` if no symbol holds the PC (say, of a module that is gone)."""
    offset: int
    """-1 if only the function is known: that of an allocation tag."""
    size: int
    module: str | None

    def __str__(self) -> str:
        if self.name is None:
            return f"{self.pc:#x}"
        module = f" [{self.module}]" if self.module is not None else ""
        if self.offset < 0:
            return self.name + module
        return f"{self.name}+{self.offset:#x}/{self.size:#x}{module}"


class Symbolizer(Protocol):
    """An object that resolves PCs to symbols, as the kernel does."""

    def symbolize(self, pcs: Array) -> list[Frame]:
        """
        Resolve PCs.

        :param pcs: ``uint64`` array of shape ``(n,)``.
        :return: One frame per PC.
        """
        ...


class Stacks:
    """
    Every stack of a snapshot, interned: number ``i`` is the stack of ``handles[i]``.

    Number -1 stands for "no stack": a handle of 0, or one that the stack depot does not have.
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
        :param counts: ``int64``, shape ``(n,)``: base pages of the stack according to
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

    @classmethod
    def empty(cls) -> Stacks:
        return cls(np.zeros(0, np.uint32), np.zeros(1, np.int64), np.zeros(0, np.uint64))

    def __len__(self) -> int:
        return len(self.handles)

    def __getitem__(self, index: int) -> Array:
        """Return the PCs of the stack with number *index*: ``uint64``, shape ``(depth,)``."""
        if index < 0:
            return self.pcs[:0]
        result: Array = self.pcs[self.offsets[index] : self.offsets[index + 1]]
        return result

    def index(self, handles: Array) -> Array:
        """
        Return the stack number of each element of *handles*.

        :return: ``int64`` of the same shape; -1 where there is no such stack.
        """
        if not len(self.handles):
            return np.full(len(handles), -1, np.int64)
        position = np.searchsorted(self.handles, handles)
        position[position == len(self.handles)] = 0
        position[self.handles[position] != handles] = -1
        result: Array = position.astype(np.int64, copy=False)
        return result

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
    """``int64``, shape ``(n,)``: base pages that each holds; ``None`` if a text does not say."""
    offsets: Array | None
    """``int64``, shape ``(n + 1,)``: stack ``i`` is ``pcs[offsets[i]:offsets[i + 1]]``; ``None``
    if a text does not say."""
    pcs: Array
    """``uint64``."""
    symbolizer: Symbolizer
    threshold: int = 0
    """``page_owner_pages_threshold``: ``show_stacks`` omits stacks with fewer pages."""
    problems: Sequence[str] = ()
    """One line per part that could not be read."""
