# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Hand-made model objects, for tests that need neither drgn nor a dump.

A machine has a single zone from PFN 0 on, and pageblocks of 4 pages unless a test says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Area, Heap, Inventory, Slabs, record_of_row
from drgn_pageowner.model.kernel import Facts, Names, Zone
from drgn_pageowner.model.pages import FreeLists, Memory, Pages, PageState, ZoneStats
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame, Stacks

PAGE = 4096
ORDER = 2
"""Pageblock order."""
TYPES = ("Unmovable", "Movable", "Reclaimable", "CMA")
UNMOVABLE, MOVABLE, RECLAIMABLE, CMA = range(4)
GFP = ((0xCC0, "GFP_KERNEL"), (0x20, "__GFP_HIGH"), (0x400, "__GFP_DIRECT_RECLAIM"),
       (0x800, "__GFP_KSWAPD_RECLAIM"), (0x8, "__GFP_MOVABLE"), (0x40, "__GFP_IO"),
       (0x80, "__GFP_FS"))  # fmt: skip
SECOND = 10**9
NOW = 1000 * SECOND

NAMES = Names(
    gfp_flags=GFP,
    page_flags=((1, "locked"), (2, "lru"), (4, "slab"), (8, "head"), (16, "writeback")),
    page_flags_mask=0xFF,
    page_flag_bits={"locked": 0, "lru": 1, "slab": 2, "head": 3, "writeback": 4},
    zone_types=("NORMAL",),
    migratetypes=TYPES,
    migrate_reasons=("compaction", "memory_failure"),
)


def frame(text: str) -> Frame:
    """Make a frame of ``"f"``, ``"f [module]"``, or ``"0xffffffffc0001000"`` for no symbol."""
    if text.startswith("0x"):
        return Frame(int(text, 16), None, 0, 0, None)
    name, _, module = text.partition(" ")
    pc = 0xFFFFFFFF81000000 + sum(ord(c) * 131**i for i, c in enumerate(text)) % (1 << 24)
    return Frame(pc, name, 0x10, 0x100, module.strip("[]") or None)


def frames(*texts: str) -> list[Frame]:
    return [frame(text) for text in texts]


def facts(pages: int = 0, **more: object) -> Facts:
    zone = Zone(0, 0, "Normal", 0, pages, pages, pages)
    known: dict[str, object] = {"release": "6.12.0", "hostname": "host", "arch": "x86_64"}
    known |= {"page_size": PAGE, "max_page_order": 3, "pageblock_order": ORDER, "now_ns": NOW}
    known |= {"zones": (zone,), "max_pfn": pages, **more}
    return Facts(**known)  # type: ignore[arg-type]


@dataclass
class Record:
    """A record of page_owner."""

    pfn: int
    stack: Sequence[str]
    """Frames, innermost first, as arguments of :func:`frame`."""
    order: int = 0
    ts_nsec: int = SECOND
    pid: int = 1
    comm: bytes = b"init"
    migratetype: int = UNMOVABLE
    gfp_mask: int = 0xCC0
    page_flags: int = 0


def snapshot(*records: Record, times: bool = True, known: Facts | None = None) -> Snapshot:
    """
    Return a snapshot of allocated records. Distinct stacks have the handles 1, 2, ...

    :param times: Whether this kernel records times, pids and task names.
    """
    numbers: dict[tuple[str, ...], int] = {}
    handles = [numbers.setdefault(tuple(r.stack), len(numbers) + 1) for r in records]
    named = [[frame(text) for text in stack] for stack in numbers]
    columns: dict[str, Array] = {
        "pfn": np.array([r.pfn for r in records], np.int64),
        "order": np.array([r.order for r in records], np.uint8),
        "handle": np.array(handles, np.uint32),
        "gfp_mask": np.array([r.gfp_mask for r in records], np.uint32),
        "migratetype": np.array([r.migratetype for r in records], np.uint8),
        "page_flags": np.array([r.page_flags for r in records], np.uint64),
        "allocated": np.ones(len(records), bool),
    }
    if times:
        columns["ts_nsec"] = np.array([r.ts_nsec for r in records], np.uint64)
        columns["pid"] = np.array([r.pid for r in records], np.int32)
        columns["comm"] = np.array([r.comm for r in records], "S16")
    return Snapshot(
        facts=known or facts(),
        names=NAMES,
        columns=columns,
        stacks=Stacks(
            np.arange(1, len(numbers) + 1, dtype=np.uint32),
            np.cumsum([0, *(len(stack) for stack in named)]).astype(np.int64),
            np.array([f.pc for stack in named for f in stack], np.uint64),
        ),
        _frames={f.pc: f for stack in named for f in stack},
    )


