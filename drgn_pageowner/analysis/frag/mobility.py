# SPDX-License-Identifier: LGPL-2.1-or-later
"""Determine which pages compaction can move, and the owners of all pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from drgn_pageowner.analysis.owners.stack_table import StackTable
from drgn_pageowner.model.arrays import Array, looked_up, slices
from drgn_pageowner.model.heap import record_of_row
from drgn_pageowner.model.kept import kept_as
from drgn_pageowner.model.kinds import Kind
from drgn_pageowner.model.pages import FREE_STATES, MOVABLE_STATES, Memory, Pages, PageState
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame

__all__ = (
    "Mobility",
    "Overlay",
    "UnmovableKind",
    "kind_codes",
    "migratetype_number",
    "overlay",
    "pieces",
    "unmovable_kinds",
)


class Mobility(Kind):
    """Whether a page can be moved or freed (values of :attr:`Overlay.mobility`)."""

    FREE = 0, "free"
    MOVABLE = 1, "movable"
    RECLAIMABLE = 2, "reclaimable"
    """Slab pages that were allocated as reclaimable: a shrinker may free them."""
    UNMOVABLE = 3, "unmovable"
    UNKNOWN = 4, "unknown"
    """The page's struct page is not in the dump."""
    ABSENT = 5, "absent"
    """No memory at this PFN."""


_OF_STATE = np.full(len(PageState), Mobility.UNMOVABLE, np.uint8)
_OF_STATE[list(FREE_STATES)] = Mobility.FREE
_OF_STATE[list(MOVABLE_STATES)] = Mobility.MOVABLE
_OF_STATE[PageState.UNKNOWN] = Mobility.UNKNOWN
_OF_STATE[PageState.ABSENT] = Mobility.ABSENT


class UnmovableKind(Kind):
    """The purpose of unmovable pages."""

    BOOT = 0, "boot"
    SLAB = 1, "slab"
    TABLES = 2, "page tables"
    STACKS = 3, "kernel stacks"
    NETWORK = 4, "network buffers"
    FILE_SYSTEM = 5, "file system metadata"
    DRIVERS = 6, "drivers"
    OTHER = 7, "other kernel"
    NOT_RECORDED = 8, "not recorded"


_KIND_OF_STATE = {
    PageState.RESERVED: UnmovableKind.BOOT,
    PageState.SLAB: UnmovableKind.SLAB,
    PageState.LARGE_KMALLOC: UnmovableKind.SLAB,
    PageState.TABLE: UnmovableKind.TABLES,
}

# Function names that determine the purpose of a stack; the first one that matches any frame counts.
_KIND_OF_STACK = [
    (kind, re.compile(pattern))
    for kind, pattern in (
        (
            UnmovableKind.BOOT,
            r"register_early_stack|register_dummy_stack|init_page_owner|mm_core_init|mem_init",
        ),
        (UnmovableKind.STACKS, r"alloc_thread_stack_node|dup_task_struct"),
        (UnmovableKind.TABLES, r"_*(pte|pmd|pud|p4d|pgd)_alloc\w*|get_zeroed_page_pgtable"),
        (
            UnmovableKind.NETWORK,
            r"\w*skb\w*|sk_page_frag_refill|sock_\w+|napi_\w+|page_pool_\w+|tcp_\w+|udp_\w+|unix_\w+",
        ),
        (
            UnmovableKind.FILE_SYSTEM,
            r"(ext[234]|xfs|btrfs|f2fs|nfs|jbd2|erofs)_\w+|bdev_getblk|__getblk\w*|alloc_page_buffers",
        ),
        (
            UnmovableKind.DRIVERS,
            r"\w*_probe|blk_mq_\w+|virtio\w*|nvme\w*|scsi_\w+|usb_\w+|pci_\w+|drm_\w+|dma_\w+|tty_\w+",
        ),
        (UnmovableKind.BOOT, r"start_kernel|kernel_init_freeable|do_initcalls"),
    )
]


# Number of pages that are looked at together; more than the largest pageblock has.
_PIECE = 1 << 20


@dataclass
class Overlay:
    """Every page with its owner."""

    memory: Memory
    records: Snapshot | None
    """Allocated records; ``None`` where page_owner is absent or off."""
    owner: Array
    """``int32``, a row per page: row in :attr:`records`, or -1."""
    mobility: Array
    """``uint8``, a row per page: :class:`Mobility`."""
    block: Array
    """``int32``, a row per page: number of the pageblock."""
    stack: Array
    """``int64``, a row per record: number of its stack, or -1."""
    kinds_of_stacks: Array | None = field(default=None, repr=False)
    """The cached result of :meth:`kinds`."""

    table: object | None = field(default=None, repr=False)
    """The cached result of :func:`~drgn_pageowner.analysis.frag.blocks.block_table`."""

    @property
    def number_of_stacks(self) -> int:
        """Number of stacks of :attr:`records`."""
        return len(self.records.stacks) if self.records is not None else 0

    def kinds(self) -> Array:
        """
        Return the purpose of memory that each stack allocated.

        :return: ``int8``, a row per stack of :attr:`records`, and a last row for index -1, no
            stack: :class:`UnmovableKind`.
        """
        if self.kinds_of_stacks is None:
            assert self.records is not None
            numbers = np.append(np.arange(len(self.records.stacks)), -1)
            self.kinds_of_stacks = unmovable_kinds(StackTable.of(self.records, numbers))
        return self.kinds_of_stacks


