# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the zones of all nodes, and the bit fields in ``page.flags`` with a page's zone and node."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from drgn import Object, sizeof
from drgn.helpers.linux.kconfig import get_kconfig

from drgn_pageowner.kernel.dump.bulk import enumerators, find_object, has_member
from drgn_pageowner.kernel.dump.damage import DAMAGE, name_of, suppress_damage, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel, once, once_per_reading
from drgn_pageowner.kernel.linux.sections import memory_model, pfn_limits
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


def find_zones(kernel: Kernel, problems: list[str]) -> tuple[Zone, ...]:
    """
    Get every zone that spans memory, in the order of nodes and zone types.

    Zones that extend past the end of memory are clamped to it.

    :param problems: List of messages, to which a line is added for each node that cannot be read,
        and for each zone with impossible numbers of pages.
    """
    zones, lines = _zones(kernel)
    problems += lines
    return zones


@once_per_reading
def _zones(kernel: Kernel) -> tuple[tuple[Zone, ...], list[str]]:
    """Get the result of :func:`find_zones`, and messages about damage."""
    max_pfn = pfn_limits(kernel)[1]
    zones: list[Zone] = []
    problems: list[str] = []
    for number, pgdat in online_nodes(kernel):
        try:
            for zone in _zones_of(number, pgdat):
                zones.append(_within(zone, max_pfn, problems))
        except DAMAGE as error:
            unless_mistaken(error)
            problems.append(f"the zones of node {number} cannot be read ({error})")
    return tuple(zones), problems


def _within(zone: Zone, max_pfn: int, problems: list[str]) -> Zone:
    """
    Clamp the range and the numbers of pages of a zone to the memory that exists.

    :param max_pfn: The first PFN after the end of memory.
    :param problems: List of messages, to which a line is added if anything is clamped.
    """
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
        # The kernel's zone names are short: DMA32, Movable.
        return name_of(zone.name, 16)
    except DAMAGE as error:
        unless_mistaken(error)
        return f"?{index}"


def max_page_order(kernel: Kernel) -> int:
    """Get the largest order of the buddy allocator, ``NR_PAGE_ORDERS - 1``."""
    return int(kernel.prog.type("struct zone").member("free_area").type.length) - 1


def huge_page_order(kernel: Kernel) -> int:
    """Get ``HPAGE_PMD_ORDER``, the order of a huge page that takes the place of one page table."""
    entries: int = kernel.page_size // sizeof(kernel.prog.type("pte_t"))
    return entries.bit_length() - 1


@once
def pageblock_order(kernel: Kernel) -> int:
    """
    Get ``pageblock_order`` of include/linux/pageblock-flags.h.

    If the size of huge pages is variable, ``pageblock_order`` is a variable. Otherwise it is a
    macro, which is not in DWARF, so it is computed here as in the header.
    """
    largest = max_page_order(kernel)
    variable = find_object(kernel.prog, "pageblock_order")
    if variable is not None:
        return min(int(variable), largest)
    largest = min(largest, _pageblock_limit(kernel))
    huge = find_object(kernel.prog, "hstates", "mm/hugetlb.c") is not None
    # CONFIG_TRANSPARENT_HUGEPAGE alone is enough since Linux kernel commit 72801513b2bf ("mm: set
    # pageblock_order to HPAGE_PMD_ORDER in case with !CONFIG_HUGETLB_PAGE but THP enabled") (in
    # v6.10). The same version added enum pagetype: ff202303c398 ("mm: convert page type macros to
    # enum").
    if not huge and find_object(kernel.prog, "transparent_hugepage_flags") is not None:
        huge = bool(enumerators(kernel.prog, "enum pagetype"))
    if not huge:
        return largest
    return min(huge_page_order(kernel), largest)


def _pageblock_limit(kernel: Kernel) -> int:
    """
    Get ``PAGE_BLOCK_MAX_ORDER`` from the kernel's built-in configuration (CONFIG_IKCONFIG).

    The option was added as ``CONFIG_PAGE_BLOCK_ORDER`` in Linux kernel commit e13e7922d034 ("mm:
    add CONFIG_PAGE_BLOCK_ORDER to select page block order"), and renamed before v6.17. Without a
    built-in configuration its value is unknown, and the default is assumed, which is no limit.
    """
    try:
        return int(get_kconfig(kernel.prog).get("CONFIG_PAGE_BLOCK_MAX_ORDER", _NO_LIMIT))
    except (OSError, EOFError, zlib.error, *DAMAGE) as error:
        unless_mistaken(error)
        return _NO_LIMIT


@once
def page_flag_fields(kernel: Kernel) -> list[BitField]:
    """
    Get the bit fields above the flags in ``page.flags``: section, node, zone, last_cpupid,
    kasantag.

    Kernels have a table of these bit fields, ``pff`` of lib/vsprintf.c, since Linux kernel commit
    c244297acbe5 ("vsprintf: dump full information of page flags in pGp") (in v5.13). For older
    kernels, the bit fields are computed as in include/linux/page-flags-layout.h.
    """
    table = find_object(kernel.prog, "pff", "lib/vsprintf.c")
    if table is not None:
        with suppress_damage():
            return _fields_of_table(kernel, table)
    word_bits = kernel.prog.type("unsigned long").size * 8
    fields = []
    position = word_bits
    for name, width in (
        ("section", _sections_width(kernel)),
        ("node", _nodes_width(kernel)),
        ("zone", _zones_width(kernel)),
    ):
        if width:
            position -= width
            fields.append(BitField(name, position, width, 10))
    return fields


def _fields_of_table(kernel: Kernel, table: Object) -> list[BitField]:
    """
    Get the bit fields from the kernel's table ``pff``.

    :raises ValueError: if a bit field is not inside the word
    """
    word_bits = kernel.prog.type("unsigned long").size * 8
    fields = [
        # printf_spec.base is the base in which the kernel prints the field: 10 or 16.
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


def _sections_width(kernel: Kernel) -> int:
    if memory_model(kernel) != "SPARSEMEM":
        return 0
    return int(kernel.prog["MAX_PHYSMEM_BITS"]) - int(kernel.prog["SECTION_SIZE_BITS"])


def _nodes_width(kernel: Kernel) -> int:
    node_data = find_object(kernel.prog, "node_data")
    if node_data is None:
        return 0
    return (int(node_data.type_.length) - 1).bit_length()


def _zones_width(kernel: Kernel) -> int:
    zones = kernel.prog.type("struct pglist_data").member("node_zones").type.length
    return (int(zones) - 1).bit_length()
