"""``struct page``: the columns of it that belong to a record."""

from __future__ import annotations

import numpy as np
from drgn import Program

from drgn_pageowner.kernel.live import Changes, read_rows
from drgn_pageowner.kernel.memory import Bulk, has_member, struct_dtype
from drgn_pageowner.kernel.sections import Section
from drgn_pageowner.snapshot import Array

__all__ = ("page_dtype", "read_memmap")

_MEMBERS = {
    # memdesc_flags_t since Linux kernel v6.18.
    "flags": ("flags.f", "flags"),
    # struct page.memcg_data since v5.11, a struct mem_cgroup * before.
    "memcg_data": ("memcg_data", "mem_cgroup"),
    "compound_head": ("compound_info", "compound_head"),
    "refcount": ("_refcount.counter",),
    "mapcount": ("_mapcount.counter",),
    "mapping": ("mapping",),
    "index": ("index", "__folio_index"),
    "private": ("private",),
}


def page_dtype(prog: Program, fields: tuple[str, ...]) -> np.dtype[np.void]:
    """
    A dtype of ``struct page`` with those of *fields* that this kernel has.

    :param fields: Of ``flags``, ``memcg_data``, ``compound_head``, ``refcount``, ``mapcount``,
        ``mapping``, ``index``, ``private``.
    """
    type_ = prog.type("struct page")
    paths = {}
    for name in fields:
        for path in _MEMBERS[name]:
            if has_member(type_, path):
                paths[name] = path
                break
    return struct_dtype(prog, type_, paths)


def read_memmap(
    prog: Program,
    section: Section,
    dtype: np.dtype[np.void],
    first: int,
    last: int,
    changes: Changes | None = None,
) -> tuple[Array, Bulk]:
    """
    The ``struct page`` of the PFNs from *first* up to *last* (exclusive) of one section.

    :param changes: Is told what changed meanwhile.
    :return: Array of *dtype*, shape ``(last - first,)``, zero where the dump has none; and the
        read that it came from, which says where that is.
    """
    address = section.memmap + (first - section.start_pfn) * dtype.itemsize
    return read_rows(prog, address, dtype, last - first, changes or Changes())
