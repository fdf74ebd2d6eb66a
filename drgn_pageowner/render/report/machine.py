# SPDX-License-Identifier: LGPL-2.1-or-later
"""List facts about the machine and its crash as names and values, for any format."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from drgn_pageowner.analysis.report import Report
from drgn_pageowner.model.crash import Crash
from drgn_pageowner.render.info import STATES
from drgn_pageowner.render.table import age, counted, have, pages_size, seconds

__all__ = ("NO_HOST", "coverage_rows", "crash_rows", "crash_time_text", "log_text", "machine_rows")

NO_HOST = ("", "(none)")
"""Default host names, which mean that no host name was set."""


def machine_rows(report: Report) -> Iterator[tuple[str, str]]:
    """Yield facts about the machine and its kernel."""
    facts, crash = report.facts, report.crash or Crash()
    if facts.hostname not in NO_HOST:
        yield "host", facts.hostname
    if facts.release:
        yield "kernel", f"{facts.release} {facts.version}".strip() + f" ({facts.arch})"
    if crash.hardware:
        yield "hardware", crash.hardware
    if crash.cpus is not None:
        yield "CPUs", str(crash.cpus)
    present = sum(zone.present for zone in facts.zones)
    nodes = len({zone.node for zone in facts.zones})
    if nodes:
        yield (
            "memory",
            f"{pages_size(present * facts.page_size)} ({counted(present, 'page')} of "
            f"{facts.page_size:,} bytes) on {nodes} node{'s' * (nodes != 1)}",
        )
    yield "page_owner", STATES[facts.page_owner]
    if crash.command_line:
        yield "command line", crash.command_line
    if report.modules:
        yield "modules", ", ".join(report.modules)


def crash_rows(report: Report) -> Iterator[tuple[str, str]]:
    """Yield facts about the crash."""
    facts, crash = report.facts, report.crash or Crash()
    if facts.live:
        yield "state", "running"
    elif facts.panic_message:
        yield "died of", facts.panic_message
    when = crash_time_text(crash.crash_time)
    if when is not None:
        yield "crashed at", when
    if facts.now_ns is not None:
        yield "up for", f"{age(facts.now_ns)} ({seconds(facts.now_ns)} s)"
    if crash.task is not None:
        yield "by task", f"{crash.task[1]} (pid {crash.task[0]})"
    if crash.tainted is not None:
        words = ", ".join(f"{taint.letter}: {taint.meaning}" for taint in crash.taints)
        yield "tainted", f"{crash.tainted} ({words})" if crash.taints else "no"
    yield "killed for memory", _oom(crash)


def crash_time_text(crash_time: int | None) -> str | None:
    """
    Format the time of a crash; ``None`` if it is not known.

    :param crash_time: Seconds since 1970, UTC.
    """
    # Without a real-time clock, a machine starts in 1970; a time far in the future is damaged.
    if crash_time is None or not 10**9 < crash_time < 1 << 36:
        return None
    return f"{datetime.fromtimestamp(crash_time, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _oom(crash: Crash) -> str:
    kills, victims = crash.oom.kills, crash.oom.victims
    text = "unknown"
    if kills is not None:
        text = f"{kills:,} {'process' if kills == 1 else 'processes'} since boot"
    return f"{text}, {victims:,} at that moment" if victims is not None else text


def coverage_rows(report: Report) -> Iterator[tuple[str, str]]:
    """Yield facts about the completeness of the records."""
    coverage, same = report.coverage, report.consistency
    if coverage:
        covered, uncovered = coverage["covered"], coverage["uncovered"]
        yield (
            "page_ext",
            f"{counted(covered, 'page')} {have(covered)} one, "
            f"{uncovered:,} {have(uncovered)} none, {coverage['missing']:,} could not be read",
        )
    if same is not None:
        yield (
            "kernel's counts",
            f"{same.equal:,} of {counted(same.stacks, 'stack')} {have(same.equal)} the pages that "
            f"the kernel counted "
            f"({same.kernel_pages:,} by the kernel, {same.our_pages:,} by their records)",
        )


def log_text(report: Report, *, oom: bool = False) -> str:
    """Format the end of the kernel log, or its lines about OOM kills, as dmesg does."""
    if report.crash is None:
        return ""
    lines = report.crash.oom.log if oom else report.crash.log
    return "".join(f"[{line.ts_nsec / 10**9:12.6f}] {line.text}\n" for line in lines)
