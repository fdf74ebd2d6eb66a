# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nodes and zones, and the bits of ``page.flags`` that name them."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

from drgn import Object, Program, sizeof
from drgn.helpers.linux.kconfig import get_kconfig

from drgn_pageowner.kernel.dump.bulk import find_object, has_member, page_size
from drgn_pageowner.kernel.dump.damage import DAMAGE, name_of
from drgn_pageowner.kernel.linux.sections import memory_model
from drgn_pageowner.kernel.linux.topology import online_nodes
from drgn_pageowner.model.kernel import BitField, Zone

__all__ = (
    "find_zones",
    "huge_page_order",
    "max_page_order",
    "page_flag_fields",
    "pageblock_order",
)

_NO_LIMIT = 64


def find_zones(prog: Program, max_pfn: int, problems: list[str]) -> list[Zone]:
    """
    Every zone that spans memory, by node and zone type.

    :param max_pfn: Where memory ends; a zone that says it has more has what is before.
    :param problems: Gets a line for every node that the dump does not hold, and every zone
        that is not what it can be.
    """
    zones: list[Zone] = []
    for number, pgdat in online_nodes(prog):
        try:
            for zone in _zones_of(number, pgdat):
                zones.append(_within(zone, max_pfn, problems))
        except DAMAGE as error:
            problems.append(f"the zones of node {number} cannot be read ({error})")
    return zones


def _within(zone: Zone, max_pfn: int, problems: list[str]) -> Zone:
    """*zone*, its numbers of pages held to what memory has."""
    start = min(zone.start_pfn, max_pfn - 1)
    spanned = min(zone.spanned, max_pfn - start)
    present = min(zone.present, spanned)
    managed = min(max(zone.managed, 0), present)
    if (start, spanned, present, managed) == (
        zone.start_pfn, zone.spanned, zone.present, zone.managed
    ):  # fmt: skip
        return zone
    problems.append(
        f"zone {zone.name} of node {zone.node} claims {zone.spanned} pages from pfn "
        f"{zone.start_pfn:#x}, {zone.present} of them present, {zone.managed} managed: it is "
        f"damaged; memory ends at pfn {max_pfn:#x}"
    )
    return zone._replace(start_pfn=start, spanned=spanned, present=present, managed=managed)


def _zones_of(node: int, pgdat: Object) -> Iterator[Zone]:
    for index, zone in enumerate(pgdat.node_zones):
        spanned = int(zone.spanned_pages)
        if not spanned:
            continue
        # An atomic since Linux kernel commit 9705bea5f833 ("mm: convert zone->managed_pages
        # to atomic variable") (in v5.0).
        managed = zone.managed_pages
        yield Zone(
            node=node,
            type=index,
            name=_zone_name(zone, index),
            start_pfn=int(zone.zone_start_pfn),
            spanned=spanned,
            present=int(zone.present_pages),
            managed=int(managed.counter if has_member(managed.type_, "counter") else managed),
            pageblock_flags=(
                int(zone.pageblock_flags) if has_member(zone.type_, "pageblock_flags") else 0
            ),
        )


def _zone_name(zone: Object, index: int) -> str:
    try:
        # The kernel's own are short: DMA32, Movable.
        return name_of(zone.name, 16)
    except DAMAGE:
        return f"?{index}"


def max_page_order(prog: Program) -> int:
    """The largest order of the buddy allocator: ``NR_PAGE_ORDERS - 1``."""
    return int(prog.type("struct zone").member("free_area").type.length) - 1


def huge_page_order(prog: Program) -> int:
    """``HPAGE_PMD_ORDER``: what a page table of ``PAGE_SIZE`` bytes maps."""
    entries: int = page_size(prog) // sizeof(prog.type("pte_t"))
    return entries.bit_length() - 1


def pageblock_order(prog: Program) -> int:
    """
    ``pageblock_order``, from include/linux/pageblock-flags.h.

    A variable where the huge page size is one; elsewhere a constant that DWARF does not have,
    so it is computed as the header does.
    """
    largest = max_page_order(prog)
    variable = find_object(prog, "pageblock_order")
    if variable is not None:
        return min(int(variable), largest)
    largest = min(largest, _pageblock_limit(prog))
    # CONFIG_TRANSPARENT_HUGEPAGE without CONFIG_HUGETLB_PAGE counts since v6.11.
    huge = find_object(prog, "hstates", "mm/hugetlb.c") is not None
    if not huge and find_object(prog, "transparent_hugepage_flags") is not None:
        huge = has_member(prog.type("struct zone"), "per_cpu_zonestats") and _version(prog) >= (
            6,
            11,
        )
    if not huge:
        return largest
    return min(huge_page_order(prog), largest)


def _pageblock_limit(prog: Program) -> int:
    """
    ``PAGE_BLOCK_MAX_ORDER`` where the kernel has its own configuration in it.

    "mm: add CONFIG_PAGE_BLOCK_MAX_ORDER to select page block order" (in v6.17). By default it is
    the largest order; nothing else in a dump says it.
    """
    try:
        return int(get_kconfig(prog).get("CONFIG_PAGE_BLOCK_MAX_ORDER", _NO_LIMIT))
    except (OSError, EOFError, zlib.error, *DAMAGE):
        return _NO_LIMIT


def _version(prog: Program) -> tuple[int, int]:
    release = name_of(prog["UTS_RELEASE"])
    major, minor = release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))


def page_flag_fields(prog: Program) -> list[BitField]:
    """
    The bit fields above the flags in ``page.flags``: section, node, zone, last_cpupid, kasantag.

    The kernel's own table ``pff`` of lib/vsprintf.c says them since v5.12; before, they are
    computed as include/linux/page-flags-layout.h does.
    """
    table = find_object(prog, "pff", "lib/vsprintf.c")
    if table is not None:
        with contextlib.suppress(*DAMAGE):
            return _fields_of_table(prog, table)
    word_bits = prog.type("unsigned long").size * 8
    fields = []
    position = word_bits
    for name, width in (
        ("section", _sections_width(prog)),
        ("node", _nodes_width(prog)),
        ("zone", _zones_width(prog)),
    ):
        if width:
            position -= width
            fields.append(BitField(name, position, width, 10))
    return fields


def _fields_of_table(prog: Program, table: Object) -> list[BitField]:
    """:raises ValueError: if a field is not in the word"""
    word_bits = prog.type("unsigned long").size * 8
    fields = [
        # SPECIAL hexadecimal or plain decimal: printf_spec.base says.
        BitField(name_of(entry.name), int(entry.shift), int(entry.width), _spec_base(entry))
        for entry in table
        if int(entry.width)
    ]
    for field in fields:
        if min(field.shift, field.width) < 0 or field.shift + field.width > word_bits:
            raise ValueError(f"page.flags has no field {field.name} at {field.shift}")
    return fields


def _spec_base(entry: Object) -> int:
    return 16 if int(entry.spec.base) == 16 else 10


def _sections_width(prog: Program) -> int:
    if memory_model(prog) != "SPARSEMEM":
        return 0
    return int(prog["MAX_PHYSMEM_BITS"]) - int(prog["SECTION_SIZE_BITS"])


def _nodes_width(prog: Program) -> int:
    node_data = find_object(prog, "node_data")
    if node_data is None:
        return 0
    return (int(node_data.type_.length) - 1).bit_length()


def _zones_width(prog: Program) -> int:
    zones = prog.type("struct pglist_data").member("node_zones").type.length
    return (int(zones) - 1).bit_length()
