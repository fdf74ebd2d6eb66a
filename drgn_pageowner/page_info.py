"""What ``page`` says: all about one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drgn_pageowner.snapshot import Frame, Names

__all__ = ("PageInfo", "PageRecord")


@dataclass(frozen=True)
class PageRecord:
    """The page_owner record of a page."""

    allocated: bool
    order: int
    head_pfn: int
    """First PFN of the allocation."""
    gfp_mask: int
    migratetype: int
    """That *gfp_mask* asked for."""
    handle: int | None
    """``None`` before v4.8: the stack is in the record itself."""
    stack: Sequence[Frame]
    free_handle: int | None = None
    free_stack: Sequence[Frame] = ()
    ts_nsec: int | None = None
    age_ns: int | None = None
    free_ts_nsec: int | None = None
    free_age_ns: int | None = None
    pid: int | None = None
    tgid: int | None = None
    comm: bytes | None = None
    free_pid: int | None = None
    free_tgid: int | None = None
    last_migrate_reason: int | None = None
    """``enum migrate_reason``; ``None`` for never."""


@dataclass(frozen=True)
class PageInfo:
    """One base page, from every side that the dump shows."""

    what: str
    """What was asked for."""
    kind: str
    """What it turned out to be: ``"PFN"``, ``"struct page"``, ``"direct map"``, ..."""
    pfn: int
    phys: int
    struct_page: int
    """Address of the ``struct page``."""
    virtual: int | None
    """Address in the direct map."""
    node: int | None = None
    zone: str | None = None
    pageblock: int | None = None
    pageblock_migratetype: int | None = None
    flags: int | None = None
    """``page.flags``."""
    refcount: int | None = None
    mapcount: int | None = None
    head_pfn: int | None = None
    """PFN of the compound head; ``None`` if the page is not compound."""
    compound_order: int | None = None
    memcg: str | None = None
    state: str = ""
    """In words: free, slab, anonymous, page cache, page table, ..."""
    slab: Mapping[str, Any] | None = None
    """``cache``, ``object``, ``offset``, ``allocated``."""
    file: Mapping[str, Any] | None = None
    """``path``, ``index``, ``filesystem``, ``inode``."""
    anon: Sequence[Mapping[str, Any]] = ()
    """``pid``, ``comm``, ``address`` of every process that maps it."""
    record: PageRecord | None = None
    no_record: str | None = None
    """Why there is no record."""
    names: Names = field(default_factory=Names)
    problems: Sequence[str] = ()
