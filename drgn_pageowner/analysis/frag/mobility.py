# SPDX-License-Identifier: LGPL-2.1-or-later
"""Determine which pages compaction can move, and the owners of all pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.stack_table import StackTable
from drgn_pageowner.model.arrays import Array, equals, looked_up, ranges, rows_among
from drgn_pageowner.model.heap import record_of_row
from drgn_pageowner.model.kept import kept_as
from drgn_pageowner.model.kinds import Kind
from drgn_pageowner.model.pages import FREE_STATES, MOVABLE_STATES, Memory, Pages, PageState
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame

__all__ = (
    "Blocks",
    "Mobility",
    "Overlay",
    "UnmovableKind",
    "kind_codes",
    "migratetype_number",
    "overlay",
    "rows_with_mobility",
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
_PIECE = 1 << 18


class Blocks:
    """
    The number of each page's pageblock, a row per page.

    It takes indices and slices like an array, and returns ``int32``.
    """

    def __init__(self, pages: Pages) -> None:
        self._starts, self._offsets = pages.starts, pages.offsets
        self._order = pages.facts.pageblock_order

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if not rows.size:
            return np.zeros(rows.shape, np.int32)
        ends = np.array([rows.min(), rows.max()])
        first, last = np.searchsorted(self._offsets, ends, "right") - 1
        # Rows next to each other are mostly in the same range.
        which = first if first == last else np.searchsorted(self._offsets, rows, "right") - 1
        pfns = rows + (self._starts - self._offsets[:-1])[which]
        pfns >>= self._order
        return pfns.astype(np.int32)

    def starts(self) -> tuple[Array, Array]:
        """
        Return the row of the first page of each pageblock that has pages, ascending, and the
        number of the pageblock: ``int64``.
        """
        first = self._starts >> self._order
        ends = self._starts + np.diff(self._offsets)
        number = np.maximum((ends - 1 >> self._order) - first + 1, 0)
        block = ranges(first, number)
        of_range = np.repeat(np.arange(len(first)), number)
        low = self._starts[of_range]
        row = np.maximum(block << self._order, low) - low + self._offsets[of_range]
        # Two ranges may have pages of one pageblock.
        fresh = np.diff(block, prepend=-1) != 0
        return row[fresh], block[fresh]

    def pieces(self) -> Iterator[slice]:
        """
        Cut the pages into pieces that are looked at one after another, to save memory.

        :return: Slices; pages of the same pageblock are in the same piece.
        """
        first = self.starts()[0]
        start = 0
        while start < len(self):
            place = int(np.searchsorted(first, start + _PIECE, "right")) - 1
            end = int(first[place]) if place >= 0 else start
            if end <= start or start + _PIECE >= len(self):
                end = len(self)
            yield slice(start, end)
            start = end


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
    block: Blocks
    """The number of each page's pageblock."""
    codes_of_unmovable: list[Array] | None = field(default=None, repr=False)
    """The cached numbers of :func:`~drgn_pageowner.analysis.frag.culprits.of_unmovable`."""
    table_of_stacks: StackTable | None = field(default=None, repr=False)
    """The cached result of :meth:`stacks`."""
    kinds_of_stacks: Array | None = field(default=None, repr=False)
    """The cached result of :meth:`kinds`."""

    table: object | None = field(default=None, repr=False)
    """The cached result of :func:`~drgn_pageowner.analysis.frag.blocks.block_table`."""

    @property
    def number_of_stacks(self) -> int:
        """Number of stacks of :attr:`records`."""
        return len(self.records.stacks) if self.records is not None else 0

    def stacks(self) -> StackTable:
        """Return all stacks of :attr:`records`, and a last one for index -1, no stack."""
        if self.table_of_stacks is None:
            assert self.records is not None
            numbers = np.append(np.arange(len(self.records.stacks)), -1)
            self.table_of_stacks = StackTable.of(self.records, numbers)
        return self.table_of_stacks

    def kinds(self) -> Array:
        """
        Return the purpose of memory that each stack allocated.

        :return: ``int8``, a row per stack of :attr:`records`, and a last row for index -1, no
            stack: :class:`UnmovableKind`.
        """
        if self.kinds_of_stacks is None:
            self.kinds_of_stacks = unmovable_kinds(self.stacks())
        return self.kinds_of_stacks


def migratetype_number(names: tuple[str, ...] | list[str], name: str) -> int:
    """Return the number of the migratetype *name*, or -1."""
    lowered = [known.lower() for known in names]
    return lowered.index(name.lower()) if name.lower() in lowered else -1


def overlay(memory: Memory, records: Snapshot | None, owner: Array | None = None) -> Overlay:
    """
    Join *records* to the pages that they cover.

    :param records: Allocated records with ``migratetype`` and ``handle``; and, if *owner* is not
        given, ``pfn`` and ``order``.
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
    block = Blocks(pages)
    mobility = looked_up(_OF_STATE, pages.state)
    _reclaimable(memory, records, owner, block, mobility)
    return Overlay(memory, records, owner, mobility, block)


def _reclaimable(
    memory: Memory, records: Snapshot | None, owner: Array, block: Blocks, mobility: Array
) -> None:
    """Mark reclaimable slab pages: by their gfp mask, or without a record by their pageblock."""
    wanted = migratetype_number(list(memory.pages.names.migratetypes), "Reclaimable")
    slab = rows_among(memory.pages.state, [PageState.SLAB])
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


def rows_with_mobility(joined: Overlay, mobility: Mobility, piece: slice) -> Array:
    """
    Find the pages of one mobility.

    :param piece: The pages to look at.
    :return: Their rows: ``int64``, ascending.
    """
    rows: Array = np.flatnonzero(equals(joined.mobility[piece], mobility))
    rows += piece.start
    return rows


_NO_KIND = 255
_OF_MARKED = np.full(len(PageState), _NO_KIND, np.uint8)
for _state, _kind in _KIND_OF_STATE.items():
    _OF_MARKED[_state] = _kind


def kind_codes(joined: Overlay, rows: Array, codes: Array) -> Array:
    """
    Return the kind of each of *rows*, which are unmovable pages.

    :param codes: The owner of each: the result of
        :func:`~drgn_pageowner.analysis.frag.culprits.owner_codes`.
    :return: ``uint8``: :class:`UnmovableKind`.
    """
    stacks = joined.number_of_stacks
    of_code = np.full(stacks + 1 + len(PageState), UnmovableKind.NOT_RECORDED, np.uint8)
    if joined.records is not None and len(joined.records):
        of_code[: stacks + 1] = joined.kinds()
    result = of_code[codes]
    marked = _OF_MARKED[joined.memory.pages.state[rows]]
    np.copyto(result, marked, where=marked != _NO_KIND)
    return result
