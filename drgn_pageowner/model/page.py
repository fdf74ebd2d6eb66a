# SPDX-License-Identifier: LGPL-2.1-or-later
"""All facts about one page, as the command ``page`` shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.columns import Origin, columns_of
from drgn_pageowner.model.kernel import Names
from drgn_pageowner.model.stacks import Frame

__all__ = ("PageInfo", "PageRecord", "number_of", "record_of")


_MEMBERS = frozenset(columns_of(Origin.MEMBER))
_DECIMAL = re.compile(r"[0-9]+")
_HEX = re.compile(r"0[xX][0-9a-fA-F]+")
_BARE_HEX = re.compile(r"[0-9a-fA-F]{8,16}")


@dataclass(frozen=True)
class PageRecord:
    """The page_owner record of a page."""

    allocated: bool
    order: int
    head_pfn: int
    """First PFN of the allocation."""
    gfp_mask: int
    migratetype: int
    """The migratetype that *gfp_mask* asked for."""
    handle: int | None
    """``depot_stack_handle_t``; ``None`` before Linux kernel commit f2ca0b557107 ("mm/page_owner:
    use stackdepot to store stacktrace") (in v4.8), where the stack is stored in the record
    itself."""
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
    """``enum migrate_reason``; ``None`` if the page was never migrated."""
    others: Mapping[str, Any] = field(default_factory=dict)
    """Other members of the record, by the name of the column."""


@dataclass(frozen=True)
class PageInfo:
    """All facts about one base page that are in the dump."""

    what: str
    """The argument by which the user named the page."""
    kind: str
    """How :attr:`what` was understood: ``"PFN"``, ``"struct page"``, ``"direct map"``, ..."""
    pfn: int
    phys: int
    struct_page: int | None
    """Address of the ``struct page``; ``None`` for a snapshot."""
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
    """Use of the page in words: free, slab, anonymous, page cache, page table, ..."""
    use: str | None = None
    """The class that the command ``account`` counts the page in; ``None`` if that is not known."""
    area: str | None = None
    """The stack or module that the page is part of: ``"stack of sh (pid 7)"``; ``None`` for
    none."""
    slab: Mapping[str, Any] | None = None
    """Members ``cache``, ``object``, ``offset``, ``allocated``, ``type``, ``expression``, and
    ``tag`` if this kernel has tags; ``None`` if the page is not in a slab."""
    tag: str | None = None
    """Allocation tag of the allocation that the page belongs to. Added in Linux kernel commit
    22d407b164ff ("lib: add allocation tagging support for memory allocation profiling") (in
    v6.10)."""
    file: Mapping[str, Any] | None = None
    """Members ``path``, ``index``, ``filesystem``, ``inode``; ``None`` if the page is not in the
    page cache."""
    anon: Sequence[Mapping[str, Any]] = ()
    """For an anonymous page, ``pid``, ``comm`` and ``address`` of every process that maps it."""
    record: PageRecord | None = None
    no_record: str | None = None
    """The reason why the page has no record."""
    names: Names = field(default_factory=Names)
    problems: Sequence[str] = ()


def number_of(text: str, what: str, *, bare_hex: bool = False) -> int:
    """
    Parse a number that names a page.

    :param text: The number: decimal, or hexadecimal after ``0x``.
    :param what: The user's whole argument, for the error message.
    :param bare_hex: Whether 8 to 16 hexadecimal digits are accepted without ``0x``.
    :raises UsageError: if *text* is not a number, or has more than 64 bits
    """
    if _DECIMAL.fullmatch(text):
        value = int(text)
    elif _HEX.fullmatch(text) or (bare_hex and _BARE_HEX.fullmatch(text)):
        value = int(text, 16)
    else:
        raise UsageError(
            f"{what!r} names no page: give pfn:N, phys:A, or an address (decimal, or hex with 0x)"
        )
    if value >> 64:
        raise UsageError(f"{what!r} has more than 64 bits")
    return value


def record_of(
    values: Mapping[str, Any],
    stacks: Sequence[Sequence[Frame]],
    *,
    allocated: bool,
    head_pfn: int,
    migratetype: int,
    now_ns: int | None,
) -> PageRecord:
    """
    Build a :class:`PageRecord` from the members that this kernel has.

    :param values: Value of each member of ``struct page_owner``, by its name.
    :param stacks: The allocation stack and the free stack, innermost frame first.
    :param allocated: Whether the page is still allocated.
    :param head_pfn: First PFN of the allocation.
    :param migratetype: The migratetype that the gfp mask asked for.
    :param now_ns: Time of the dump by ``local_clock()``, to compute ages; ``None`` if unknown.
    """

    def age(stamp: int | None) -> int | None:
        return now_ns - stamp if now_ns is not None and stamp else None

    ts_nsec, free_ts_nsec = values.get("ts_nsec"), values.get("free_ts_nsec") or None
    reason = values.get("last_migrate_reason")
    return PageRecord(
        allocated=allocated,
        order=values["order"],
        head_pfn=head_pfn,
        gfp_mask=values["gfp_mask"],
        migratetype=migratetype,
        handle=values.get("handle"),
        stack=stacks[0],
        free_handle=values.get("free_handle") or None,
        free_stack=stacks[1],
        ts_nsec=ts_nsec,
        age_ns=age(ts_nsec),
        free_ts_nsec=free_ts_nsec,
        free_age_ns=age(free_ts_nsec),
        pid=values.get("pid"),
        tgid=values.get("tgid"),
        comm=values.get("comm"),
        free_pid=values.get("free_pid") if free_ts_nsec else None,
        free_tgid=values.get("free_tgid") if free_ts_nsec else None,
        last_migrate_reason=reason if reason is not None and reason >= 0 else None,
        others={
            name: value
            for name, value in values.items()
            if name in _MEMBERS and name not in PageRecord.__dataclass_fields__
        },
    )
