# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make dtypes of ``struct page``, and read a memmap."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.kernel.dump.bulk import Bulk, enumerators, has_member, struct_dtype
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.live import Changes, read_rows
from drgn_pageowner.kernel.linux.sections import Section
from drgn_pageowner.model.arrays import Array

__all__ = ("compound_words", "page_dtype", "read_memmap")

_MEMBERS = {
    # A memdesc_flags_t since Linux kernel commit 53fbef56e07d ("mm: introduce memdesc_flags_t") (in
    # v6.18).
    "flags": ("flags.f", "flags"),
    # A struct mem_cgroup * before Linux kernel commit bcfe06bf2622 ("mm: memcontrol: Use helpers to
    # read page's memcg data") (in v5.11).
    "memcg_data": ("memcg_data", "mem_cgroup"),
    # Added in Linux kernel commit 1d798ca3f164 ("mm: make compound_head() robust") (in v4.4);
    # before, a page flag marked tail pages. Renamed in d50569612c29 ("mm: rename the
    # 'compound_head' field in the 'struct page' to 'compound_info'") (in v7.1).
    "compound_head": ("compound_info", "compound_head", "first_page"),
    # Renamed in Linux kernel commit 0139aa7b7fa1 ("mm: rename _count, field of the struct page, to
    # _refcount") (in v4.7).
    "refcount": ("_refcount.counter", "_count.counter"),
    "mapcount": ("_mapcount.counter",),
    "mapping": ("mapping",),
    "index": ("index", "__folio_index"),
    "private": ("private",),
}


def page_dtype(kernel: Kernel, fields: tuple[str, ...]) -> np.dtype[np.void]:
    """
    Make a dtype of ``struct page`` with the given fields, as far as this kernel has them.

    :param fields: Any of ``flags``, ``memcg_data``, ``compound_head``, ``refcount``, ``mapcount``,
        ``mapping``, ``index``, ``private``.
    """
    type_ = kernel.prog.type("struct page")
    paths = {}
    for name in fields:
        for path in _MEMBERS[name]:
            if has_member(type_, path):
                paths[name] = path
                break
    return struct_dtype(kernel.prog, type_, paths)


def read_memmap(
    kernel: Kernel,
    section: Section,
    dtype: np.dtype[np.void],
    first: int,
    last: int,
    changes: Changes | None = None,
) -> tuple[Array, Bulk]:
    """
    Read the ``struct page`` of consecutive PFNs of one section.

    :param dtype: Dtype of a ``struct page``.
    :param first: The first PFN.
    :param last: The PFN after the last one.
    :param changes: The numbers of rows that a running kernel changed are added to this.
    :return: Array of *dtype*, shape ``(last - first,)``, zero where memory cannot be read; and the
        :class:`Bulk` with the same bytes, which lists the missing parts.
    """
    address = section.memmap + (first - section.start_pfn) * dtype.itemsize
    return read_rows(kernel.prog, address, dtype, last - first, changes or Changes())


def compound_words(kernel: Kernel, rows: Array) -> Array:
    """
    Get ``page.compound_head`` of pages, or an equivalent word on kernels without this member.

    :param rows: Array of a dtype made by :func:`page_dtype`, with ``flags`` and ``compound_head``.
    :return: A word for each page, in which bit 0 is set if it is a tail page.
    """
    words: Array = rows["compound_head"]
    if not has_member(kernel.prog.type("struct page"), "first_page"):
        return words
    bit = enumerators(kernel.prog, "enum pageflags")["PG_tail"]
    tail = rows["flags"] >> np.uint64(bit) & np.uint64(1)
    result: Array = (words | np.uint64(1)) * tail
    return result
