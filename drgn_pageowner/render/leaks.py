# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render leaks as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drgn_pageowner.analysis.leaks.leaks import LeakGroup, Leaks, SlabLeak, Task
from drgn_pageowner.analysis.leaks.suspects import Suspect
from drgn_pageowner.escape import word
from drgn_pageowner.model.fingerprint import Fingerprint
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.render.table import ages, pages_size

__all__ = ("leaks_text", "pfns_text", "suspects_text", "tasks_text")

_PFNS = 8


def leaks_text(result: Leaks, facts: Facts, limit: int | None) -> Iterator[str]:
    """Yield the totals in one line, then one paragraph per group."""
    size = facts.page_size
    yield (
        f"{result.lost_allocations:,} allocations of {result.lost_pages:,} pages "
        f"({pages_size(result.lost_pages * size)}) are reached from no root; "
        f"{result.by_number_allocations:,} ({result.by_number_pages:,} pages) are known only by "
        f"PFN, {result.reachable_allocations:,} ({result.reachable_pages:,} pages) are reachable\n"
    )
    if result.holes is not None:
        yield f"not all of memory could be searched, so these may be held: {result.holes}\n"
    for group in result.groups[:limit]:
        yield "\n"
        yield from _group(group, result, facts)
    if limit is not None and len(result.groups) > limit:
        yield f"\n{limit} of {len(result.groups)} groups shown (--limit 0: all)\n"
    if result.slab is not None:
        yield from _slab(result.slab, limit)


def _group(group: LeakGroup, result: Leaks, facts: Facts) -> Iterator[str]:
    yield (
        f"{group.verdict}: {group.pages:,} pages ({pages_size(group.bytes)}) in "
        f"{group.allocations:,} of {group.of_stack:,} allocations of {group.allocator}\n"
    )
    yield f"  confidence: {group.confidence}: {'; '.join(group.reasons)}\n"
    if result.now_ns is not None and group.oldest_ns is not None:
        yield f"  age: {ages(group.oldest_ns, group.newest_ns, result.now_ns)}\n"
    if group.tasks:
        yield f"  by: {tasks_text(group.tasks)}\n"
    gone = [name for name, loaded in group.modules.items() if not loaded]
    if gone or group.module_gone:
        yield f"  module gone: {', '.join(gone) if gone else 'frames without a symbol'}\n"
    if group.tag is not None:
        yield f"  tag: {word(group.tag)}\n"
    yield f"  pages: {pfns_text(group.pfns)}\n"
    if group.fingerprint is not None:
        yield from _content(group.fingerprint, group.allocations, dump=not group.stack)
    yield from (f"    {frame}\n" for frame in group.stack)


def _content(found: Fingerprint, number: int, *, dump: bool) -> Iterator[str]:
    """
    Yield what the content of memory says of its owner.

    :param number: How many allocations or objects there are.
    :param dump: Whether to dump the first bytes of an example.
    """
    share = f" ({found.shared:,} of {number:,})" if found.shared < number else ""
    yield f"  content: {word(found.text)}{share}, such as {found.example:#x}\n"
    if not dump or found.zero:
        return
    data = bytes.fromhex(found.bytes)
    for offset in range(0, len(data), 16):
        row = data[offset : offset + 16]
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"    {offset:04x}  {row.hex(' ', 4):35}  {letters}\n"


def tasks_text(tasks: Sequence[Task]) -> str:
    """Format the tasks that allocated, those with most allocations first."""
    return ", ".join(
        f"{word(task.comm) if task.comm else 'pid'} {task.pid} ({task.allocations:,}{_fate(task)})"
        for task in tasks[:4]
    )


def _fate(task: Task) -> str:
    if not task.alive:
        return ", gone"
    return f", now {task.now}" if task.now is not None else ""


def pfns_text(pfns: Sequence[int]) -> str:
    """Format the first PFNs, as other commands accept them, and the number of the rest."""
    shown = " ".join(f"pfn:{pfn:#x}" for pfn in pfns[:_PFNS])
    return f"{shown} and {len(pfns) - _PFNS:,} more" if len(pfns) > _PFNS else shown


def _slab(leaks: Sequence[SlabLeak], limit: int | None) -> Iterator[str]:
    total = sum(leak.objects for leak in leaks)
    yield f"\n{total:,} slab objects are reached from no root\n"
    for leak in leaks[:limit]:
        yield (
            f"\n{leak.verdict}: {leak.objects:,} objects ({pages_size(leak.bytes)}) of "
            f"{word(leak.cache)}\n"
        )
        yield f"  objects: {' '.join(f'{address:#x}' for address in leak.addresses[:4])}"
        rest = len(leak.addresses) - 4
        yield f" and {rest:,} more\n" if rest > 0 else "\n"
        if leak.tag is not None:
            yield f"  tag: {word(leak.tag)}\n"
        if leak.memcgs:
            paths = (f"{word(path)} ({count:,})" for path, count in leak.memcgs.items())
            yield f"  charged to: {', '.join(paths)}\n"
        if leak.fingerprint is not None:
            known = leak.tag is not None or leak.stack is not None
            yield from _content(leak.fingerprint, leak.objects, dump=not known)
        if leak.stack is None:
            continue
        if leak.pids:
            yield f"  by: pid {', '.join(map(str, leak.pids[:8]))}\n"
        yield from (f"    {frame}\n" for frame in leak.stack)


def suspects_text(found: Sequence[Suspect], facts: Facts, limit: int | None) -> Iterator[str]:
    """Yield one paragraph per stack, those with most reasons first."""
    yield f"{len(found):,} stacks look like leaks; this is no proof (leaks without --suspects)\n"
    for suspect in found[:limit]:
        yield (
            f"\n{suspect.pages:,} pages ({pages_size(suspect.bytes)}) in "
            f"{suspect.allocations:,} allocations of {suspect.allocator}\n"
        )
        yield f"  reasons: {'; '.join(suspect.reasons)}\n"
        if facts.now_ns is not None and suspect.oldest_ns is not None:
            yield f"  age: {ages(suspect.oldest_ns, suspect.newest_ns, facts.now_ns)}\n"
        if suspect.pages_per_hour is not None:
            yield f"  growth: {suspect.pages_per_hour:,.0f} pages an hour\n"
        if suspect.tasks:
            yield f"  by: {tasks_text(suspect.tasks)}\n"
        yield from (f"    {frame}\n" for frame in suspect.stack)
    if limit is not None and len(found) > limit:
        yield f"\n{limit} of {len(found)} shown (--limit 0: all)\n"
