# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fragmentation for people: zones, contiguity, culprits, CMA areas, one block, one allocation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from drgn_pageowner.analysis.frag.alloc_check import AllocCheck, AllocVerdict
from drgn_pageowner.analysis.frag.blocks import Run
from drgn_pageowner.analysis.frag.cma import CmaReport
from drgn_pageowner.analysis.frag.contiguity import Blocker, Contiguity
from drgn_pageowner.analysis.frag.culprits import Culprit, Culprits
from drgn_pageowner.analysis.frag.mobility import Mobility
from drgn_pageowner.analysis.frag.zone_summary import ZoneSummary
from drgn_pageowner.analysis.owners.allocator import without_offset
from drgn_pageowner.escape import word
from drgn_pageowner.model.kernel import Facts, Names
from drgn_pageowner.render.table import age, ages, are, counted, pages_size, share, table
from drgn_pageowner.render.text import comm_text, gfp_text, name_at

_UNMOVABLE = Mobility.UNMOVABLE.label

__all__ = (
    "alloc_check_text",
    "cma_text",
    "contiguity_text",
    "culprits_text",
    "explain_text",
    "summary_text",
)


def summary_text(zones: Sequence[ZoneSummary], facts: Facts) -> Iterator[str]:
    """Yield one line per zone with its verdict, then the numbers."""
    for zone in zones:
        yield f"node {zone.node}, zone {zone.zone}: {zone.verdict}\n"
    yield "\n"
    rows = [
        (zone.node, zone.zone, f"{zone.managed:,}", f"{zone.free:,}",
         share(zone.free, zone.managed), "/".join(map(str, zone.watermarks)), zone.pcp,
         zone.nr_reserved_highatomic,
         f"{zone.free_cma:,}", f"{zone.largest_free_run:,}", f"{zone.unusable / 1000:.3f}")
        for zone in zones
    ]  # fmt: skip
    headers = ("node", "zone", "managed", "free", "free %", "min/low/high", "per-CPU",
               "high-atomic", "free CMA", "largest run", "unusable")  # fmt: skip
    yield table(rows, headers, right=(0, 2, 3, 4, 5, 6, 7, 8, 9, 10)) + "\n"
    yield "free blocks by order\n"
    types = [(zone, name, counts) for zone in zones for name, counts in zone.free_by_type.items()
             if any(counts)]  # fmt: skip
    orders = [str(order) for order in range(facts.max_page_order + 1)]
    rows_ = [(zone.node, zone.zone, name, *counts) for zone, name, counts in types]
    yield table(rows_, ("node", "zone", "type", *orders), right=(0, *range(3, 3 + len(orders))))
    yield "\npageblocks\n"
    blocks = [
        (zone.node, zone.zone, name, count,
         "-" if zone.mixed is None else zone.mixed[name])
        for zone in zones
        for name, count in zone.pageblocks.items()
        if count
    ]  # fmt: skip
    yield table(blocks, ("node", "zone", "type", "blocks", "mixed"), right=(0, 3, 4))
    polluted = [
        f"{zone.polluted} in {zone.zone} of node {zone.node}" for zone in zones if zone.polluted
    ]
    if polluted:
        yield (
            f"\nMovable and CMA pageblocks with unmovable pages in them: {', '.join(polluted)} "
            "(frag culprits says whose)\n"
        )


def _block_size(order: int, facts: Facts) -> str:
    return pages_size(facts.page_size << order)


def contiguity_text(result: Contiguity, facts: Facts) -> Iterator[str]:
    """Yield the aligned blocks of every size, and the owners of unmovable pages in them."""
    yield from _contiguity_headline(result, facts)
    rows = [
        (_block_size(size.order, facts), size.order,
         "all" if size.zone is None else f"{size.zone} of node {size.node}",
         size.blocks, size.free, size.movable, size.blocked, size.unknown,
         *size.blocked_by, f"{size.in_the_way:,}", f"{size.for_half:,}")
        for size in result.sizes
    ]  # fmt: skip
    headers = ("block", "order", "zone", "blocks", "free", "movable", "blocked", "unknown",
               "by 1 page", "by 2-8 pages", "by 9-64 pages", "by more pages", "unmovable pages",
               "pages to free half")  # fmt: skip
    yield table(rows, headers, right=(0, 1, *range(3, 14)), keys=3) + "\n"
    for title, blockers in (("kind", result.kinds), ("allocator", result.allocators)):
        yield f"blocked by {title}\n"
        yield _blockers_table(blockers, title, facts) + "\n"