def migratetype_number(names: tuple[str, ...] | list[str], name: str) -> int:
    """Return the number of the migratetype *name*, or -1."""
    lowered = [known.lower() for known in names]
    return lowered.index(name.lower()) if name.lower() in lowered else -1


def overlay(memory: Memory, records: Snapshot | None, owner: Array | None = None) -> Overlay:
    """
    Join *records* to the pages that they cover.

    :param records: Allocated records with ``pfn``, ``order``, ``migratetype`` and ``handle``.
    :param owner: The result of :func:`~drgn_pageowner.model.heap.record_of_row`, if already known.
    """
    return kept_as(
        ("overlay", id(memory), id(records)),
        (memory, records),
        lambda: _overlay(memory, records, owner),
    )


def _overlay(memory: Memory, records: Snapshot | None, owner: Array | None) -> Overlay:
    pages = memory.pages
    if owner is None:
        owner = record_of_row(pages, records)
    block = _blocks(pages)
    mobility = looked_up(_OF_STATE, pages.state)
    _reclaimable(memory, records, owner, block, mobility)
    stack = records.stack if records is not None else np.zeros(0, np.int64)
    return Overlay(memory, records, owner, mobility, block, stack)


def _blocks(pages: Pages) -> Array:
    """Return the number of each page's pageblock: ``int32``."""
    block = np.empty(len(pages), np.int32)
    for first, start, end in zip(
        pages.starts.tolist(), pages.offsets[:-1].tolist(), pages.offsets[1:].tolist(), strict=True
    ):
        for piece in slices(end - start, _PIECE):
            pfns = np.arange(first + piece.start, first + piece.stop)
            block[start + piece.start : start + piece.stop] = pfns >> pages.facts.pageblock_order
    return block


def _reclaimable(
    memory: Memory, records: Snapshot | None, owner: Array, block: Array, mobility: Array
) -> None:
    """Mark reclaimable slab pages: by their gfp mask, or without a record by their pageblock."""
    wanted = migratetype_number(list(memory.pages.names.migratetypes), "Reclaimable")
    slab = np.flatnonzero(memory.pages.state == PageState.SLAB)
    if wanted < 0 or not len(slab):
        return
    types = memory.block_types(block[slab], memory.pages["zone"][slab]).astype(np.int16)
    if records is not None and len(records) and "migratetype" in records:
        recorded = owner[slab] >= 0
        types[recorded] = records["migratetype"][owner[slab][recorded]]
    mobility[slab[types == wanted]] = Mobility.RECLAIMABLE


def unmovable_kinds(table: StackTable) -> Array:
    """
    Return the purpose of unmovable memory that was allocated by each stack.

    :return: ``int8``, a row per stack: :class:`UnmovableKind`.
    """

    def having(holds: Callable[[Frame], object]) -> Array:
        return table.any(table.marks(lambda frame: bool(holds(frame))))

    result = np.full(len(table), UnmovableKind.OTHER, np.int8)
    result[having(lambda f: f.module is not None or f.name is None)] = UnmovableKind.DRIVERS
    # The first pattern that matches a stack decides.
    for kind, pattern in reversed(_KIND_OF_STACK):
        result[having(partial(_is_named, pattern))] = kind
    # Where the compiler inlined alloc_thread_stack_node() into its caller.
    inlined = having(lambda f: "copy_process" in (f.name or ""))
    inlined &= having(lambda f: "vmalloc" in (f.name or ""))
    result[inlined] = UnmovableKind.STACKS
    return result


def _is_named(pattern: re.Pattern[str], frame: Frame) -> bool:
    return frame.name is not None and pattern.fullmatch(frame.name) is not None


def pieces(joined: Overlay, rows: Array) -> Iterator[Array]:
    """
    Cut row indices into pieces that are worked on one after another, to save memory.

    :param rows: ``int64``, ascending.
    :return: The pieces; pages of the same pageblock are in the same piece.
    """
    start = 0
    while start < len(rows):
        end = min(start + _PIECE, len(rows))
        if end < len(rows):
            # From the block of the last row on, rows belong to the next piece.
            after = np.searchsorted(joined.block[rows[start:end]], joined.block[rows[end]])
            end = start + int(after) or end
        yield rows[start:end]
        start = end


def kind_codes(joined: Overlay, rows: Array) -> Array:
    """
    Return the kind of each of *rows*, which are unmovable pages.

    :return: ``int8``: :class:`UnmovableKind`.
    """
    state = joined.memory.pages.state[rows]
    result = np.full(len(rows), UnmovableKind.NOT_RECORDED, np.int8)
    owner = joined.owner[rows]
    if joined.records is not None and len(joined.records):
        recorded = np.flatnonzero(owner >= 0)
        result[recorded] = joined.kinds()[joined.stack[owner[recorded]]]
    for value, kind in _KIND_OF_STATE.items():
        result[state == value] = kind
    return result
