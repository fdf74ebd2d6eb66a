# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Count the pages of CMA areas.

A page of a CMA area is allocated by ``cma_alloc()``, free, or used by an ordinary allocation. Pages
of ordinary allocations that cannot be migrated out of the area are listed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from drgn_pageowner.analysis.frag.mobility import Mobility, Overlay
from drgn_pageowner.analysis.owners.allocator import allocator_of
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.pages import CmaArea, PageState
from drgn_pageowner.model.stacks import Frame

__all__ = ("CmaReport", "StuckPage", "cma_report")

_LRU_STATES = (PageState.ANON, PageState.FILE, PageState.SHMEM)


@dataclass(frozen=True)
class StuckPage:
    """A page of a CMA area that cannot be migrated out of it."""

    pfn: int
    why: tuple[str, ...]
    state: str
    refcount: int
    mapcount: int
    allocator: str | None = None
    handle: int | None = None
    last_migrate_reason: int | None = None
    age_ns: int | None = None
    stack: list[Frame] = field(default_factory=list)


@dataclass(frozen=True)
class CmaReport:
    """One CMA area, in base pages."""

    name: str
    start_pfn: int
    pages: int
    allocated: int
    """Pages taken by ``cma_alloc()``."""
    free: int
    """In the buddy allocator or on per-CPU lists."""
    lent: int
    """Pages used by others until ``cma_alloc()`` needs them."""
    movable: int
    """Pages of :attr:`lent` that can be migrated."""
    longest_bitmap_run: int
    """The longest run that ``cma_alloc()`` has not taken (``maxchunk``)."""
    longest_allocatable_run: int
    """The longest run of pages that are free or can be migrated away now."""
    stuck: list[StuckPage]


def _longest(wanted: Array) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], wanted.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def cma_report(joined: Overlay) -> list[CmaReport]:
    """
    Describe every CMA area.

    :param joined: Made of pages with ``flags``, ``refcount`` and ``mapcount``.
    """
    return [_area(joined, area) for area in joined.memory.cma]


def _area(joined: Overlay, area: CmaArea) -> CmaReport:
    pages = joined.memory.pages
    rows = pages.rows(np.arange(area.start_pfn, area.start_pfn + area.pages, dtype=np.int64))
    known = rows >= 0
    mobility = np.where(known, joined.mobility[rows], Mobility.UNKNOWN)
    taken = np.zeros(area.pages, bool)
    taken[: len(area.allocated)] = area.allocated
    free = ~taken & (mobility == Mobility.FREE)
    lent = ~taken & ~free
    reasons = _reasons(joined, rows)
    stuck = lent & np.any(list(reasons.values()), axis=0)
    return CmaReport(
        name=area.name,
        start_pfn=area.start_pfn,
        pages=area.pages,
        allocated=int(taken.sum()),
        free=int(free.sum()),
        lent=int(lent.sum()),
        movable=int((lent & ~stuck).sum()),
        longest_bitmap_run=_longest(~taken),
        longest_allocatable_run=_longest(free | (lent & ~stuck)),
        stuck=[
            _stuck(joined, int(rows[index]), area.start_pfn + index,
                   tuple(why for why, hit in reasons.items() if hit[index]))
            for index in np.flatnonzero(stuck).tolist()
        ],
    )  # fmt: skip


def _flag(joined: Overlay, flags: Array, name: str) -> Array:
    mask = np.uint64(joined.memory.pages.names.flag_mask(name))
    result: Array = (flags & mask) != 0
    return result


def _reasons(joined: Overlay, rows: Array) -> dict[str, Array]:
    """
    Return, for each reason, whether it keeps each of *rows* from being migrated: ``bool``.
    """
    pages = joined.memory.pages
    state, flags = pages.state[rows], pages["flags"][rows].astype(np.uint64)
    lru = np.isin(state, _LRU_STATES)
    # Skip compound pages, whose references are counted for all pages together.
    single = lru & ~_flag(joined, flags, "head") & (pages["head"][rows] == rows)
    refcount, mapcount = pages["refcount"][rows], np.maximum(pages["mapcount"][rows] + 1, 0)
    # The references that folio_expected_refs() of mm/migrate.c expects, plus the mappings.
    expected = mapcount + np.where(state == PageState.ANON, 0, 1)
    expected += _flag(joined, flags, "private") & (state != PageState.ANON)
    expected += _flag(joined, flags, "swapcache") & (state == PageState.ANON)
    movable = joined.mobility[rows] == Mobility.MOVABLE
    off_lru = single & ~_flag(joined, flags, "lru")
    # A page that is not on the LRU yet is referenced by the batch that will add it.
    return {
        "pinned": single & (refcount > expected + off_lru),
        "not on the LRU": off_lru,
        "writeback": lru & _flag(joined, flags, "writeback"),
        "unmovable owner": ~movable & (joined.mobility[rows] != Mobility.FREE),
    }


def _stuck(joined: Overlay, row: int, pfn: int, why: tuple[str, ...]) -> StuckPage:
    pages, records = joined.memory.pages, joined.records
    owner = int(joined.owner[row])
    page = StuckPage(
        pfn=pfn,
        why=why,
        state=PageState(int(pages.state[row])).label,
        refcount=int(pages["refcount"][row]),
        mapcount=int(pages["mapcount"][row]) + 1,
    )
    if records is None or owner < 0:
        return page
    stack = records.stack_frames(int(records.stacks.index(records["handle"][owner : owner + 1])[0]))
    frame = allocator_of(stack)
    reason = int(records["last_migrate_reason"][owner]) if "last_migrate_reason" in records else -1
    now = records.facts.now_ns
    age = None
    if now is not None and "ts_nsec" in records:
        age = max(now - int(records["ts_nsec"][owner]), 0)
    return replace(
        page,
        allocator=str(frame) if frame is not None else None,
        handle=int(records["handle"][owner]),
        last_migrate_reason=reason if reason >= 0 else None,
        age_ns=age,
        stack=stack,
    )
