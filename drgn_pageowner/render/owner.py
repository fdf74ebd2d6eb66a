# SPDX-License-Identifier: LGPL-2.1-or-later
"""Name the owner of a group in one line, and print its stack below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drgn_pageowner.analysis.owners.allocator import allocator_of, without_offset
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.render.terminal import columns, shortened

__all__ = ("indented_stack", "owner_text")

_INDENT = "    "


def owner_text(stack: list[Frame]) -> str:
    """Return the allocator of a stack without offsets, for a table by stack."""
    allocator = allocator_of(stack)
    if allocator is None:
        return "-" if stack else "(no stack)"
    return without_offset(str(allocator))


def indented_stack(stack: Sequence[Frame]) -> Iterator[str]:
    """Yield a line for each frame, as wide as the terminal at most."""
    width = columns() - len(_INDENT)
    for line in list(map(str, stack)) or ["(no stack)"]:
        yield f"{_INDENT}{shortened(line, width)}\n"
