# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames without a symbol: code of a module that was unloaded, or freed init code of any module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from drgn_pageowner.analysis.owners.allocator import plain_name
from drgn_pageowner.model.stacks import Frame

__all__ = ("has_freed_init", "module_is_gone")

# They call a module's init function; do_one_initcall() may be inlined.
_INIT_CALLERS = frozenset(("do_one_initcall", "do_init_module"))
# Code lies in one section if it lies in one page: sections begin at page boundaries.
_PAGE_SHIFT = 12


def _init_frames(frames: Sequence[Frame]) -> set[int]:
    """
    Return the indices of unnamed frames that are a module's init code.

    ``do_init_module()`` frees that code once it has run, of a module that stays loaded, too. The
    init function is the frame that :data:`_INIT_CALLERS` called. What it called is init code as
    well if it lies in the same page, or lies between it and a named function of a module.
    """
    calls = [
        index
        for index, (frame, caller) in enumerate(pairwise(frames))
        if frame.name is None and plain_name(caller.name or "") in _INIT_CALLERS
    ]
    if not calls:
        return set()
    first = last = calls[0]
    while first and frames[first - 1].name is None:
        first -= 1
    if first and frames[first - 1].module is not None:
        return set(range(first, last + 1))
    page = frames[last].pc >> _PAGE_SHIFT
    return {index for index in range(first, last + 1) if frames[index].pc >> _PAGE_SHIFT == page}


def has_freed_init(frames: Sequence[Frame]) -> bool:
    """Whether a frame has no symbol because a module's init code is freed after it ran."""
    return bool(_init_frames(frames))


def module_is_gone(frames: Sequence[Frame]) -> bool:
    """Whether a frame has no symbol because its module was unloaded."""
    init = _init_frames(frames)
    return any(frame.name is None and index not in init for index, frame in enumerate(frames))
