# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the use of one page: the class in which ``account`` counts it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.account.page_class import PageClass, page_classes
from drgn_pageowner.model.heap import AreaKind, Inventory

__all__ = ("PageUse", "page_use")

_FREE = (PageClass.FREE, PageClass.FREE_PCP)
# Classes of memory that vmalloc maps; a stack may be in the direct map, too.
_MAPPED = (PageClass.STACK, PageClass.VMALLOC, PageClass.MODULE)


@dataclass(frozen=True)
class PageUse:
    """The use of one page."""

    name: str
    """Label of its :class:`PageClass`."""
    free: bool
    """Whether the page allocator has the page: on a free list or on one of a CPU."""
    area: str | None
    """The stack or the module that it is part of: ``"stack of sh (pid 7)"``, ``"module e1000e"``;
    ``None`` if it is part of none, or that is not known."""


def page_use(inventory: Inventory, pfn: int) -> PageUse | None:
    """
    Return the class that :func:`~drgn_pageowner.analysis.account.account.account` counts a page in.

    :param pfn: Page frame number.
    :return: ``None`` if this machine has no such page.
    """
    row = int(inventory.memory.pages.rows(np.array([pfn], np.int64))[0])
    if row < 0:
        return None
    number = PageClass(int(page_classes(inventory)[row]))
    area = None
    if number in _MAPPED:
        for one in (*inventory.areas, *inventory.stacks):
            if one.kind not in (AreaKind.VMALLOC, AreaKind.VMAP) and (one.rows == row).any():
                area = one.text
    return PageUse(number.label, number in _FREE, area)
