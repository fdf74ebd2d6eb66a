"""The clock that records are stamped with, and how the machine died."""

from __future__ import annotations

from drgn import FaultError, Program
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.printk import PrintkRecord, get_printk_records

__all__ = ("local_clock_ns", "panic_message")


def local_clock_ns(prog: Program) -> int | None:
    """
    ``local_clock()`` at the time of the dump, or just before: nanoseconds since boot.

    The latest of the run queues' ``rq->clock``, which every tick brings up to date; where those
    cannot be read, of the kernel log. A running kernel's records may be younger.
    """
    latest = 0
    try:
        for cpu in for_each_online_cpu(prog):
            latest = max(latest, int(per_cpu(prog["runqueues"], cpu).clock))
    except (LookupError, FaultError, AttributeError):
        pass
    if not latest:
        latest = max((record.timestamp for record in _log(prog)), default=0)
    return latest or None


def panic_message(prog: Program) -> str | None:
    """The message that ``panic()`` printed, or ``None`` if the kernel did not panic."""
    for record in _log(prog):
        text: str = record.text.decode(errors="backslashreplace")
        if text.startswith("Kernel panic - not syncing: "):
            return text
    return None


def _log(prog: Program) -> list[PrintkRecord]:
    try:
        return get_printk_records(prog)
    except (LookupError, FaultError, AttributeError, ValueError):
        return []
