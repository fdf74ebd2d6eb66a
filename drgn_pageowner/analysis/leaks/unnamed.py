# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find frames without a symbol: code of a module that was unloaded, or freed init code of any module.
Frames whose symbol is of another module, which was loaded at the same address later, are included.
"""

from __future__ import annotations

import numpy as np

from drgn_pageowner.analysis.owners.allocator import plain_name
from drgn_pageowner.analysis.owners.stack_table import StackTable, replaced
from drgn_pageowner.model.arrays import Array, ranges

__all__ = ("freed_init", "module_is_gone")

# Functions that call a module's init function; do_one_initcall() may be inlined.
_INIT_CALLERS = frozenset(("do_one_initcall", "do_init_module"))
# Sections begin at page boundaries, so code in the same page is in the same section.
_PAGE_SHIFT = 12


def freed_init(table: StackTable) -> Array:
    """
    Find unnamed frames that are a module's init code: ``bool``, a row per frame.

    ``do_init_module()`` frees that code after it has run, although the module stays loaded. The
    init function is the frame called by one of :data:`_INIT_CALLERS`. Its callees are init code as
    well if they are in the same page, or between it and a named function of a module.
    """
    unnamed = _unnamed(table)
    callers = table.marks(lambda frame: plain_name(frame.name or "") in _INIT_CALLERS)
    called = unnamed.copy()
    called[:-1] &= callers[1:]
    called[table.ends[table.ends > table.starts] - 1] = False
    last = table.first(called)
    loading = np.flatnonzero(last >= 0)
    if not len(loading):
        return called
    # The unnamed frames in a row that end with the init function.
    places = np.arange(len(unnamed))
    before = np.maximum.accumulate(np.where(unnamed, -1, places))[last[loading]]
    in_module = table.marks(lambda frame: frame.module is not None) & ~unnamed
    whole = (before >= table.starts[loading]) & in_module[before]
    page = np.array([frame.pc >> _PAGE_SHIFT for frame in table.frames], np.uint64)[table.code]
    first = np.maximum(before + 1, table.starts[loading])
    length = last[loading] + 1 - first
    run = ranges(first, length)
    same = page[run] == np.repeat(page[last[loading]], length)
    result = np.zeros(len(unnamed), bool)
    result[run] = same | np.repeat(whole, length)
    return result


def module_is_gone(table: StackTable) -> Array:
    """
    Return whether a module in a stack was unloaded: ``bool``, a row per stack. A frame of such a
    module has no symbol, or one of a module that was loaded at its address later.
    """
    return table.any(_unnamed(table) & ~freed_init(table))


def _unnamed(table: StackTable) -> Array:
    """Find frames without a symbol, or with one of a module that was loaded later: ``bool``, a row
    per frame."""
    return table.marks(lambda frame: frame.name is None) | replaced(table)
