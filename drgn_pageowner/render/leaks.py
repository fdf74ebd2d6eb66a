# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render leaks as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from drgn_pageowner.analysis.leaks.leaks import LeakGroup, Leaks, SlabLeak, Task
from drgn_pageowner.analysis.leaks.owners import CONFIDENCES, LeakOwner, leak_owners
from drgn_pageowner.analysis.leaks.suspects import Suspect
from drgn_pageowner.analysis.owners.allocator import allocator_of, without_offset
from drgn_pageowner.escape import word
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.render.fingerprint import fingerprint_text
from drgn_pageowner.render.table import ages, are, counted, pages_size, table

__all__ = ("leaks_text", "pfns_text", "suspects_text", "tasks_text")

_PFNS = 8
# Owners that are none, of LEAK_KEYS.
_UNKNOWN = {"(unknown)", "(no tag)"}


def leaks_text(
    result: Leaks,
    owners: Sequence[LeakOwner],
    facts: Facts,
    limit: int | None,
    *,
    stacks: bool = False,
    by: str = "allocator",
) -> Iterator[str]:
    """
    Yield the answer in one line, then one line per owner.

    :param owners: The owners to list: all or some groups of *result*, summed up.
    :param by: The key of ``LEAK_KEYS`` by which they are summed up.
    :param stacks: Whether to describe the groups of each owner, with their stacks.
    """
    yield _headline(result, facts, by)
    if result.holes is not None:
        yield f"not all of memory could be searched, so these may be held: {result.holes}\n"
    every = leak_owners(result.groups, by)
    if len(owners) < len(every):
        yield (
            f"{len(owners):,} of {counted(len(every), _noun(by))} "
            f"{'matches' if len(owners) == 1 else 'match'}, with "
            f"{counted(sum(owner.pages for owner in owners), 'page')}\n"
        )
    shown = owners[:limit]
    if shown:
        yield "\n"
        yield _owners_table(shown, result)
    if limit is not None and len(owners) > limit:
        yield f"\n{limit} of {len(owners)} owners shown (--limit 0: all)\n"
    if stacks:
        for number, owner in enumerate(shown, 1):
            for group in owner.groups:
                yield f"\n#{number} "
                yield from _group(group, result, facts)
    elif shown:
        yield "\n--stacks or a number shows stacks, tasks and PFNs (leaks 1)\n"
    if result.slab is not None:
        yield from _slab(result.slab, limit, stacks=stacks)


def _noun(by: str) -> str:
    return "owner" if by == "allocator" else by


def _headline(result: Leaks, facts: Facts, by: str) -> str:
    """Return a sentence with the amount of lost memory, the number of owners and the confidence."""
    lost = leak_owners(result.lost_groups, by)
    known = (
        f"{counted(result.by_number_pages, 'page')} {are(result.by_number_pages)} known only by "
        f"PFN, {counted(result.reachable_pages, 'page')} {are(result.reachable_pages)} reachable"
    )
    if result.slab is not None:
        objects = sum(leak.objects for leak in result.slab)
        size = pages_size(sum(leak.bytes for leak in result.slab))
        known += f"; {counted(objects, 'slab object')} ({size}) {are(objects)} reached from no root"
    if not result.lost_pages:
        return f"no page is lost. {known}\n"
    verb = "may be" if result.holes is not None else are(result.lost_pages)
    sure = []
    for confidence in CONFIDENCES:
        pages = sum(g.pages for g in result.lost_groups if g.confidence == confidence)
        if pages:
            sure.append(f"{confidence} for {pages:,}")
    owners = f", by {counted(len(lost), _noun(by))}"
    if {owner.owner for owner in lost} <= _UNKNOWN:
        owners = f"; no {_noun(by)} of them is known"
    return (
        f"{counted(result.lost_pages, 'page')} "
        f"({pages_size(result.lost_pages * facts.page_size)}) in "
        f"{counted(result.lost_allocations, 'allocation')} {verb} lost"
        f"{owners}; confidence: {', '.join(sure)}. {known}\n"
    )


# Short forms of verdicts, for tables.
_SHORT = {
    "only reachable from unreachable": "behind unreachable",
    "held by nothing but itself": "ring",
    "known only by PFN": "PFN only",
}


def _owner_text(owner: LeakOwner) -> str:
    gone = owner.owner.startswith("0x") and all(group.module_gone for group in owner.groups)
    return word(owner.owner) + " (unloaded)" * gone


def _owners_table(owners: Sequence[LeakOwner], result: Leaks) -> str:
    rows = [
        [
            number,
            f"{owner.pages:,}",
            pages_size(owner.bytes),
            f"{owner.allocations:,}",
            _SHORT.get(owner.verdict, owner.verdict)
            + (f" +{owner.verdicts - 1}" if owner.verdicts > 1 else ""),
            owner.confidence,
            _owner_text(owner),
            ages(owner.oldest_ns, owner.newest_ns, result.now_ns),
        ]
        for number, owner in enumerate(owners, 1)
    ]
    headers = ["#", "pages", "size", "allocations", "verdict", "confidence", "owner", "age"]
    spare = ("size", "allocations", *["age"] * all(owner.oldest_ns is None for owner in owners))
    return table(rows, headers, right=(0, 1, 2, 3), spare=spare)


