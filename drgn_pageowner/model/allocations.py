# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tell from pages alone what the buddy allocator gave out."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.pages import FREE_STATES, Pages, PageState
from drgn_pageowner.model.tags import allocation_sizes

__all__ = ("find_allocations",)

_NOT_ALLOCATED = (
    *FREE_STATES, PageState.UNKNOWN, PageState.ABSENT, PageState.NOREF, PageState.RESERVED,
    PageState.OFFLINE, PageState.GUARD, PageState.UNACCEPTED, PageState.SLAB,
)  # fmt: skip


def find_allocations(pages: Pages, tagged: Array | None = None) -> tuple[Array, Array]:
    """
    Find every allocation of whole pages that is neither free, reserved nor a slab.

    An allocation is a compound page, a single page, or a page with references and those without
    that follow it in a block of 2^order pages: the tails of one made without ``__GFP_COMP``.

    :param pages: With the column ``head``.
    :param tagged: ``bool``, a row per page: whether it bears an allocation tag, which only the
        first page of an allocation does; ``None`` of a kernel without tags.
    :return: Row of the first page of each, ascending, and its number of base pages: ``int64``.
    """
    number = len(pages)
    own = pages["head"] == np.arange(number)
    first = own & ~np.isin(pages.state, _NOT_ALLOCATED)
    followers = own & (pages.state == PageState.NOREF)
    if tagged is not None:
        # Pages that are allocated frozen (v6.14) have no references, but a tag.
        first |= tagged & own & followers
        followers &= ~tagged
    # A block does not go on behind a hole in memory.
    followers[pages.offsets[:-1][pages.offsets[:-1] < number]] = False
    rows = np.flatnonzero(first)
    compound = np.bincount(pages["head"], minlength=number)[rows]
    sizes = allocation_sizes(rows, np.where(compound > 1, compound, 0), followers, pages.pfns(rows))
    return rows, sizes
