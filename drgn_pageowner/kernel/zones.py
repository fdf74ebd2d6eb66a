"""Nodes and zones, and the bits of ``page.flags`` that name them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from drgn import FaultError, Object, Program, sizeof
from drgn.helpers.linux.kconfig import get_kconfig
from drgn.helpers.linux.mmzone import for_each_online_pgdat

from drgn_pageowner.kernel.memory import find_object, has_member, page_size
from drgn_pageowner.kernel.sections import memory_model
from drgn_pageowner.snapshot import BitField, Zone

__all__ = (
    "find_zones",
    "huge_page_order",
    "max_page_order",
    "page_flag_fields",
    "pageblock_order",
)

_NO_LIMIT = 64


def find_zones(prog: Program, problems: list[str]) -> list[Zone]:
    """
    Every zone that spans memory, by node and zone type.

    :param problems: Gets a line for every node that the dump does not hold.
    """
    zones: list[Zone] = []
    try:
        for number, pgdat in enumerate(for_each_online_pgdat(prog)):
            try:
                zones += _zones_of(pgdat)
            except FaultError as fault:
                problems.append(f"the zones of node {number} cannot be read ({fault})")
    except FaultError as fault:
        problems.append(f"the nodes cannot be read ({fault})")
    return zones


def _zones_of(pgdat: Object) -> Iterator[Zone]:
    node = int(pgdat.node_id)
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
            name=zone.name.string_().decode(errors="backslashreplace"),
            start_pfn=int(zone.zone_start_pfn),
            spanned=spanned,
            present=int(zone.present_pages),
            managed=int(managed.counter if has_member(managed.type_, "counter") else managed),
            pageblock_flags=(
                int(zone.pageblock_flags) if has_member(zone.type_, "pageblock_flags") else 0
            ),
        )


def max_page_order(prog: Program) -> int:
    """The largest order of the buddy allocator: ``NR_PAGE_ORDERS - 1``."""
    return int(prog.type("struct zone").member("free_area").type.length) - 1


def huge_page_order(prog: Program) -> int:
    """``HPAGE_PMD_ORDER``: what a page table of ``PAGE_SIZE`` bytes maps."""
    entries = page_size(prog) // sizeof(prog.type("pte_t"))
    return entries.bit_length() - 1


def pageblock_order(prog: Program) -> int:
    """
    ``pageblock_order``, from include/linux/pageblock-flags.h.

    A variable where the huge page size is one; elsewhere a constant that DWARF does not have,
    so it is computed as the header does.
    """
    variable = find_object(prog, "pageblock_order")
    if variable is not None:
        return int(variable)
    largest = min(max_page_order(prog), _pageblock_limit(prog))
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
    except (LookupError, FaultError, OSError, EOFError, ValueError, zlib.error):
        return _NO_LIMIT


def _version(prog: Program) -> tuple[int, int]:
    release = prog["UTS_RELEASE"].string_().decode()
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
        return [
            BitField(
                entry.name.string_().decode(),
                int(entry.shift),
                int(entry.width),
                # SPECIAL hexadecimal or plain decimal: printf_spec.base says.
                _spec_base(entry),
            )
            for entry in table
            if int(entry.width)
        ]
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
