# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page types: uses of a page that are stored in ``page.page_type`` (buddy, table, offline, ...)."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.kernel.dump.bulk import enumerators, has_member
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.model.arrays import Array

__all__ = ("PageTypes", "page_types")

# Since Linux kernel commit 6e292b9be7f4 ("mm: split page_type out from _mapcount") (in v4.18) a
# type is a bit that is cleared in page_type, whose top four bits are set.
_TYPE_BASE = 0xF0000000
_LEGACY = {"buddy": 0x80, "offline": 0x100, "table": 0x200, "guard": 0x400}


class PageTypes:
    """Encoding of the page types of one kernel."""

    def __init__(self, mask: dict[str, int], value: dict[str, int]) -> None:
        self._mask = mask
        self._value = value
        self.names = ("", *value)
        """Names of the page types. The index of a name is the number of the type in this program;
        0 means no type."""

    def number(self, name: str) -> int:
        """Get the index of a page type in :attr:`names`; -1 if this kernel lacks the type."""
        return self.names.index(name) if name in self.names else -1

    def of(self, page_type: Array) -> Array:
        """
        Get the type of each page.

        :param page_type: ``page.page_type`` (the same word as ``page._mapcount``), 32 bits.
        :return: Index of the type in :attr:`names`: ``int8``, the same shape; 0 for no type.
        """
        word = page_type.view(np.uint32)
        result = np.zeros(word.shape, np.int8)
        # Every type has the top bit set; an unmapped page without a type has all bits set.
        typed = np.flatnonzero(word.view(np.int32) < -1)
        word = word[typed]
        for number, name in enumerate(self.names[1:], 1):
            mask, value = np.uint32(self._mask[name]), np.uint32(self._value[name])
            result[typed[(word & mask) == value]] = number
        return result


@once
def page_types(kernel: Kernel) -> PageTypes:
    """Get the page types of this kernel, from ``enum pagetype`` or from its VMCOREINFO."""
    found = enumerators(kernel.prog, "enum pagetype")
    if "PGTY_buddy" in found:
        # A number in the top byte since Linux kernel commit 4ffca5a96678 ("mm: support only one
        # page_type per page") (in v6.12).
        values = {
            name.removeprefix("PGTY_"): (number << 24) & 0xFFFFFFFF
            for name, number in found.items()
            if name not in ("PGTY_mapcount_underflow",)
        }
        return PageTypes(dict.fromkeys(values, 0xFF000000), values)
    if found:
        # Since Linux kernel commit ff202303c398 ("mm: convert page type macros to enum") (in
        # v6.10): bits, cleared in a word whose top bit is set.
        bits = {name.removeprefix("PG_"): bit for name, bit in found.items()}
        base = 0x80000000
    else:
        bits, base = _bits_of_macros(kernel), _TYPE_BASE
    return PageTypes({name: base | bit for name, bit in bits.items()}, dict.fromkeys(bits, base))


def _bits_of_macros(kernel: Kernel) -> dict[str, int]:
    """
    Get the bits of the page types on kernels that define them as macros.

    VMCOREINFO has some of these bits, for makedumpfile; the others are known from the version.
    """
    bits = dict(_LEGACY)
    if not _has_memcg_data(kernel):
        # PG_kmemcg was 0x200 until Linux kernel commit 18b2db3b0385 ("mm: Convert page kmemcg type
        # to a page memcg flag") (in v5.11).
        bits.update(table=0x400, guard=0x800)
    bits.update(kernel.vmcoreinfo.page_type_bits)
    return bits


def _has_memcg_data(kernel: Kernel) -> bool:
    """
    Return whether ``struct page`` has ``memcg_data``, which replaces the page type ``kmemcg``.

    Since Linux kernel commits bcfe06bf2622 ("mm: memcontrol: Use helpers to read page's memcg
    data") and 18b2db3b0385 ("mm: Convert page kmemcg type to a page memcg flag") (both in v5.11).
    """
    page = kernel.prog.type("struct page")
    if has_member(page, "memcg_data"):
        return True
    if has_member(page, "mem_cgroup"):
        return False
    # Without CONFIG_MEMCG, struct page has neither member. Use a commit of the same version
    # (v5.11): Linux kernel commit f0c0c115fb81 ("mm: memcontrol: account pagetables per node").
    return "NR_PAGETABLE" in enumerators(kernel.prog, "enum node_stat_item")
