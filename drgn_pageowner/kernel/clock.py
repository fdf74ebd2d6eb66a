"""The clock that records are stamped with, and how the machine died."""

from __future__ import annotations

from drgn import FaultError, Program
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.printk import get_printk_records

__all__ = ("local_clock_ns", "panic_message")


def local_clock_ns(prog: Program) -> int | None:
    """
    ``local_clock()`` at the time of the dump, or just before: nanoseconds since boot.

    The latest of what is stamped with the same clock: the run queues' ``rq->clock`` and the
    kernel log. A running kernel's records may be younger than this.
    """
    latest = 0
    try:
        for cpu in for_each_online_cpu(prog):
            latest = max(latest, int(per_cpu(prog["runqueues"], cpu).clock))
    except (LookupError, FaultError, AttributeError):
        pass
    try:
        for record in get_printk_records(prog):
            latest = max(latest, record.timestamp)
    except (LookupError, FaultError, AttributeError, ValueError):
        pass
    return latest or None


def panic_message(prog: Program) -> str | None:
    """The message that ``panic()`` printed, or ``None`` if the kernel did not panic."""
    try:
        for record in get_printk_records(prog):
            text: str = record.text.decode(errors="backslashreplace")
            if text.startswith("Kernel panic - not syncing: "):
                return text
    except (LookupError, FaultError, AttributeError, ValueError):
        pass
    return None
