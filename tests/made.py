# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ten records of a fictitious kernel, for tests that need neither a dump nor drgn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from drgn_pageowner.model.columns import STORED
from drgn_pageowner.model.kernel import BitField, Facts, Names, Zone
from drgn_pageowner.model.records import Memcg, Snapshot, Summing
from drgn_pageowner.model.stacks import Frame, Stacks
from drgn_pageowner.model.tags import Tag, Tags

__all__ = ("NOW_NS", "SECOND", "MadeSession", "made_records")

SECOND = 10**9
NOW_NS = 100 * SECOND

ZONES = (
    Zone(0, 0, "DMA32", 0, 0x1000, 0x1000, 0x1000),
    Zone(0, 1, "Normal", 0x1000, 0x1000, 0x1000, 0x1000),
    Zone(1, 1, "Normal", 0x2000, 0x1000, 0x1000, 0x1000),
)

NAMES = Names(
    gfp_flags=((0xCC0, "GFP_KERNEL"), (0x100, "__GFP_ZERO"), (0x8, "__GFP_MOVABLE")),
    page_flags=((1 << 5, "lru"), (1 << 8, "slab")),
    page_flag_fields=(BitField("node", 62, 2, 10),),
    page_flags_mask=(1 << 10) - 1,
    migratetypes=("Unmovable", "Movable", "Reclaimable", "CMA"),
    migrate_reasons=("compaction", "memory_failure"),
)

FUNCTIONS = {
    0x1000: ("__alloc_pages", None),
    0x2000: ("new_slab", None),
    0x3000: ("kmalloc", None),
    0x4000: ("vfs_write", None),
    0x5000: ("nft_set_init", "nf_tables"),
    0x6000: ("do_anonymous_page", None),
    0x7000: ("vmalloc_area_node", None),
}

# Handle -> PCs, innermost first.
STACKS = {
    11: (0x1010, 0x6020),
    22: (0x1010, 0x2010, 0x3010, 0x5010, 0x4010),
    33: (0x1010, 0x7010, 0x5020),
    44: (0x1010, 0x2010, 0x3010, 0x4020),
}

MEMCGS = (Memcg("alpha", "/alpha", True, 1), Memcg("beta", "/x/beta", True, 2))

TAGS = (
    Tag("init/main.c", 10, None, "kernel_init"),
    Tag("fs/read_write.c", 20, None, "vfs_write"),
    Tag("net/netfilter/nft_set.c", 30, "nf_tables", "nft_set_init"),
)

NAMED = (
    "pfn", "order", "gfp_mask", "migratetype", "pageblock_migratetype", "page_flags", "node",
    "zone", "pid", "tgid", "comm", "ts_nsec", "free_ts_nsec", "handle", "allocated",
    "last_migrate_reason", "memcg", "memcg_kind", "free_pid", "free_tgid", "free_handle",
)  # fmt: skip
# Times are in seconds.
ROWS: tuple[tuple[Any, ...], ...] = (
    (0x0100, 0, 0x0CC0, 0, 0, 0x100, 0, 0, 1, 1, b"init", 1, 0, 22, True, -1, -1, 0, 0, 0, 0),
    (0x0110, 4, 0x0CC0, 0, 0, 0x100, 0, 0, 1, 1, b"init", 2, 0, 22, True, -1, -1, 0, 0, 0, 0),
    (0x0200, 0, 0x0CC8, 1, 1, 0x020, 0, 0, 70, 7, b"sh", 30, 9, 11, True, 0, 0, 1, 1, 1, 33),
    (0x0201, 0, 0x0CC8, 1, 1, 0x020, 0, 0, 71, 7, b"sh", 40, 9, 11, True, 1, 0, 1, 1, 1, 33),
    (0x1000, 3, 0x0DC0, 0, 0, 0x000, 0, 1, 9, 9, b"kworker/0", 50, 0, 33, True, -1, 1, 1, 0, 0, 0),
    (0x1008, 0, 0x0DC0, 0, 0, 0x000, 0, 1, 9, 9, b"kworker/0", 50, 0, 33, True, -1, 1, 1, 0, 0, 0),
    (0x1010, 0, 0x0CC0, 0, 3, 0x000, 0, 1, 9, 9, b"kworker/1", 95, 0, 33, True, -1, -1, 0, 0, 0, 0),
    (0x2000, 1, 0x0CC0, 2, 2, 0x100, 1, 1, 12, 12, b"\xffoo", 99, 0, 44, True, -1, -1, 0, 0, 0, 0),
    (0x2002, 0, 0x0CC0, 2, -1, 0x100, 1, 1, 12, 12, b"\xffoo", 99, 0, 0, True, -1, -1, 0, 0, 0, 0),
    (0x2004, 0, 0x0CC0, 0, 2, 0x000, 1, 1, 70, 7, b"sh", 60, 70, 11, False, -1, -1, 0, 71, 7, 44),
)


class _Symbols:
    """A ``Symbolizer`` for :data:`FUNCTIONS`, each of which has 0x100 bytes."""

    def symbolize(self, pcs: Any) -> list[Frame]:
        return [self._frame(pc) for pc in pcs.tolist()]

    def _frame(self, pc: int) -> Frame:
        name, module = FUNCTIONS[pc & ~0xFF]
        return Frame(pc, name, pc & 0xFF, 0x100, module)


def made_records(*without: str) -> Snapshot:
    """
    Return the ten records: nine of allocated pages, and one of a page that was freed.

    :param without: Columns that this kernel does not record.
    """
    columns = {
        name: np.array(values, STORED[name].dtype)
        for name, values in zip(NAMED, zip(*ROWS, strict=True), strict=True)
        if name not in without
    }
    for name in ("ts_nsec", "free_ts_nsec"):
        if name in columns:
            columns[name] *= np.uint64(SECOND)
    if "tag" not in without:
        columns["tag"] = np.array([0, 0, 1, 1, 2, 2, 2, -1, -1, 1], STORED["tag"].dtype)
    offsets = np.cumsum([0, *(len(pcs) for pcs in STACKS.values())])
    pcs = np.array([pc for stack in STACKS.values() for pc in stack], np.uint64)
    return Snapshot(
        facts=Facts(
            release="6.99",
            page_size=4096,
            max_page_order=10,
            pageblock_order=9,
            max_pfn=0x3000,
            now_ns=NOW_NS,
            zones=ZONES,
        ),
        names=NAMES,
        columns=columns,
        stacks=Stacks(np.array(list(STACKS), np.uint32), offsets, pcs),
        symbolizer=_Symbols(),
        memcgs=MEMCGS,
        coverage={},
        problems=[],
        tags=None if "tag" in without else made_tags(),
    )


def made_tags() -> Tags:
    """Return three tags, one of them of a module."""
    return Tags(
        TAGS,
        np.array([17 << 12, 2 << 12, 10 << 12], np.int64),
        np.array([2, 2, 3], np.int64),
        np.array([False, True, False]),
        "2.0",
        np.ones(3, bool),
        np.ones(3, bool),
    )


class MadeSession:
    """A session with only the ten records."""

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        records = made_records()
        return records if freed else records.select(records["allocated"])

    def record_parts(
        self,
        columns: Iterable[str] | None,
        *,
        freed: bool = False,
        summing: Summing | None = None,
    ) -> Iterator[Snapshot]:
        yield self.snapshot(columns, freed=freed)
