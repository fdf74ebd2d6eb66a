# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prepare stacks for a flame graph: a table of function names, and stacks as lists of indices."""

from __future__ import annotations

from dataclasses import dataclass

from drgn_pageowner.analysis.owners.allocator import function_of, is_allocation_function
from drgn_pageowner.analysis.owners.group import Top
from drgn_pageowner.model.stacks import Frame

__all__ = ("Flame", "FlameStack", "flame")


@dataclass(frozen=True)
class FlameStack:
    """A stack of a flame graph."""

    handle: int
    pages: int
    """Number of base pages."""
    allocations: int | None
    """``None`` if a text was read that does not contain it."""
    frames: list[int]
    """Indices in :attr:`Flame.functions`, innermost first."""
    allocator: int
    """Index in :attr:`frames`; the frames before it are functions of the memory manager."""
    lost: int = 0
    """Base pages that no root reaches."""
    process: int = 0
    """Base pages of anonymous memory and huge pages of processes."""


@dataclass(frozen=True)
class Flame:
    """The largest stacks, and the totals of the others."""

    functions: list[str]
    stacks: list[FlameStack]
    """Most pages first."""
    other_stacks: int
    other_pages: int
    other_allocations: int | None
    pages: int
    """Base pages of all stacks."""
    allocations: int | None


def flame(by_stack: Top) -> Flame:
    """
    Replace the functions of the stacks by indices.

    :param by_stack: Records grouped by stack, most pages first.
    """
    numbers: dict[str, int] = {}
    stacks = [
        FlameStack(
            handle=group.handle,
            pages=group.pages,
            allocations=group.allocations,
            frames=[numbers.setdefault(function_of(frame), len(numbers)) for frame in group.stack],
            allocator=_place_of_allocator(group.stack),
        )
        for group in by_stack.groups
    ]
    other_allocations = None
    if by_stack.allocations is not None:
        other_allocations = by_stack.allocations - sum(s.allocations or 0 for s in stacks)
    return Flame(
        functions=list(numbers),
        stacks=stacks,
        other_stacks=by_stack.number_of_groups - len(stacks),
        other_pages=by_stack.pages - sum(stack.pages for stack in stacks),
        other_allocations=other_allocations,
        pages=by_stack.pages,
        allocations=by_stack.allocations,
    )


def _place_of_allocator(frames: list[Frame]) -> int:
    for place, frame in enumerate(frames):
        if frame.name is None or not is_allocation_function(frame.name):
            return place
    return max(len(frames) - 1, 0)
