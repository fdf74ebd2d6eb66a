# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compound pages: their heads, orders, and the mark of hugetlb pages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from drgn_pageowner.kernel.dump.bulk import enumerators, find_type, has_member, struct_dtype
from drgn_pageowner.kernel.dump.kernel import Kernel, once
from drgn_pageowner.kernel.linux.sections import memmap_addresses, memmap_pfns
from drgn_pageowner.model.arrays import Array

__all__ = ("CompoundPages", "HugetlbMark", "compound_order_field", "hugetlb_mark")

_TAIL = 1


class CompoundPages:
    """Finds the heads of compound pages from ``page.compound_head`` of their tails."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def heads(self, pfns: Array, words: Array) -> Array:
        """
        Get the PFN of the head of each page.

        :param pfns: PFNs of the pages: ``int64``, shape ``(n,)``.
        :param words: ``page.compound_head`` of the pages, shape ``(n,)``; bit 0 is set in tail
            pages. Renamed to ``compound_info`` in Linux kernel commit d50569612c29 ("mm: rename the
            'compound_head' field in the 'struct page' to 'compound_info'") (in v7.1).
        :return: ``int64``, shape ``(n,)``: PFN of the head; the page's own PFN if it is not a tail,
            or if its head is in no memmap.
        """
        heads: Array = pfns.copy()
        tails = np.flatnonzero(words & np.uint64(_TAIL))
        value = words[tails].astype(np.uint64) - np.uint64(_TAIL)
        # Since Linux kernel commit 8c846c879e22 ("mm: rework compound_head() for power-of-2
        # sizeof(struct page)") (in v7.1), where the struct pages of hugetlb pages are shared
        # (CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP), the word is not a pointer, but a mask for the
        # address of the tail's own struct page.
        inverted = ~value
        masks = (inverted & (inverted + np.uint64(1))) == 0
        own = memmap_addresses(self._kernel, pfns[tails])
        address = np.where(masks, own & value, value)
        found = memmap_pfns(self._kernel, address)
        heads[tails] = np.where(found >= 0, found, pfns[tails])
        return heads


@once
def compound_order_field(kernel: Kernel) -> np.dtype[np.void] | None:
    """
    Find the field with the order of a compound page in its second ``struct page``.

    :return: Dtype of one ``struct page`` with a field ``order``, the low 8 bits of which are the
        order; ``None`` if the location of the order in this kernel is unknown.
    """
    page = kernel.prog.type("struct page")
    if has_member(page, "compound_order"):
        return struct_dtype(kernel.prog, page, {"order": "compound_order"})
    folio = find_type(kernel.prog, "struct folio")
    # In page[1].flags since Linux kernel commit ebc1baf5c9b4 ("mm: free up a word in the first tail
    # page") (in v6.6); a member of its own in v6.2 to v6.5.
    for path in ("_flags_1.f", "_flags_1", "_folio_order"):
        if folio is not None and has_member(folio, path):
            field = struct_dtype(kernel.prog, folio, {"order": path})
            format_, offset = dict(field.fields or {})["order"][:2]
            return np.dtype(
                {
                    "names": ["order"],
                    "formats": [format_],
                    "offsets": [offset - int(page.size)],
                    "itemsize": int(page.size),
                }
            )
    return None


class HugetlbMark(NamedTuple):
    """
    Location and value of the bits that mark a hugetlb page, in its second ``struct page``.

    Kernels that have a page type for hugetlb pages do not need this mark.
    """

    dtype: np.dtype[np.void]
    """Dtype of one ``struct page`` with a field ``mark``."""
    mask: int
    """Mask of the relevant bits of ``mark``."""
    value: int
    """Value of these bits in a hugetlb page."""


@once
def hugetlb_mark(kernel: Kernel) -> HugetlbMark | None:
    """
    Find the bits that mark hugetlb pages in their second ``struct page``.

    :return: ``None`` if this kernel has no hugetlb pages, or has a page type for them. Kernels have
        the page type since Linux kernel commit d99e3140a4d3 ("mm: turn folio_test_hugetlb into a
        PageType") (in v6.9).
    """
    page = kernel.prog.type("struct page")
    dtor = enumerators(kernel.prog, "enum compound_dtor_id").get("HUGETLB_PAGE_DTOR")
    if dtor is not None and has_member(page, "compound_dtor"):
        dtype = struct_dtype(kernel.prog, page, {"mark": "compound_dtor"})
        return HugetlbMark(dtype, 0xFF, dtor)
    # A flag since Linux kernel commit 9c5ccf2db04b ("mm: remove HUGETLB_PAGE_DTOR") (in v6.6).
    number = enumerators(kernel.prog, "enum pageflags").get("PG_hugetlb")
    if number is not None:
        bit = 1 << number
        return HugetlbMark(struct_dtype(kernel.prog, page, {"mark": "flags"}), bit, bit)
    return None
