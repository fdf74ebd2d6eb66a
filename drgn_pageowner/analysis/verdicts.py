# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a report says first: a sentence for each thing that somebody should know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drgn_pageowner.analysis.leaks.leaks import Leaks
from drgn_pageowner.analysis.owners.allocator import allocator_name
from drgn_pageowner.analysis.report import Frag, Report
from drgn_pageowner.units import pages_size, share

__all__ = ("LEVELS", "Verdict", "verdicts")

LEVELS = ("bad", "warning", "note", "good")
"""Worst first."""

_OTHER = "driver or other kernel"
_MUCH = 10
"""Percent of all memory that is worth a warning if nothing but records shows it."""


@dataclass(frozen=True)
class Verdict:
    """One finding."""

    area: str
    """``"crash"``, ``"oom"``, ``"owners"``, ``"leaks"``, ``"growth"``, ``"frag"`` or
    ``"unread"``."""
    level: str
    """Of :data:`LEVELS`."""
    text: str
    detail: str = ""
    """What stands behind it, or what to do next."""


def verdicts(report: Report) -> list[Verdict]:
    """In the order in which a reader wants them: the death, the owners, leaks, fragmentation."""
    return [
        *_crash(report),
        *_oom(report),
        *_owners(report),
        *_leaks(report),
        *_growth(report),
        *_frag(report),
        _unread(report),
    ]


def _crash(report: Report) -> Iterator[Verdict]:
    facts = report.facts
    if facts.live:
        yield Verdict("crash", "note", "The kernel was running when it was read.")
    elif facts.panic_message:
        reason = facts.panic_message.removeprefix("Kernel panic - not syncing: ")
        task = report.crash.task if report.crash is not None else None
        by = f"In task {task[1]} (pid {task[0]})." if task is not None else ""
        yield Verdict("crash", "bad", f"The kernel panicked: {reason}", by)
    else:
        yield Verdict("crash", "note", "The kernel log has no panic message.")


def _oom(report: Report) -> Iterator[Verdict]:
    if report.crash is None:
        return
    oom = report.crash.oom
    last = oom.log[-1].text if oom.log else ""
    if oom.kills:
        plural = "es" if oom.kills != 1 else ""
        text = f"The out-of-memory killer killed {oom.kills:,} process{plural}."
        yield Verdict("oom", "bad", text, last)
    elif oom.log:
        yield Verdict("oom", "bad", "The out-of-memory killer was invoked.", last)
    elif oom.kills == 0:
        yield Verdict("oom", "good", "No process was killed for want of memory.")
    if oom.victims:
        text = f"{oom.victims:,} tasks were being killed for want of memory at that moment."
        yield Verdict("oom", "bad", text)


def _owners(report: Report) -> Iterator[Verdict]:
    if report.account is not None and report.account.classes:
        size, present = report.facts.page_size, report.account.present
        parts = [
            f"{row.name} {pages_size(row.bytes)} ({share(row.pages, present)})"
            for row in report.account.classes[:4]
        ]
        yield Verdict(
            "owners", "note", f"Most of the {pages_size(present * size)} are: {', '.join(parts)}."
        )
    top = report.tops.get("allocator")
    if top is not None and top.groups:
        first = top.groups[0]
        yield Verdict(
            "owners",
            "note",
            f"The largest owner by its records is {first.key['allocator'] or '(no stack)'}: "
            f"{pages_size(first.bytes)} in {first.allocations:,} allocations "
            f"({share(first.pages, top.pages)} of what is recorded).",
        )
    yield from _hidden(report)


def _hidden(report: Report) -> Iterator[Verdict]:
    """Memory of drivers and other kernel code."""
    for row in report.owners or ():
        if row.name != _OTHER or report.account is None or "allocator" not in report.tops:
            continue
        much = row.pages * 100 > _MUCH * report.account.present
        size = report.facts.page_size
        most = ", ".join(f"{name} {pages_size(pages * size)}" for name, pages in row.owners[:3])
        yield Verdict(
            "owners",
            "warning" if much else "note",
            f"{pages_size(row.pages * size)} ({share(row.pages, report.account.present)}) are of "
            "drivers and other kernel code, which /proc/meminfo shows nowhere.",
            f"Most of it: {most}.",
        )


