# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find page allocations without page_owner records, from the state of each ``struct page``."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.model.arrays import Array, equals
from drgn_pageowner.model.pages import FREE_STATES, Pages, PageState
from drgn_pageowner.model.tags import allocation_sizes

__all__ = ("find_allocations",)

_NOT_ALLOCATED = (
    *FREE_STATES, PageState.UNKNOWN, PageState.ABSENT, PageState.NOREF, PageState.RESERVED,
    PageState.OFFLINE, PageState.GUARD, PageState.UNACCEPTED, PageState.SLAB,
)  # fmt: skip


def find_allocations(pages: Pages, tagged: Array | None = None) -> tuple[Array, Array]:
    """
    Find every allocation of whole pages, except reserved pages and slabs.

    An allocation is a compound page, a single page, or a higher-order block that was allocated
    without ``__GFP_COMP``. The first page of such a block has references, and the pages that follow
    in the block of 2^order pages have none.

    :param pages: All pages, with the column ``head``.
    :param tagged: ``bool``, a row per page: whether the page has an allocation tag, which only the
        first page of an allocation has; ``None`` for a kernel without tags.
    :return: Row of the first page of each allocation, ascending: ``int64``; and the number of base
        pages of each allocation: ``int64``.
    """
    number = len(pages)
    own = pages["head"] == np.arange(number)
    first = own & ~np.isin(pages.state, _NOT_ALLOCATED)
    followers = own & equals(pages.state, PageState.NOREF)
    if tagged is not None:
        # A page with a reference count of 0 is the first page of an allocation if it has a tag: it
        # was allocated "frozen", as first done in Linux kernel commit 9aec2fb0fd5e ("slab: allocate
        # frozen pages") (in v6.14).
        first |= tagged & own & followers
        followers &= ~tagged
    # A block does not continue after a hole in memory.
    followers[pages.offsets[:-1][pages.offsets[:-1] < number]] = False
    rows = np.flatnonzero(first)
    compound = np.bincount(pages["head"], minlength=number)[rows]
    sizes = allocation_sizes(rows, np.where(compound > 1, compound, 0), followers, pages.pfns(rows))
    return rows, sizes
