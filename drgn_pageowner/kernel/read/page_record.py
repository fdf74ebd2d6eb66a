# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the page_owner record of one page."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    Problems,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms
from drgn_pageowner.kernel.linux.page_ext import PageExtLayout, page_ext_layout, page_owner_state
from drgn_pageowner.kernel.linux.page_owner import gfp_migratetype, owner_dtype
from drgn_pageowner.kernel.linux.printk import local_clock_ns
from drgn_pageowner.kernel.linux.sections import Section
from drgn_pageowner.kernel.linux.stackdepot import read_stacks
from drgn_pageowner.kernel.linux.trace import intern_traces
from drgn_pageowner.kernel.linux.zones import max_page_order
from drgn_pageowner.model.page import PageRecord, record_of
from drgn_pageowner.model.stacks import Frame, Stacks

__all__ = ("page_record",)


def page_record(
    kernel: Kernel, section: Section | None, pfn: int, problems: Problems
) -> tuple[PageRecord | None, str | None]:
    """
    Read the page_owner record of a page, or find the reason why the page has none.

    :param section: Section of *pfn*.
    :param problems: Collects a line for each part that cannot be read.
    :return: The record, or ``None``; and the reason why there is no record, or ``None``.
    """
    state = page_owner_state(kernel)
    if state in NO_RECORDS:
        return None, NO_RECORDS[state]
    if section is None or not section.page_ext:
        return None, "its section has no page_ext"
    layout = page_ext_layout(kernel)
    dtype = owner_dtype(kernel)

    def entry(pfn: int) -> np.void | None:
        address = section.page_ext + (pfn - section.start_pfn) * layout.stride
        data = problems.attempt("record", lambda: kernel.prog.read(address, layout.stride))
        row: np.void | None = None if data is None else np.frombuffer(data, dtype, 1)[0]
        return row

    row = entry(pfn)
    if row is None:
        return None, "its page_ext is not in the dump"
    if not int(row["flags"]) & layout.owner_bit and not layout.tails:
        found = _row_of_block(kernel, section, layout, pfn, entry)
        row = row if found is None else found
    if not int(row["flags"]) & layout.owner_bit:
        when = "never allocated" if layout.tails else "free, or not allocated"
        return None, f"page_owner has none: {when} since page_owner was on"
    return _describe(
        kernel, problems, pfn, row, bool(int(row["flags"]) & layout.allocated_bit)
    ), None


def _row_of_block(
    kernel: Kernel,
    section: Section,
    layout: PageExtLayout,
    pfn: int,
    entry: Callable[[int], np.void | None],
) -> np.void | None:
    """
    Read the record of the allocation that contains *pfn*, on kernels that record an allocation only
    at its first page.
    """
    for order in range(1, max_page_order(kernel) + 1):
        head = max(pfn & -(1 << order), section.start_pfn)
        row = entry(head)
        if row is not None and int(row["flags"]) & layout.owner_bit and row["order"] >= order:
            return row
    return None


def _describe(
    kernel: Kernel, problems: Problems, pfn: int, row: np.void, allocated: bool
) -> PageRecord:
    values = {name: row[name].tolist() for name in row.dtype.names or ()}
    if "trace_entries" in values:
        _, trace, _ = intern_traces(np.array([row["nr_entries"]]), np.array([row["trace_entries"]]))
        stacks = [load_kallsyms(kernel).symbolize(trace[0]), []]
    else:
        handles = [values.get("handle") or 0, values.get("free_handle") or 0]
        stacks = _stacks(kernel, problems, handles)
    order = values["order"]
    return record_of(
        values,
        stacks,
        allocated=allocated,
        head_pfn=pfn & -(1 << order) if 0 <= order < 48 else pfn,
        migratetype=int(gfp_migratetype(kernel, np.array([row["gfp_mask"]]))[0]),
        now_ns=local_clock_ns(kernel),
    )


def _stacks(kernel: Kernel, problems: Problems, handles: list[int]) -> list[list[Frame]]:
    """Get the frames of each of *handles*; empty for a handle that is not in the depot."""
    wanted = np.unique(np.array(handles, np.uint32))
    try:
        stacks, bad = read_stacks(kernel, wanted)
    except (PageOwnerError, *DAMAGE) as error:
        unless_mistaken(error)
        problems.add(str(error))
        stacks, bad = Stacks.empty(), wanted[:0]
    for handle in bad:
        problems.add(f"handle {int(handle):#x} is not in the stack depot")
    kallsyms = load_kallsyms(kernel)
    numbers = stacks.index(np.array(handles, np.uint32)).tolist()
    return [kallsyms.symbolize(stacks[number]) for number in numbers]