def _contiguity_headline(result: Contiguity, facts: Facts) -> Iterator[str]:
    """Yield a sentence with the number of blocks of a pageblock's size that are blocked."""
    for size in result.sizes:
        if size.zone is None and size.order == facts.pageblock_order:
            yield (
                f"{size.blocked:,} of {counted(size.blocks, 'block')} of "
                f"{_block_size(size.order, facts)} {'has' if size.blocked == 1 else 'have'} "
                f"unmovable pages; {size.free:,} {are(size.free)} free, "
                f"{size.movable:,} could be emptied\n\n"
            )


def _blockers_table(blockers: Sequence[Blocker], title: str, facts: Facts) -> str:
    rows = [
        (_block_size(b.order, facts), b.blocks, b.only_blocker, f"{b.pages:,}",
         "-" if b.handle is None else b.handle, b.name)
        for b in blockers
    ]  # fmt: skip
    return table(
        rows,
        ("block", "blocks", "only blocker", "pages", "handle", title),
        right=range(5),
        spare=("handle",),
    )


def culprits_text(result: Culprits, facts: Facts, *, stacks: bool) -> Iterator[str]:
    """
    Yield the owners of unmovable pages, those in most pageblocks first.

    :param stacks: Whether to show whole stacks.
    """
    verb = "holds" if result.blocked == 1 else "hold"
    yield f"{result.blocked:,} of {counted(result.blocks, 'pageblock')} {verb} unmovable pages\n\n"
    yield from _culprits(result.blocking, facts, stacks, "in movable")
    if result.reverse:
        yield "\nmovable pages in Unmovable and Reclaimable pageblocks\n\n"
        yield from _culprits(result.reverse, facts, stacks, "")


def _culprits(found: Sequence[Culprit], facts: Facts, stacks: bool, column: str) -> Iterator[str]:
    rows = []
    for culprit in found:
        owner = without_offset(culprit.allocator)
        if stacks:
            owner = "\n".join(map(str, culprit.stack)) or owner
        row = [culprit.blocks, culprit.only_blocker, f"{culprit.pages:,}"]
        if column:
            row.append(f"{culprit.in_movable:,}")
        span = ages(culprit.oldest_ns, culprit.newest_ns, facts.now_ns)
        rows.append([*row, span, culprit.kind, culprit.handle or "-", owner])
    headers = ["blocks", "only blocker", "pages", *([column] if column else [])]
    yield table(
        rows,
        [*headers, "age", "kind", "handle", "allocator"],
        right=range(len(headers)),
        spare=("handle", "kind"),
    )


def explain_text(block: int, runs: Sequence[Run], facts: Facts) -> Iterator[str]:
    """Yield the contents of one pageblock, in PFN order."""
    first = block << facts.pageblock_order
    yield f"pageblock {block}: pfn {first:#x} to {first + (1 << facts.pageblock_order) - 1:#x}\n"
    yield f"{_mobilities(runs)}\n\n"
    rows = [
        (f"pfn:{run.pfn:#x}", sum(r.pages for r in alike), "-" if run.order is None else run.order,
         run.state, run.mobility, run.migratetype or "-", age(run.age_ns),
         "-" if run.comm is None else f"{word(comm_text(run.comm))} ({run.pid})",
         run.handle or "-", run.allocator or "-")
        for alike in _alike(runs)
        for run in alike[:1]
    ]  # fmt: skip
    headers = ("pfn", "pages", "order", "state", "mobility", "asked for", "age", "task", "handle",
               "allocator")  # fmt: skip
    yield table(rows, headers, right=(1, 2, 6), spare=("handle", "asked for"))


def _mobilities(runs: Sequence[Run]) -> str:
    """
    Return a sentence with the number of pages of every mobility, and the kinds of the unmovable
    pages, most first.
    """
    pages: Counter[str] = Counter()
    unmovable: Counter[str] = Counter()
    for run in runs:
        pages[run.mobility] += run.pages
        if run.mobility == _UNMOVABLE:
            unmovable[run.state] += run.pages
    parts = []
    for mobility, number in pages.most_common():
        states = ", ".join(f"{count:,} {state}" for state, count in unmovable.most_common())
        parts.append(f"{number:,} {mobility}" + (f" ({states})" * (mobility == _UNMOVABLE)))
    return f"{counted(sum(pages.values()), 'page')}: {', '.join(parts)}"


