# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compound pages: from a tail to its head, and how large they are."""

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
    """How this kernel links the pages of a compound page."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def heads(self, pfns: Array, words: Array) -> Array:
        """
        :param pfns: ``int64``, shape ``(n,)``.
        :param words: ``page.compound_head`` (``compound_info`` since v7.0) of each: bit 0 says
            that the page is a tail.
        :return: ``int64``, shape ``(n,)``: the PFN of the head; of a page that is no tail, or
            whose head lies in no memmap, its own.
        """
        heads: Array = pfns.copy()
        tails = np.flatnonzero(words & np.uint64(_TAIL))
        value = words[tails].astype(np.uint64) - np.uint64(_TAIL)
        # Where hugetlb pages' struct pages are shared (CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP) the
        # word is no pointer since v7.0, but a mask for the address of the tail's own struct page.
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
    Where the *second* ``struct page`` of a compound page says its order.

    :return: A dtype of one ``struct page`` with a field ``order``, whose low 8 bits it is;
        ``None`` if this kernel has no compound pages that we know.
    """
    page = kernel.prog.type("struct page")
    if has_member(page, "compound_order"):
        return struct_dtype(kernel.prog, page, {"order": "compound_order"})
    folio = find_type(kernel.prog, "struct folio")
    # page[1].flags since v6.6, a member of its own in v6.2 to v6.5.
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
    """How the *second* ``struct page`` of a hugetlb page says so, before page types did."""

    dtype: np.dtype[np.void]
    """A dtype of one ``struct page`` with a field ``mark``."""
    mask: int
    value: int


@once
def hugetlb_mark(kernel: Kernel) -> HugetlbMark | None:
    """``None`` if this kernel has no hugetlb pages, or a page type for them (since v6.9)."""
    page = kernel.prog.type("struct page")
    dtor = enumerators(kernel.prog, "enum compound_dtor_id").get("HUGETLB_PAGE_DTOR")
    if dtor is not None and has_member(page, "compound_dtor"):
        dtype = struct_dtype(kernel.prog, page, {"mark": "compound_dtor"})
        return HugetlbMark(dtype, 0xFF, dtor)
    # v6.6 to v6.8: a flag.
    number = enumerators(kernel.prog, "enum pageflags").get("PG_hugetlb")
    if number is not None:
        bit = 1 << number
        return HugetlbMark(struct_dtype(kernel.prog, page, {"mark": "flags"}), bit, bit)
    return None
