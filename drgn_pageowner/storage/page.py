# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look up one page in a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.model.page import PageInfo, PageRecord, number_of, record_of
from drgn_pageowner.model.pages import Memory, PageState
from drgn_pageowner.model.records import Snapshot

__all__ = ("PAGE_FACTS", "page_info")

PAGE_FACTS = ("flags", "refcount", "head")
"""The columns of :class:`~drgn_pageowner.model.pages.Pages` that :func:`page_info` needs."""

_LACKS = "of a snapshot: the objects, file or processes of the page are known to the dump alone"
_NEVER = "page_owner has none: never allocated since page_owner was on"


def page_info(
    what: str,
    memory: Memory,
    covering: Callable[[int], Snapshot] | None,
    no_record: str | None,
) -> PageInfo:
    """
    Collect the facts about one page that a snapshot has.

    :param what: ``pfn:N`` or ``phys:A``.
    :param memory: All pages, with the columns :data:`PAGE_FACTS`.
    :param covering: Function that returns the records, also those of freed pages, whose pages
        include a PFN; ``None`` if there are no records.
    :param no_record: The reason why there are no records; ``None`` if there are records.
    :raises UsageError: if *what* has neither form
    :raises PageOwnerError: if this machine has no such page
    """
    kind, pfn = _resolve(what, memory.pages.facts.page_size)
    facts = memory.pages.facts
    row = int(memory.pages.rows(np.array([pfn], np.int64))[0])
    if pfn >= facts.max_pfn or row < 0:
        raise PageOwnerError(f"{what}: this machine has no memory at pfn:{pfn:#x}")
    record = _record(covering(pfn), facts.now_ns) if covering is not None else None
    block = pfn >> facts.pageblock_order
    zone = memory.pages["zone"][row]
    migratetype = int(memory.block_types(np.array([block]), zone)[0])
    return PageInfo(
        what=what,
        kind=kind,
        pfn=pfn,
        phys=pfn * facts.page_size,
        struct_page=None,
        virtual=None,
        pageblock=block,
        pageblock_migratetype=migratetype if migratetype >= 0 else None,
        record=record,
        no_record=no_record or _NEVER if record is None else None,
        names=memory.pages.names,
        problems=(_LACKS,),
        **_page_facts(memory, row),
    )


def _resolve(what: str, page_size: int) -> tuple[str, int]:
    prefix, colon, number = what.strip().partition(":")
    if colon and prefix == "pfn":
        return "PFN", number_of(number, what)
    if colon and prefix == "phys":
        return "physical address", number_of(number, what) // page_size
    raise UsageError(f"{what!r}: a snapshot knows pages by pfn:N and phys:A alone")


def _page_facts(memory: Memory, row: int) -> dict[str, Any]:
    """Return the contents of the ``struct page``, in the words of :class:`PageState`."""
    pages = memory.pages
    zones, zone = pages.facts.zones, int(pages["zone"][row])
    head, state = int(pages["head"][row]), int(pages.state[row])
    flags = int(pages["flags"][row])
    facts: dict[str, Any] = {"state": PageState(state).label}
    if state == PageState.FREE:
        facts["state"] = _free_block(memory, row)
    if state != PageState.UNKNOWN:
        facts["refcount"] = int(pages["refcount"][row])
        # For a tail page, only the flags of its head page were saved.
        facts["flags"] = flags if head == row else None
    if zone < len(zones):
        facts |= {"node": zones[zone].node, "zone": zones[zone].name}
    if head != row or flags & pages.names.flag_mask("head"):
        facts["head_pfn"] = int(pages.pfns(np.array([head]))[0])
    return facts


def _free_block(memory: Memory, row: int) -> str:
    """Describe a free page of the buddy allocator, as the command ``page`` does."""
    place = int(np.searchsorted(memory.free.row, row, "right")) - 1
    if place < 0:
        # The block was not found on any free list.
        return "free"
    first = int(memory.free.row[place])
    pfn = int(memory.pages.pfns(np.array([first]))[0])
    return f"free: in a block of order {int(memory.free.order[place])} at pfn {pfn:#x}"


def _record(records: Snapshot, now_ns: int | None) -> PageRecord | None:
    """Return the last of *records* that cover a page: of its current allocation if there is one."""
    if not len(records):
        return None
    # Prefer the record of an allocation that still exists to the one that was freed last.
    allocated = np.flatnonzero(records["allocated"])
    row = int(allocated[-1]) if len(allocated) else len(records) - 1

    values = {name: column[row].item() for name, column in records.columns.items()}
    handles = np.array([values.get("handle", 0), values.get("free_handle", 0)], np.uint32)
    return record_of(
        values,
        [records.stack_frames(number) for number in records.stacks.index(handles).tolist()],
        allocated=values["allocated"],
        head_pfn=values["pfn"],
        migratetype=values["migratetype"],
        now_ns=now_ns,
    )
