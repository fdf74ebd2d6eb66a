# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Verdicts about a machine's memory, used by both `report` and `triage`.

A :class:`Verdict` with a :attr:`~Verdict.finding` should justify an alert, so the normal state of a
healthy machine must not produce one. Thresholds are the dump's own where it has them: watermarks,
``lowmem_reserve``, ``extfrag_threshold`` and the pageblock order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drgn_pageowner.analysis.account.page_class import PageClass
from drgn_pageowner.analysis.frag.alloc_check import COSTLY_ORDER, AllocCheck, AllocVerdict
from drgn_pageowner.analysis.leaks.leaks import LeakGroup, Leaks
from drgn_pageowner.analysis.leaks.owners import leak_owners
from drgn_pageowner.analysis.leaks.suspects import largest_of
from drgn_pageowner.analysis.owners.allocator import allocator_name, modules_of
from drgn_pageowner.analysis.report import Frag, Report
from drgn_pageowner.units import are, counted, pages_size, share

__all__ = (
    "LEVELS",
    "MIN_LEAKED_PAGES",
    "KnownCause",
    "Verdict",
    "by_severity",
    "headline",
    "judge",
)

LEVELS = ("bad", "warning", "note", "good")
"""Levels of verdicts, worst first."""

MIN_LEAKED_PAGES = 16
"""
A finding needs at least this many leaked pages. The bundled guests whose modules leak have 22 or
more; the guest whose modules leak nothing (``linux-5.10/noleak``) has 0.
"""

# In percent of memory: warn if drivers and other kernel code have at least this much. On the
# bundled guests it is 0.6 to 6.7 %.
_MUCH = 10
# In percent of memory: a suspected stack with at least this much is a finding. The largest one on
# the bundled guests has 0.8 %.
_HOG = 5
# In percent of managed memory: smaller zones are not judged. ZONE_DMA has 16 MiB, which is more
# than that only on machines with less than 1.6 GiB.
_ZONE = 1
# The panic messages of mm/oom_kill.c: panic_on_oom, no task left to kill, the init process.
_OUT_OF_MEMORY = ("Out of memory", "out of memory", "system is deadlocked on memory")
_SUCCESS = (AllocVerdict.SUCCEEDS, AllocVerdict.WAKES_KSWAPD)


@dataclass(frozen=True)
class Verdict:
    """One statement about the memory of a machine, and its severity."""

    area: str
    """``"crash"``, ``"oom"``, ``"owners"``, ``"leaks"``, ``"growth"``, ``"frag"``, ``"unread"`` or
    ``"rule"``."""
    level: str
    """One of :data:`LEVELS`."""
    text: str
    detail: str = ""
    """The evidence, or the next step."""
    finding: str | None = None
    """``"leak"``, ``"hog"``, ``"out of memory"``, ``"watermark"``, ``"fragmentation"`` or
    ``"known cause"`` if this counts as found."""


@dataclass(frozen=True)
class KnownCause(Verdict):
    """The verdict of a rule that matched (``triage --rules``)."""

    rule: str = ""
    """Name of the rule."""
    link: str | None = None
    """Where the cause is described, by the rule."""
    pages: int | None = None
    """Number of base pages that the rule matched, if it says so."""


def judge(report: Report, *, min_pages: int = MIN_LEAKED_PAGES) -> list[Verdict]:
    """
    Judge a machine: the crash first, then owners, leaks, growth, fragmentation.

    :param min_pages: A leak counts as found from this many base pages on.
    """
    return [
        *_crash(report),
        *_oom(report),
        *_owners(report),
        *_leaks(report, min_pages),
        *_hogs(report),
        *_growth(report),
        *_frag(report),
        _unread(report),
    ]