def _alike(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Group adjacent allocations by the same stack and task; each group is printed on one line."""
    for _, group in groupby(runs, lambda r: (r.state, r.order, r.handle, r.comm, r.pid)):
        yield list(group)


def alloc_check_text(check: AllocCheck, names: Names) -> Iterator[str]:
    """Yield whether the allocation would succeed, why not, and the blocks cheapest to free."""
    what = f"order {check.order}, {gfp_text(check.gfp_mask, names)} ({check.migratetype})"
    words = {
        AllocVerdict.SUCCEEDS: "would succeed",
        AllocVerdict.WAKES_KSWAPD: "would succeed, and wake kswapd",
        AllocVerdict.RECLAIMS_FIRST: (
            "would succeed only when reclaim and compaction did not help: until then "
            "vm.defrag_mode keeps it out of pageblocks of other types"
        ),
        AllocVerdict.FRAGMENTATION: (
            "would fail: fragmentation. There is memory, but in pieces too small"
        ),
        AllocVerdict.WATERMARK: (
            "would fail: watermark. A block is free, but must be kept in reserve"
        ),
        AllocVerdict.TOO_LITTLE: "would fail: too little memory",
    }
    yield f"{what}: {words[check.verdict]}\n\n"
    rows = [
        (z.node, z.zone, z.verdict, f"{z.free:,}", f"{z.usable:,}", f"{z.minimum:,}", f"{z.low:,}",
         f"{z.lowmem_reserve:,}", "yes" if z.block else "no", f"{z.index / 1000:.3f}")
        for z in check.zones
    ]  # fmt: skip
    headers = ("node", "zone", "verdict", "free", "usable", "min", "low", "reserve", "block",
               "index")  # fmt: skip
    yield table(rows, headers, right=(0, 3, 4, 5, 6, 7, 9))
    if check.verdict in (AllocVerdict.SUCCEEDS, AllocVerdict.WAKES_KSWAPD) or not check.cheapest:
        return
    yield "\ncheapest blocks to free\n"
    cheap = [
        (f"pfn:{b.pfn:#x}", b.node, b.zone, b.free, b.movable, b.unmovable,
         "\n".join(f"{pages} of {name}" + (f" (handle {handle})" if handle else "")
                   for name, handle, pages in b.owners[:5]) or "-")
        for b in check.cheapest
    ]  # fmt: skip
    headers_ = ("pfn", "node", "zone", "free", "movable", "unmovable", "in the way")
    yield table(cheap, headers_, right=(1, 3, 4, 5))


def cma_text(reports: Sequence[CmaReport], names: Names) -> Iterator[str]:
    """Yield every CMA area, and the pages that cannot be migrated out of it."""
    if not reports:
        yield "this kernel has no CMA area\n"
        return
    for r in reports:
        yield (
            f"{r.name}: {r.allocated:,} of {counted(r.pages, 'page')} {are(r.allocated)} taken, "
            f"{len(r.stuck):,} cannot be migrated out; at most "
            f"{counted(r.longest_allocatable_run, 'page')} in a row can be had now\n"
        )
    yield "\n"
    rows = [
        (r.name, f"pfn:{r.start_pfn:#x}", f"{r.pages:,}", f"{r.allocated:,}", f"{r.free:,}",
         f"{r.lent:,}", f"{r.movable:,}", f"{r.longest_bitmap_run:,}",
         f"{r.longest_allocatable_run:,}", len(r.stuck))
        for r in reports
    ]  # fmt: skip
    headers = ("area", "start", "pages", "taken", "free", "lent", "movable", "longest not taken",
               "longest to be had", "stuck")  # fmt: skip
    yield table(rows, headers, right=range(2, 10), spare=("start",))
    stuck = [
        (r.name, f"pfn:{page.pfn:#x}", ", ".join(page.why), page.state, page.refcount,
         page.mapcount, _reason(page.last_migrate_reason, names), age(page.age_ns),
         page.handle or "-", without_offset(page.allocator or "-"))
        for r in reports
        for page in r.stuck
    ]  # fmt: skip
    if stuck:
        yield "\npages that cannot be migrated\n"
        heads = ("area", "pfn", "why", "state", "references", "mappings", "last migrated for",
                 "age", "handle", "allocator")  # fmt: skip
        spare = ("handle", "state", "last migrated for", "mappings")
        yield table(stuck, heads, right=(4, 5, 7), spare=spare, keys=2)


def _reason(reason: int | None, names: Names) -> str:
    return "-" if reason is None else name_at(names.migrate_reasons, reason)
