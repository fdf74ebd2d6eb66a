# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the kernel log, and the clock that timestamps of records are taken from."""

from __future__ import annotations

from drgn import sizeof
from drgn.helpers import ValidationError
from drgn.helpers.linux.printk import PrintkRecord, get_printk_records

from drgn_pageowner.kernel.dump.bulk import find_object, find_type, has_member
from drgn_pageowner.kernel.dump.damage import DAMAGE, unless_mistaken
from drgn_pageowner.kernel.dump.kernel import Kernel, once_per_reading
from drgn_pageowner.kernel.linux.percpu import cpu_variable
from drgn_pageowner.kernel.linux.topology import online_cpus

__all__ = ("local_clock_ns", "log_buffers", "log_records", "panic_message")

# Maximum plausible size of a log buffer, as a power of two. CONFIG_LOG_BUF_SHIFT allows up to 25.
_MOST_BITS = 26
# Type of a log record before v5.10: struct printk_log, renamed from struct log by Linux kernel
# commit 62e32ac3505a ("printk: rename struct log to struct printk_log") (in v3.11).
_OLD_RECORDS = ("struct printk_log", "struct log")


def local_clock_ns(kernel: Kernel) -> int | None:
    """
    Get ``local_clock()`` at the time of the dump or shortly before, in nanoseconds since boot.

    This is the latest ``rq->clock`` of the run queues, which is updated in every tick. If it cannot
    be read, the time of the last line of the kernel log is used. Records of a running kernel may
    have later timestamps.

    :return: ``None`` if neither is known.
    """
    latest = 0
    try:
        for cpu in online_cpus(kernel):
            latest = max(latest, int(cpu_variable(kernel, "runqueues", cpu).clock))
    except DAMAGE as error:
        unless_mistaken(error)
    if not latest:
        latest = max((record.timestamp for record in log_records(kernel)), default=0)
    return latest or None


def panic_message(kernel: Kernel) -> str | None:
    """Get the message of ``panic()``, or ``None`` if the kernel did not panic."""
    for record in log_records(kernel):
        text: str = record.text.decode(errors="backslashreplace")
        if text.startswith("Kernel panic - not syncing: "):
            return text
    return None


@once_per_reading
def log_records(kernel: Kernel) -> list[PrintkRecord]:
    """Read the kernel log, oldest line first; empty if it cannot be read."""
    with kernel.tolerate("the kernel log cannot be read: the cause of the crash is unknown"):
        # Since Linux kernel commit 896fbe20b4e2 ("printk: use the lockless ringbuffer") (in v5.10).
        ring = find_object(kernel.prog, "prb")
        if ring is not None and has_member(ring.type_.type, "desc_ring"):
            sizes = ring.desc_ring.count_bits, ring.text_data_ring.size_bits
            if max(map(int, sizes)) > _MOST_BITS:
                raise ValidationError("the sizes of its ring buffer are impossible")
        elif not any(find_type(kernel.prog, name) for name in _OLD_RECORDS):
            # DWARF lacks the types of the log, so it cannot be read.
            return []
        return get_printk_records(kernel.prog)
    return []


def log_buffers(kernel: Kernel) -> list[tuple[int, int]]:
    """Get ``(address, size in bytes)`` of each buffer of the kernel log; empty if unknown."""
    try:
        ring = find_object(kernel.prog, "prb")
        if ring is None or not has_member(ring.type_.type, "desc_ring"):
            return [
                (int(kernel.prog["log_buf"]), min(int(kernel.prog["log_buf_len"]), 1 << _MOST_BITS))
            ]
        descriptions, text = ring.desc_ring, ring.text_data_ring
        number = 1 << min(int(descriptions.count_bits), _MOST_BITS)
        return [
            (int(text.data), 1 << min(int(text.size_bits), _MOST_BITS)),
            *(
                (int(array), number * sizeof(array.type_.type))
                for array in (descriptions.descs, descriptions.infos)
            ),
        ]
    except DAMAGE as error:
        unless_mistaken(error)
        return []
