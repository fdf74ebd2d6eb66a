# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the printf formats of the kernel's own page_owner file in the kernel's read-only data."""

from __future__ import annotations

import re
from collections.abc import Collection

from drgn_pageowner.kernel.dump.bulk import find_type, read_bulk, symbol_address
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.model.kernel import TextFormats

__all__ = ("extfrag_format", "read_only_data", "read_text_formats")

_RECORD = rb"\0(Page allocated via order [^\0]*\n)\0"
_PAGE = rb"\0(PFN [^\0]*Block %lu[^\0]*\n)\0"
_MIGRATED = rb"\0(Page has been migrated, last migrate reason: %s\n)\0"
_CHARGED = rb"\0(Charged %sto %smemcg %s\n)\0"
_SLAB = rb"\0(Slab cache page\n)\0"
# The format of a frame in snprint_stack_trace(), now stack_trace_snprint(), of kernel/stacktrace.c.
# In v3.19 it begins with the address; in v4.9 it does not.
_FRAME = rb"\0%\*c((?:\[<%p>\] )?%pS\n)\0"


@once
def read_only_data(kernel: Kernel) -> bytes:
    """Read the kernel's read-only data, which contains its strings; empty if it is not found."""
    start = symbol_address(kernel.prog, "__start_rodata")
    end = symbol_address(kernel.prog, "__end_rodata")
    if start is not None and end is not None and 0 < end - start < 1 << 28:
        return bytes(read_bulk(kernel.prog, start, end - start).data)
    return b""


@once
def extfrag_format(kernel: Kernel) -> str:
    """
    Get the format of a fragmentation index in ``extfrag_show_print()`` of mm/vmstat.c.

    Changed in Linux kernel commit a997058679fb ("mm: vmstat.c: make extfrag_index show more
    pretty") (in v5.16).
    """
    return "%2d.%03d " if b"\0%2d.%03d \0" in read_only_data(kernel) else "%d.%03d "


def read_text_formats(kernel: Kernel, members: Collection[str]) -> TextFormats:
    """
    Get the formats that ``print_page_owner()`` of this kernel uses, including backported ones.

    :param members: Names of the members of ``struct page_owner``. They determine the formats if the
        kernel's strings are not in the dump.
    """
    data = read_only_data(kernel)

    def find(pattern: bytes) -> str | None:
        match = re.search(pattern, data)
        return match.group(1).decode() if match else None

    record, page, migrated, frame = find(_RECORD), find(_PAGE), find(_MIGRATED), find(_FRAME)
    if record and page and frame and (migrated or "last_migrate_reason" not in members):
        return TextFormats(record, page, migrated, find(_CHARGED), find(_SLAB), True, " " + frame)
    return _by_layout(members, find_type(kernel.prog, "struct page_owner") is None)


def _by_layout(members: Collection[str], in_page_ext: bool) -> TextFormats:
    """
    Get the formats of the mainline kernel whose ``struct page_owner`` has the given members.

    They changed in these Linux kernel commits:

    - 60f30350fd69 ("mm, page_owner: print migratetype of page and pageblock, symbolic flags") and
      7cd12b4abfd2 ("mm, page_owner: track and print last migrate reason") (in v4.6);
    - 9cc7e96aa846 ("mm/page_owner: record timestamp and pid") (in v5.11);
    - 866b48526217 ("mm/page_owner: record the timestamp of all pages during free") (in v5.13);
    - 23efd0804c0a ("vsprintf: Make %pGp print the hex value") (in v5.16);
    - bf215eab785a ("mm/page_owner.c: record tgid"), 865ed6a32786 ("mm/page_owner: record task
      command name") and fcf8935832b8 ("mm/page_owner: print memcg information") (in v5.18);
    - b459f0905eec ("mm/page_owner: remove free_ts from page_owner output") (in v6.7).

    v6.1 prints the PFN in decimal, v6.12 in hexadecimal.

    :param members: Names of the members of ``struct page_owner``.
    :param in_page_ext: Whether records are in ``struct page_ext`` itself, as until Linux kernel
        commit 9300d8dfd287 ("mm/page_owner: don't define fields on struct page_ext by
        hard-coding") (in v4.9).
    """
    migrated = "Page has been migrated, last migrate reason: %s\n"
    frame = " [<%p>] %pS\n" if in_page_ext else " %pS\n"
    if "last_migrate_reason" not in members:
        return TextFormats(
            "Page allocated via order %u, mask 0x%x\n",
            "PFN %lu Block %lu type %d %s Flags " + "%s" * 12 + "\n",
            None,
            None,
            None,
            False,
            frame,
        )
    if "comm" not in members:
        record = "Page allocated via order %u, mask %#x(%pGg)"
        if "ts_nsec" in members:
            record += ", pid %d, ts %llu ns"
        if "free_ts_nsec" in members:
            record += ", free_ts %llu ns"
        return TextFormats(
            record + "\n",
            "PFN %lu type %s Block %lu type %s Flags %#lx(%pGp)\n",
            migrated,
            None,
            None,
            False,
            frame,
        )
    owner = "Page allocated via order %u, mask %#x(%pGg), pid %d, tgid %d (%s), ts %llu ns"
    if "free_pid" in members:
        record, pfn = owner + "\n", "PFN 0x%lx"
    else:
        record, pfn = owner + ", free_ts %llu ns\n", "PFN %lu"
    return TextFormats(
        record,
        pfn + " type %s Block %lu type %s Flags %pGp\n",
        migrated,
        "Charged %sto %smemcg %s\n",
        "Slab cache page\n",
        False,
    )