def _leaks(report: Report) -> Iterator[Verdict]:
    leaks, size = report.leaks, report.facts.page_size
    if leaks is None:
        yield Verdict("leaks", "note", "Leaks were not searched for; below is why.")
    elif leaks.lost_pages:
        lost = [group for group in leaks.groups if group.confidence != "low"]
        groups = lost or leaks.groups
        most = groups[0]
        yield Verdict(
            "leaks",
            "bad" if lost else "warning",
            f"{leaks.lost_pages:,} pages ({pages_size(leaks.lost_pages * size)}) in "
            f"{leaks.lost_allocations:,} allocations are leaked: nothing that anybody holds leads "
            "to them.",
            f"Largest: {most.allocator}, {pages_size(most.bytes)} in {most.allocations:,} of "
            f"{most.of_stack:,} allocations, {most.verdict}, confidence {most.confidence}.",
        )
    else:
        yield Verdict("leaks", "good", "No leaked page was found.")
    if leaks is not None and leaks.by_number_pages:
        yield Verdict("leaks", "note", _by_number(leaks, size))


def _growth(report: Report) -> Iterator[Verdict]:
    """What an earlier dump tells."""
    if report.diff is None:
        return
    change, size = report.diff.leak, report.facts.page_size
    if change is None:
        yield Verdict(
            "growth", "good", "Nothing has grown of the memory that nothing accounts for."
        )
        return
    rate = change.pages_per_hour
    fast = f", {pages_size(round(rate * size))} an hour" if rate is not None else ""
    yield Verdict(
        "growth",
        "warning",
        f"{allocator_name(change.stack) or '(no stack)'} has grown by "
        f"{pages_size(change.growth.bytes)}{fast}: most of all memory that nothing accounts for.",
        f"{change.before.pages:,} pages before, {change.after.pages:,} after.",
    )


def _by_number(leaks: Leaks, size: int) -> str:
    return (
        f"{leaks.by_number_pages:,} more pages ({pages_size(leaks.by_number_pages * size)}) are "
        "known only by their PFN: that may be enough for their owner."
    )


def _frag(report: Report) -> Iterator[Verdict]:
    frag = report.frag
    if frag is None:
        return
    wrong = [zone for zone in frag.zones if zone.verdict != "nothing is wrong"]
    for zone in wrong:
        low = zone.free < zone.watermarks[0]
        yield Verdict(
            "frag",
            "bad" if low else "warning",
            f"Node {zone.node}, zone {zone.zone}: {zone.verdict}.",
        )
    if not wrong:
        yield Verdict("frag", "good", "Nothing is wrong with the free memory of any zone.")
    yield from _culprit(frag)


def _culprit(frag: Frag) -> Iterator[Verdict]:
    found = [one for one in frag.culprits.blocking if one.handle is not None]
    if found:
        one = found[0]
        yield Verdict(
            "frag",
            "note",
            f"{frag.culprits.blocked:,} of {frag.culprits.blocks:,} pageblocks hold unmovable "
            "pages.",
            f"In most of them is {one.allocator}: {one.pages:,} pages in {one.blocks:,} "
            f"pageblocks, {one.only_blocker:,} of them by nobody else.",
        )


def _unread(report: Report) -> Verdict:
    if not report.problems:
        return Verdict("unread", "good", "Everything that was looked for could be read.")
    number = len(report.problems)
    return Verdict(
        "unread",
        "warning",
        f"{number} thing{'s' * (number != 1)} could not be read or found out.",
        report.problems[0] + (f" (and {number - 1} more, below)" if number > 1 else ""),
    )