@dataclass
class Machine:
    """The memory of a machine: one character per page, a key of :data:`STATES`."""

    pages: str
    blocks: Sequence[int] = ()
    """Migratetype of every pageblock; missing ones are Movable."""
    watermarks: tuple[int, int, int] = (1, 2, 3)
    free: Mapping[int, int] = field(default_factory=dict)
    """First page of a free block -> its order; single free pages can be left out."""
    lowmem_reserve: Sequence[int] = (0,)
    extfrag_threshold: int = 500

    def memory(self) -> Memory:
        state = np.array([STATES[c] for c in self.pages], np.uint8)
        number = len(state)
        order = np.full(number, -1, np.int8)
        covered = np.zeros(number, bool)
        for first, size in self.free.items():
            order[first] = size
            covered[first : first + (1 << size)] = True
        order[(state == PageState.FREE) & ~covered] = 0
        heads = np.flatnonzero(order >= 0)
        known = facts(number)
        count = -(-number >> ORDER)
        blocks = [*self.blocks, *[MOVABLE] * (count - len(self.blocks))]
        return Memory(
            pages=Pages(
                facts=known,
                names=NAMES,
                starts=np.array([0]),
                offsets=np.array([0, number]),
                columns={
                    "state": state,
                    "zone": np.zeros(number, np.uint8),
                    "free_order": order,
                    "flags": np.zeros(number, np.uint64),
                    "refcount": np.ones(number, np.int32),
                    "mapcount": np.full(number, -1, np.int32),
                    "mapping": np.zeros(number, np.uint64),
                    "head": np.arange(number),
                },
            ),
            free=FreeLists(
                row=heads,
                order=order[heads],
                zone=np.zeros(len(heads), np.uint8),
                migratetype=np.array([blocks[h >> ORDER] for h in heads.tolist()], np.int8),
                pcp=np.zeros(len(heads), bool),
            ),
            zones=(
                ZoneStats(
                    populated=True,
                    nr_free=np.bincount(order[heads], minlength=4).tolist(),
                    free_pages=int((state == PageState.FREE).sum()),
                    free_cma=0,
                    watermarks=self.watermarks,
                    watermark_boost=0,
                    nr_reserved_highatomic=0,
                    lowmem_reserve=self.lowmem_reserve,
                    pcp=int((state == PageState.FREE_PCP).sum()),
                ),
            ),
            pageblocks=np.array(blocks, np.int8),
            zonelists={0: (0,)},
            extfrag_threshold=self.extfrag_threshold,
        )

    def inventory(
        self,
        *records: Record,
        areas: Sequence[Area] = (),
        modules: Sequence[str] = (),
        tasks: Mapping[int, str] | None = None,
        counters: Mapping[str, int] | None = None,
        times: bool = True,
    ) -> Inventory:
        memory = self.memory()
        recorded = snapshot(*records, times=times, known=memory.pages.facts)
        number = len(memory.pages)
        return Inventory(
            memory=memory,
            records=recorded,
            record_of_row=record_of_row(memory.pages, recorded),
            slabs=no_slabs(),
            areas=areas,
            metadata=np.zeros(number, np.uint8),
            buffers=np.zeros(number, bool),
            modules=modules,
            tasks=tasks or {},
            counters=counters or {},
        )


STATES = {
    ".": PageState.FREE,
    "p": PageState.FREE_PCP,
    "k": PageState.KERNEL,
    "n": PageState.NOREF,
    "s": PageState.SLAB,
    "a": PageState.ANON,
    "f": PageState.FILE,
    "r": PageState.RESERVED,
    "t": PageState.TABLE,
    "?": PageState.UNKNOWN,
    " ": PageState.ABSENT,
}


def no_slabs() -> Slabs:
    empty = np.zeros(0, np.int64)
    return Slabs(
        caches=(),
        cache=np.zeros(0, np.int32),
        row=empty,
        pages=empty,
        first=empty,
        stride=empty,
        size=empty,
        objects=empty,
        start=np.zeros(1, np.int64),
        allocated=np.zeros(0, bool),
        sheaves=np.zeros(0, np.uint64),
    )


def heap(
    inventory: Inventory,
    edges: Sequence[tuple[int, int]],
    *,
    numbers: Sequence[tuple[int, int]] = (),
    bookkeeping: Sequence[int] = (),
    missing: int = 0,
) -> Heap:
    """
    Return a graph of the records and one root, which is the last node.

    :param edges: ``(holder, target)``; -1 is the root.
    :param numbers: The same for words that contain a PFN.
    """
    assert inventory.records is not None
    root = len(inventory.records)
    pairs = sorted((root if a < 0 else a, b) for a, b in edges)
    known = [(root if a < 0 else a, b) for a, b in numbers]
    return Heap(
        inventory=inventory,
        records=inventory.records,
        roots=("kernel image",),
        holder=np.array([a for a, _ in pairs], np.int32),
        target=np.array([b for _, b in pairs], np.int32),
        bookkeeping=np.array(bookkeeping, np.int32),
        pfn_holder=np.array([a for a, _ in known], np.int32),
        pfn_target=np.array([b for _, b in known], np.int32),
        pfn_offset=np.full(len(known), -1, np.int32),
        pages_missing=missing,
    )
