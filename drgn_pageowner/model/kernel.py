# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel as a whole: zones, tables of names, printf formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from drgn_pageowner.model.arrays import Array

__all__ = (
    "BitField",
    "Facts",
    "Names",
    "TextFormats",
    "Zone",
)


class Zone(NamedTuple):
    """A ``struct zone`` that spans memory."""

    node: int
    type: int
    """``enum zone_type``: index in the node's zones."""
    name: str
    start_pfn: int
    spanned: int
    """``spanned_pages``, in base pages."""
    present: int
    """``present_pages``, in base pages."""
    managed: int
    """``managed_pages``, in base pages."""
    pageblock_flags: int = 0
    """Address of the zone's pageblock bitmap on FLATMEM; else 0."""


class BitField(NamedTuple):
    """A bit field of ``page.flags``."""

    name: str
    shift: int
    width: int
    base: int
    """Base in which the kernel prints the value: 10 or 16."""

    def of(self, flags: Array) -> Array:
        """Return the value of the field in each element of *flags*."""
        mask = flags.dtype.type((1 << self.width) - 1)
        result: Array = (flags >> flags.dtype.type(self.shift)) & mask
        return result


class TextFormats(NamedTuple):
    """The printf formats of this kernel's own ``print_page_owner()``."""

    record: str
    """Format of the first line of a record: ``"Page allocated via order %u, ..."``."""
    page: str
    """Format of the second line, about the page: ``"PFN ..."``."""
    migrated: str | None
    """Format of the line about the last migration; ``None`` before Linux kernel commit
    7cd12b4abfd2 ("mm, page_owner: track and print last migrate reason") (in v4.6)."""
    charged: str | None
    """Format of the line about the memory cgroup; ``None`` where the kernel prints no such line."""
    slab_cache_page: str | None
    from_dump: bool
    """Whether the formats were read from the dump; otherwise they were derived from the layout of
    the records."""
    frame: str = " %pS\n"
    """Format of a line of a stack: ``%pS``, preceded by ``%p`` in old kernels."""


@dataclass(frozen=True)
class Names:
    """The kernel's own tables of names of flags, migratetypes and zones."""

    gfp_flags: Sequence[tuple[int, str]] = ()
    """``(mask, name)`` in the order in which ``%pGg`` tries them."""
    page_flags: Sequence[tuple[int, str]] = ()
    """``(mask, name)`` in the order in which ``%pGp`` tries them."""
    page_flag_fields: Sequence[BitField] = ()
    page_flags_mask: int = 0
    """``PAGEFLAGS_MASK``: the part of ``page.flags`` that holds flags."""
    page_flag_fields_printed: bool = False
    """Whether ``%pGp`` of this kernel also prints :attr:`page_flag_fields`."""
    page_flag_bits: Mapping[str, int] = field(default_factory=dict)
    """Bit number by name, for all names of ``enum pageflags`` including aliases, in lower case and
    without ``PG_``."""
    zone_types: Sequence[str] = ()
    """Names of ``enum zone_type`` without ``ZONE_``, in order."""
    migratetypes: Sequence[str] = ()
    migrate_reasons: Sequence[str] = ()
    gfp_texts: Mapping[int, str] = field(default_factory=dict)
    """Names of gfp masks as ``%pGg`` prints them, by mask. Filled in only if a text was read,
    because a text has no table of flags."""
    page_flags_texts: Mapping[int, str] = field(default_factory=dict)
    """Names of page flags as ``%pGp`` prints them, without the number, by the value of the flags.
    Filled in only if a text was read, because a text has no table of flags."""

    def flag_mask(self, name: str) -> int:
        """Return the mask of a page flag; 0 if this kernel has no flag of that name."""
        if name in self.page_flag_bits:
            return 1 << self.page_flag_bits[name]
        return next((mask for mask, text in self.page_flags if text == name), 0)


@dataclass
class Facts:
    """Facts about the kernel as a whole."""

    release: str
    """``UTS_RELEASE``."""
    page_size: int
    """``PAGE_SIZE``, in bytes."""
    max_page_order: int
    """``MAX_PAGE_ORDER``: the order of the largest blocks of the buddy allocator."""
    pageblock_order: int
    version: str = ""
    """``init_uts_ns.name.version``."""
    hostname: str = ""
    arch: str = ""
    min_low_pfn: int = 0
    max_pfn: int = 0
    memory_model: str = ""
    now_ns: int | None = None
    """Time of the dump by ``local_clock()``, which also gives the timestamps of the records:
    nanoseconds since boot."""
    live: bool = False
    panic_message: str | None = None
    log_read: bool = True
    """Whether the kernel log could be read; if not, the cause of the crash is unknown."""
    zones: Sequence[Zone] = ()
    page_owner: str = "on"
    """``"absent"``, ``"off"`` or ``"on"``."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    """Layout of the page_owner data in this kernel: sizes, offsets, stack depot format."""
    formats: TextFormats | None = None
    problems: Sequence[str] = ()
    """One line per part that could not be read."""