def _group(group: LeakGroup, result: Leaks, facts: Facts) -> Iterator[str]:
    yield (
        f"{group.verdict}: {counted(group.pages, 'page')} ({pages_size(group.bytes)}) in "
        f"{group.allocations:,} of {counted(group.of_stack, 'allocation')} of {group.allocator}\n"
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
        yield from fingerprint_text(group.fingerprint, group.allocations, dump=not group.stack)
    yield from (f"    {frame}\n" for frame in group.stack)


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


def _slab(leaks: Sequence[SlabLeak], limit: int | None, *, stacks: bool) -> Iterator[str]:
    total = sum(leak.objects for leak in leaks)
    yield f"\n{counted(total, 'slab object')} {are(total)} reached from no root\n"
    if not stacks:
        if leaks:
            yield "\n" + _slab_table(leaks[:limit])
        if limit is not None and len(leaks) > limit:
            yield f"\n{limit} of {len(leaks)} groups shown (--limit 0: all)\n"
        return
    for leak in leaks[:limit]:
        yield (
            f"\n{leak.verdict}: {counted(leak.objects, 'object')} ({pages_size(leak.bytes)}) of "
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
            yield from fingerprint_text(leak.fingerprint, leak.objects, dump=not known)
        if leak.stack is None:
            continue
        if leak.pids:
            yield f"  by: pid {', '.join(map(str, leak.pids[:8]))}\n"
        yield from (f"    {frame}\n" for frame in leak.stack)


def _slab_table(leaks: Sequence[SlabLeak]) -> str:
    rows = []
    for leak in leaks:
        owner = leak.tag or "-"
        if leak.tag is None and leak.stack:
            owner = str(allocator_of(leak.stack) or "-")
        elif leak.tag is None and leak.fingerprint is not None:
            owner = leak.fingerprint.text
        rows.append(
            [f"{leak.objects:,}", pages_size(leak.bytes), word(leak.cache),
             _SHORT.get(leak.verdict, leak.verdict),
             word(without_offset(owner)), f"{leak.addresses[0]:#x}"]
        )  # fmt: skip
    headers = ["objects", "size", "cache", "verdict", "owner", "first"]
    return table(rows, headers, right=(0, 1), spare=("size",))


def suspects_text(
    found: Sequence[Suspect], facts: Facts, limit: int | None, *, stacks: bool = False
) -> Iterator[str]:
    """
    Yield one line per stack, those with most reasons first.

    :param stacks: Whether to yield a paragraph per stack instead, with its tasks and frames.
    """
    look = "looks like a leak" if len(found) == 1 else "look like leaks"
    yield f"{counted(len(found), 'stack')} {look}; for proof, run leaks without --suspects\n"
    if not stacks and found:
        yield "\n" + _suspects_table(found[:limit], facts)
    for suspect in found[:limit] if stacks else ():
        yield (
            f"\n{counted(suspect.pages, 'page')} ({pages_size(suspect.bytes)}) in "
            f"{counted(suspect.allocations, 'allocation')} of {suspect.allocator}\n"
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
    if found and not stacks:
        yield "\n--stacks shows stacks, tasks and reasons in full\n"


_REASONS = {
    "it grows": "grows",
    "most of it is older": "old",
    "the tasks": "tasks gone",
    "a frame": "module gone",
}


def _short_reason(reason: str) -> str:
    return next((short for start, short in _REASONS.items() if reason.startswith(start)), reason)


def _owner_of(allocator: str) -> str:
    return word(without_offset(allocator))


_NO_RATE = "-"


def _rate(pages_per_hour: float | None) -> str:
    return _NO_RATE if pages_per_hour is None else f"{pages_per_hour:,.0f}"


def _suspects_table(found: Sequence[Suspect], facts: Facts) -> str:
    size, owner, reasons = cache(pages_size), cache(_owner_of), cache(_short_reason)
    # Details of suspects are computed on the way, so go through them once.
    rows = [
        [
            f"{suspect.pages:,}",
            size(suspect.bytes),
            f"{suspect.allocations:,}",
            _rate(suspect.pages_per_hour),
            owner(suspect.allocator),
            ages(suspect.oldest_ns, suspect.newest_ns, facts.now_ns),
            ", ".join(map(reasons, suspect.reasons)),
        ]
        for suspect in found
    ]
    headers = ["pages", "size", "allocations", "pages/h", "owner", "age", "reasons"]
    rates = any(row[3] != _NO_RATE for row in rows)
    if not rates:
        for row in (headers, *rows):
            del row[3]
    return table(rows, headers, right=range(3 + rates), spare=("allocations", "size"))
