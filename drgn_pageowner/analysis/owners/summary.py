# SPDX-License-Identifier: LGPL-2.1-or-later
"""Summarize the records of a kernel, and compare them with the kernel's own counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from drgn_pageowner.model.arrays import sums
from drgn_pageowner.model.info import Consistency, Info
from drgn_pageowner.model.records import Snapshot

__all__ = ("consistency", "summarize")


def consistency(snapshot: Snapshot) -> Consistency | None:
    """
    Compare ``stack_record.count`` with the pages of the records.

    :return: ``None`` for kernels without a count, that is, before Linux kernel commit 217b2119b9e2
        ("mm,page_owner: implement the tracking of the stacks count") (in v6.9).
    """
    counts = snapshot.stacks.counts
    if counts is None:
        return None
    allocated = snapshot["allocated"]
    stacks = snapshot.stack[allocated]
    ours = sums(stacks[stacks >= 0], snapshot.pages[allocated][stacks >= 0], len(snapshot.stacks))
    # init_pages_in_zone() gives pages the early-boot stack without counting them.
    counted = (counts > 0) | ((ours > 0) & (counts >= 0))
    early = (counts == 0) & (ours > 0)
    counted &= ~early
    different = np.flatnonzero(counted & (counts != ours))
    by_size = different[np.argsort(-np.abs(counts - ours)[different], kind="stable")]
    return Consistency(
        stacks=int(counted.sum()),
        equal=int((counted & (counts == ours)).sum()),
        different=[
            (int(snapshot.stacks.handles[i]), int(counts[i]), int(ours[i])) for i in by_size
        ],
        kernel_pages=int(counts[counted].sum()),
        our_pages=int(ours[counted].sum()),
    )


def summarize(snapshot: Snapshot, modules: Sequence[str], panic_message: str | None) -> Info:
    """
    Compute the numbers that ``info`` prints.

    :param snapshot: A snapshot with records of freed pages and the columns ``handle`` and
        ``ts_nsec``.
    """
    allocated = snapshot["allocated"]
    stamps = snapshot["ts_nsec"][allocated] if "ts_nsec" in snapshot else np.zeros(0, np.uint64)
    stacks = snapshot.stack[allocated]
    return Info(
        facts=replace(snapshot.facts, panic_message=panic_message),
        records=snapshot.select(allocated).count(),
        freed_records=int((~allocated).sum()),
        pages=int(snapshot.pages[allocated].sum()) if snapshot.says_pages() else None,
        stacks=len(np.unique(stacks[stacks >= 0])),
        first_ns=int(stamps.min()) if len(stamps) else None,
        coverage=snapshot.coverage,
        consistency=consistency(snapshot),
        modules=modules,
        problems=snapshot.problems,
    )