def by_severity(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Sort verdicts: findings first, then by level, the worst first."""
    return sorted(verdicts, key=lambda one: (one.finding is None, LEVELS.index(one.level)))


def headline(
    report: Report, *, min_pages: int = MIN_LEAKED_PAGES, causes: Sequence[Verdict] = ()
) -> str:
    """
    Answer in one sentence what is wrong with the memory of a machine.

    :param min_pages: As in :func:`judge`.
    :param causes: Verdicts of rules, in addition to those of :func:`judge`.
    """
    verdicts = judge(report, min_pages=min_pages)
    parts = [
        _leak_in_short(report) if one.finding == "leak" else one.text.rstrip(".")
        for one in by_severity(verdicts)
        if one.finding is not None
    ]
    if report.diff is not None and report.diff.leak is not None:
        change = report.diff.leak
        name = allocator_name(change.stack) or "(no stack)"
        rate = change.pages_per_hour
        speed = pages_size(round((rate or 0) * report.facts.page_size))
        parts.append(f"{name} is growing" + (f" by {speed} an hour" if rate else ""))
    known = [one for one in by_severity(causes) if one.finding is not None]
    if known and not parts:
        parts.append(known.pop(0).text.rstrip("."))
    # Most causes are about what is named already.
    rules = dict.fromkeys(one.rule for one in known if isinstance(one, KnownCause))
    if rules:
        parts.append(f"known cause{'s' * (len(rules) > 1)}: {', '.join(rules)}")
    if parts:
        return "; ".join(parts) + "."
    doubts = [one for one in (*verdicts, *causes) if one.level == "warning"]
    if doubts:
        return f"Nothing is certain to be wrong with memory, but: {doubts[0].text}"
    if report.leaks is None:
        return "No problem of memory was found; leaks were not searched for."
    return "No problem of memory was found."


def _leak_in_short(report: Report) -> str:
    """Return ``"1.0 MiB leaked by leak_orders [leaky]"``."""
    assert report.leaks is not None
    sure = [group for group in report.leaks.lost_groups if group.confidence == "high"]
    size = pages_size(sum(group.pages for group in sure) * report.facts.page_size)
    owners = leak_owners(sure, "allocator")
    of_module: dict[str, list[LeakGroup]] = {}
    for group in sure:
        for module in modules_of(group.stack)[:1]:
            of_module.setdefault(module, []).append(group)
    for module, groups in of_module.items():
        number, pages = len(leak_owners(groups, "allocator")), sum(g.pages for g in groups)
        # One module has most of it.
        if number > 1 and 2 * pages > sum(group.pages for group in sure):
            by = f"by {number} functions of the module {module}"
            if len(groups) == len(sure):
                return f"{size} leaked {by}"
            return f"{size} leaked, {pages_size(pages * report.facts.page_size)} of it {by}"
    others = len(owners) - 1
    more = f" and {others} other function{'s' * (others != 1)}" if others else ""
    return f"{size} leaked by {owners[0].owner}{more}"


def _crash(report: Report) -> Iterator[Verdict]:
    facts = report.facts
    if facts.live:
        yield Verdict("crash", "note", "The kernel was running when it was read.")
    elif facts.panic_message:
        reason = facts.panic_message.removeprefix("Kernel panic - not syncing: ")
        task = report.crash.task if report.crash is not None else None
        by = f"In task {task[1]} (pid {task[0]})." if task is not None else ""
        starved = any(text in facts.panic_message for text in _OUT_OF_MEMORY)
        yield Verdict(
            "crash",
            "bad",
            f"The kernel panicked: {reason.rstrip('.')}.",
            by,
            finding="out of memory" if starved else None,
        )
    elif facts.log_read:
        yield Verdict("crash", "note", "The kernel log has no panic message.")
    else:
        yield Verdict(
            "crash", "note", "The cause of the crash is unknown: the kernel log could not be read."
        )


def _oom(report: Report) -> Iterator[Verdict]:
    if report.crash is None:
        return
    oom, finding = report.crash.oom, "out of memory"
    last = oom.log[-1].text if oom.log else ""
    if oom.kills:
        plural = "es" if oom.kills != 1 else ""
        text = f"The out-of-memory killer killed {oom.kills:,} process{plural}."
        yield Verdict("oom", "bad", text, last, finding)
    elif oom.log:
        yield Verdict("oom", "bad", "The out-of-memory killer was invoked.", last, finding)
    elif oom.kills == 0:
        yield Verdict("oom", "good", "No process was killed for lack of memory.")
    if oom.victims:
        were = "was" if oom.victims == 1 else "were"
        killed = f"{counted(oom.victims, 'task')} {were} being killed"
        text = f"{killed} for lack of memory at that moment."
        yield Verdict("oom", "bad", text, finding=finding)


def _owners(report: Report) -> Iterator[Verdict]:
    if report.account is not None and report.account.classes:
        size, present = report.facts.page_size, report.account.present
        parts = [
            f"{row.name} {pages_size(row.bytes)} ({share(row.pages, present)})"
            for row in report.account.classes[:4]
        ]
        most = sum(row.pages for row in report.account.classes[: len(parts)]) * 2 > present
        what = "Most of the" if most else "The largest parts of the"
        yield Verdict(
            "owners", "note", f"{what} {pages_size(present * size)} are: {', '.join(parts)}."
        )
    yield from _largest_process(report)
    top = report.tops.get("allocator")
    if top is not None and top.groups:
        first = top.groups[0]
        number = first.allocations
        yield Verdict(
            "owners",
            "note",
            f"The largest owner by its records is {first.key['allocator'] or '(no stack)'}: "
            f"{pages_size(first.bytes)} "
            + (f"in {counted(number, 'allocation')} " if number is not None else "")
            + f"({share(first.pages, top.pages)} of what is recorded).",
        )
    yield from _hidden(report)


def _largest_process(report: Report) -> Iterator[Verdict]:
    processes = report.holders.get("process")
    if processes is None or not processes.holders:
        return
    one = processes.holders[0]
    name = " ".join(str(part) for part in (one.name, one.key) if part is not None)
    gone = ", which is gone" if one.alive is False else ""
    yield Verdict(
        "owners",
        "note",
        f"The process that asked for most is {name}{gone}: {pages_size(one.bytes)} "
        f"({share(one.pages, processes.pages)} of what is recorded).",
        f"Command line: {one.command_line}." if one.command_line else "",
    )


def _hidden(report: Report) -> Iterator[Verdict]:
    """Judge the memory of drivers and other kernel code, which /proc/meminfo does not show."""
    for row in report.owners or ():
        if (
            row.name != PageClass.OTHER.label
            or report.account is None
            or "allocator" not in report.tops
        ):
            continue
        much = row.pages * 100 > _MUCH * report.account.present
        size = report.facts.page_size
        first = row.owners[:3]
        most = sum(pages for _, pages in first) * 2 > row.pages
        owners = ", ".join(f"{name} {pages_size(pages * size)}" for name, pages in first)
        yield Verdict(
            "owners",
            "warning" if much else "note",
            f"{pages_size(row.pages * size)} ({share(row.pages, report.account.present)}) are of "
            "drivers and other kernel code, which /proc/meminfo does not show.",
            f"{'Most of it' if most else 'The largest owners'}: {owners}.",
        )


def _leaks(report: Report, min_pages: int) -> Iterator[Verdict]:
    leaks, size = report.leaks, report.facts.page_size
    if leaks is None:
        yield Verdict("leaks", "note", "Leaks were not searched for; the reason is given below.")
        return
    lost = leaks.lost_groups
    sure = [group for group in lost if group.confidence == "high"]
    if sure:
        yield _leaked(sure, leaks, size, min_pages)
    elif lost:
        yield Verdict(
            "leaks",
            "warning",
            f"{_amount(lost, size)} may be leaked: no chain of addresses leads there from "
            "anything in use.",
            f"{_largest(lost[0])} {_because(lost[0], leaks)}.",
        )
    elif leaks.holes is not None:
        yield Verdict(
            "leaks",
            "note",
            f"No leaked page was found, but some cannot be seen: {leaks.holes}.",
        )
    else:
        yield Verdict("leaks", "good", "No leaked page was found.")
    if leaks.by_number_pages:
        yield Verdict(
            "leaks",
            "note",
            f"{counted(leaks.by_number_pages, 'more page')} "
            f"({pages_size(leaks.by_number_pages * size)}) {are(leaks.by_number_pages)} known only "
            "by PFN: their owner may refer to them in this way.",
        )


def _because(group: LeakGroup, leaks: Leaks) -> str:
    """Return the reasons to doubt a group; holes in the dump concern all groups."""
    if leaks.holes is not None:
        return f"Memory that could not be searched may hold them: {leaks.holes}"
    return "; ".join(group.reasons).capitalize()


def _leaked(sure: Sequence[LeakGroup], leaks: Leaks, size: int, min_pages: int) -> Verdict:
    found = sum(group.pages for group in sure) >= min_pages
    verb, them = ("is", "it") if sum(group.pages for group in sure) == 1 else ("are", "them")
    more = leaks.lost_pages - sum(group.pages for group in sure)
    doubtful = ""
    if more > 0:
        doubtful = f" {counted(more, 'more page')} may be leaked, with less confidence."
    return Verdict(
        "leaks",
        "bad" if found else "warning",
        f"{_amount(sure, size)} {verb} leaked: nothing in use leads to {them}.",
        _largest(sure[0]) + doubtful,
        finding="leak" if found else None,
    )


def _amount(groups: Sequence[LeakGroup], size: int) -> str:
    pages = sum(group.pages for group in groups)
    allocations = sum(group.allocations for group in groups)
    number = counted(allocations, "allocation")
    return f"{counted(pages, 'page')} ({pages_size(pages * size)}) in {number}"


def _largest(group: LeakGroup) -> str:
    owner = group.allocator
    if not group.stack and group.fingerprint is not None:
        owner = f"memory with this in it: {group.fingerprint.text}"
    return (
        f"Largest: {owner}, {pages_size(group.bytes)} in {group.allocations:,} of "
        f"{counted(group.of_stack, 'allocation')}, {group.verdict}, confidence {group.confidence}."
    )


def _hogs(report: Report) -> Iterator[Verdict]:
    """
    Judge the stacks that match a leak's pattern
    (:func:`~drgn_pageowner.analysis.leaks.suspects.suspects`).
    """
    if report.suspects is None or report.account is None:
        return
    largest = largest_of(report.suspects)
    present = report.account.present
    if largest is not None and largest.pages * 100 >= _HOG * present > 0:
        yield Verdict(
            "leaks",
            "warning",
            f"{largest.allocator} holds {counted(largest.pages, 'page')}, "
            f"{share(largest.pages, present)} of memory, and looks like a leak.",
            f"{'; '.join(largest.reasons).capitalize()}.",
            finding="hog",
        )


def _growth(report: Report) -> Iterator[Verdict]:
    """Judge the changes since an earlier dump."""
    if report.diff is None:
        return
    change, size = report.diff.leak, report.facts.page_size
    if change is None:
        yield Verdict("growth", "good", "No memory of drivers and other kernel code has grown.")
        return
    rate = change.pages_per_hour
    fast = f", {pages_size(round(rate * size))} an hour" if rate is not None else ""
    yield Verdict(
        "growth",
        "warning",
        f"{allocator_name(change.stack) or '(no stack)'} has grown by "
        f"{pages_size(change.growth.bytes)}{fast}: the largest growth in memory of drivers and "
        "other kernel code.",
        f"{counted(change.before.pages, 'page')} before, {change.after.pages:,} after.",
    )


def _frag(report: Report) -> Iterator[Verdict]:
    frag = report.frag
    if frag is None:
        return
    yield from _failures(frag)
    managed = sum(zone.managed for zone in frag.zones)
    wrong = [zone for zone in frag.zones if not zone.healthy]
    for zone in wrong:
        large = zone.managed * 100 >= _ZONE * managed
        yield Verdict(
            "frag",
            "warning" if large else "note",
            f"Node {zone.node}, zone {zone.zone}: {zone.verdict}.",
        )
    if not wrong:
        yield Verdict("frag", "good", "Nothing is wrong with the free memory of any zone.")
    yield from _culprit(frag)


def _failures(frag: Frag) -> Iterator[Verdict]:
    """Judge kernel allocations that no node can serve from its free lists."""
    single = _best(frag.checks, 0)
    if single is not None and single.verdict not in _SUCCESS:
        free = sum(zone.free for zone in single.zones)
        yield Verdict(
            "frag",
            "bad",
            "No zone that the kernel allocates from has as much free memory as its min watermark: "
            f"{counted(free, 'page')} {are(free)} free.",
            finding="watermark",
        )
    costly = _best(frag.checks, COSTLY_ORDER)
    if costly is not None and costly.verdict == AllocVerdict.FRAGMENTATION:
        yield Verdict(
            "frag",
            "bad",
            f"No zone that the kernel allocates from has a free block of order {COSTLY_ORDER}, "
            "although there is enough free memory.",
            f"drgn-pageowner frag why --order {COSTLY_ORDER} shows what is in the way.",
            finding="fragmentation",
        )


def _best(checks: Sequence[AllocCheck], order: int) -> AllocCheck | None:
    """Return the check of the node that serves *order* best, if there is any."""
    of_order = [check for check in checks if check.order == order and check.zones]
    return min(of_order, key=lambda check: list(AllocVerdict).index(check.verdict), default=None)


def _culprit(frag: Frag) -> Iterator[Verdict]:
    found = [one for one in frag.culprits.blocking if one.handle is not None]
    if found:
        one = found[0]
        yield Verdict(
            "frag",
            "note",
            f"{frag.culprits.blocked:,} of {counted(frag.culprits.blocks, 'pageblock')} "
            f"{'holds' if frag.culprits.blocked == 1 else 'hold'} unmovable pages.",
            f"The most widespread allocator is {one.allocator}: {counted(one.pages, 'page')} in "
            f"{one.blocks:,} of these pageblocks, alone in {one.only_blocker or 'none'}.",
        )


def _unread(report: Report) -> Verdict:
    if not report.problems:
        return Verdict("unread", "good", "Everything that was looked for could be read.")
    number = len(report.problems)
    return Verdict(
        "unread",
        "warning",
        f"{number} fact{'s' * (number != 1)} could not be read or determined.",
        report.problems[0].rstrip(".")
        + (f" (and {number - 1} more, below)." if number > 1 else "."),
    )
