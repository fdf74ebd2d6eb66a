# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read stacks that are stored in the records themselves, on kernels whose page_owner does not use the
stack depot.
"""

from __future__ import annotations

import numpy as np
from drgn import Object

from drgn_pageowner.kernel.dump.bulk import has_member
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.stacks import Stacks

__all__ = ("TRACE_MEMBERS", "intern_traces", "record_trace")

TRACE_MEMBERS = {
    # A struct stack_trace until Linux kernel commit 94f759d62b2c ("mm/page_owner.c: remove
    # unnecessary stack_trace field") (in v4.0). The stack moved to the stack depot in f2ca0b557107
    # ("mm/page_owner: use stackdepot to store stacktrace") (in v4.8).
    "nr_entries": ("nr_entries", "trace.nr_entries"),
    "trace_entries": ("trace_entries",),
}
"""Members of a record with its stack: name of the field -> alternative paths of the member, at most
one of which exists in a kernel."""


def intern_traces(number: Array, entries: Array) -> tuple[Array, Stacks, int]:
    """
    Give every distinct stack a handle, as the stack depot of later kernels does.

    The kernel does not know these handles: they count from 1 in the order of the stacks' PCs. The
    empty stack has a handle as well.

    :param number: ``page_ext.nr_entries`` of each record: shape ``(n,)``.
    :param entries: ``page_ext.trace_entries`` of each record: ``uint64``, shape ``(n, capacity)``.
    :return: The handle of each record (``uint32``, shape ``(n,)``), the stacks, and the number of
        records whose ``nr_entries`` is greater than the capacity.
    """
    capacity = entries.shape[1]
    depth = np.minimum(number, capacity).astype(np.int64)
    keys = np.zeros((len(entries), capacity + 1), np.uint64)
    used = np.arange(capacity) < depth[:, np.newaxis]
    keys[:, :capacity] = entries * used
    keys[:, capacity] = depth
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    depths = distinct[:, capacity].astype(np.int64)
    stacks = Stacks(
        np.arange(1, len(distinct) + 1, dtype=np.uint32),
        np.concatenate(([0], np.cumsum(depths))).astype(np.int64),
        distinct[:, :capacity][np.arange(capacity) < depths[:, np.newaxis]],
    )
    # NumPy 2.0 returned the inverse with another shape.
    handles = inverse.reshape(-1).astype(np.uint32) + np.uint32(1)
    return handles, stacks, int(np.count_nonzero(number > capacity))


def record_trace(owner: Object) -> list[int] | None:
    """
    Get the stack that is stored in one record: its PCs, innermost first.

    :param owner: ``struct page_ext *``
    :return: ``None`` if this kernel does not store stacks in records.
    """
    type_ = owner.type_.type
    if not has_member(type_, "trace_entries"):
        return None
    trace = owner if has_member(type_, "nr_entries") else owner.trace
    entries = owner.trace_entries.value_()
    pcs: list[int] = entries[: int(trace.nr_entries)]
    return pcs
