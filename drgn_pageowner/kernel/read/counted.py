# SPDX-License-Identifier: LGPL-2.1-or-later
"""Describe the arrays whose number of elements in use is in another member of the structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from drgn import Type, TypeKind, sizeof

from drgn_pageowner.kernel.read.member_path import unaliased
from drgn_pageowner.model.types import Counted

if TYPE_CHECKING:
    from drgn_pageowner.kernel.read.types import DwarfTypes

__all__ = ("counted_arrays",)


class _Rule(NamedTuple):
    """Names of a structure and of its members."""

    tag: str
    array: str
    used: str
    length: str | None = None
    tail: str | None = None
    stride: str | None = None


_RULES = (
    # folio_batch_add() of include/linux/pagevec.h. A struct folio_batch is a struct pagevec before
    # Linux kernel commit 10331795fb79 ("pagevec: Add folio_batch") (in v5.17).
    _Rule("folio_batch", "folios", "nr"),
    _Rule("pagevec", "pages", "nr"),
    # tlb_remove_page_size() of mm/mmu_gather.c. encoded_pages is called pages before Linux kernel
    # commit 7cc8f9c7146a ("mm: mmu_gather: prepare to gather encoded page pointers with flags") (in
    # v6.2).
    _Rule("mmu_gather_batch", "encoded_pages", "nr", "max"),
    _Rule("mmu_gather_batch", "pages", "nr", "max"),
    # scm_fp_copy() of net/core/scm.c.
    _Rule("scm_fp_list", "fp", "count"),
    # remove_element() of mm/mempool.c. The structure is called mempool_s in v6.12 and mempool in
    # v7.2; mempool_t is a typedef of it in both.
    _Rule("mempool", "elements", "curr_nr", "min_nr"),
    _Rule("mempool_s", "elements", "curr_nr", "min_nr"),
    # pipe_occupancy() of include/linux/pipe_fs_i.h. Added in Linux kernel commit 8cefc107ca54
    # ("pipe: Use head and tail pointers for the ring, not cursor and length") (in v5.5).
    _Rule("pipe_inode_info", "bufs", "head", "ring_size", "tail"),
    # kfifo_len() of include/linux/kfifo.h; lib/kfifo.c.
    _Rule("__kfifo", "data", "in", "mask", "out", "esize"),
)


def counted_arrays(types: DwarfTypes) -> Iterator[Counted]:
    """Yield those arrays of the list that this kernel's structures have."""
    for rule in _RULES:
        number = types.find(f"struct {rule.tag}")
        if number >= 0:
            found = _counted(types.type_of(number), number, rule)
            if found is not None:
                yield found


def _counted(type_: Type, number: int, rule: _Rule) -> Counted | None:
    """Return the array described by *rule*; ``None`` if this kernel has other members."""
    try:
        array = type_.member(rule.array)
        used = _place(type_, rule.used)
        length = _place(type_, rule.length) if rule.length else None
        tail = _place(type_, rule.tail) if rule.tail else None
        stride = _place(type_, rule.stride) if rule.stride else None
    except LookupError:
        return None
    plain = unaliased(array.type)
    pointed = plain.kind == TypeKind.POINTER
    if plain.kind not in (TypeKind.POINTER, TypeKind.ARRAY):
        return None
    return Counted(
        type=number,
        array=array.bit_offset // 8,
        pointed=pointed,
        length=length or int(plain.length or 0),
        used=used,
        tail=tail,
        stride=stride or int(sizeof(plain.type)),
        last_index=rule.length == "mask",
    )


def _place(type_: Type, name: str) -> tuple[int, int]:
    """
    Return offset and size of a member, in bytes.

    :raises LookupError: if there is no such member
    """
    member = type_.member(name)
    return member.bit_offset // 8, int(sizeof(member.type))
