# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read ``stack_list`` of mm/page_owner.c, the list of stacks with the numbers of their pages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.kernel.dump.bulk import (
    byte_order,
    find_object,
    find_type,
    gather,
    has_member,
    read_bulk,
    words,
)
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms
from drgn_pageowner.kernel.linux.page_ext import page_owner_state
from drgn_pageowner.kernel.linux.stackdepot import read_stacks
from drgn_pageowner.model.arrays import Array, ranges
from drgn_pageowner.model.stacks import StackList
from drgn_pageowner.units import counted

__all__ = ("read_stack_list",)

_FILE = "mm/page_owner.c"
# The depot has room for fewer stacks: 8192 pools of 16 KiB, and records of at least 32 bytes.
_MOST_STACKS = 1 << 22


def read_stack_list(kernel: Kernel) -> StackList:
    """
    Read page_owner's list of stacks, including stacks without pages.

    The order is that of the files in ``/sys/kernel/debug/page_owner_stacks``.

    :raises PageOwnerError: if page_owner is off, or this kernel's page_owner has no such list
    """
    state = page_owner_state(kernel)
    if state in NO_RECORDS:
        raise PageOwnerError(NO_RECORDS[state])
    first = find_object(kernel.prog, "stack_list", _FILE)
    record = find_type(kernel.prog, "struct stack_record")
    if first is None or record is None or not has_member(record, "count"):
        # The list was added in Linux kernel commit 217b2119b9e2 ("mm,page_owner: implement the
        # tracking of the stacks count") (in v6.9).
        raise PageOwnerError(
            "this kernel's page_owner has no list of stacks (it has since v6.9): top --by stack "
            "counts the pages of each"
        )
    records, problems = _records(kernel, int(first), _stack_layout(kernel))
    handles = _handles(kernel, records, problems)
    stacks, bad = read_stacks(kernel, np.unique(handles))
    number = stacks.index(handles)
    if len(bad):
        problems.append(f"{counted(len(bad), 'stack')} of page_owner's list not in the stack depot")
        handles, number = handles[number >= 0], number[number >= 0]
    depths = stacks.depths()[number]
    offsets = np.zeros(len(number) + 1, np.int64)
    np.cumsum(depths, out=offsets[1:])
    threshold = find_object(kernel.prog, "page_owner_pages_threshold", _FILE)
    return StackList(
        handles=handles,
        pages=stacks.counts[number] if stacks.counts is not None else np.zeros(0, np.int64),
        offsets=offsets,
        pcs=stacks.pcs[ranges(stacks.offsets[number], depths)],
        symbolizer=load_kallsyms(kernel),
        threshold=int(threshold) if threshold is not None else 0,
        problems=problems,
    )


def _stack_layout(kernel: Kernel) -> tuple[int, int, int]:
    """Get the offsets of ``stack_record`` and ``next`` in ``struct stack``, and its size."""
    type_ = kernel.prog.type("struct stack", filename=_FILE)
    return type_.member("stack_record").offset, type_.member("next").offset, int(type_.size)


def _records(
    kernel: Kernel, address: int, layout: tuple[int, int, int]
) -> tuple[list[int], list[str]]:
    """
    Get the address of every ``struct stack_record`` on page_owner's list.

    :param address: Address of the first ``struct stack``.
    :param layout: Result of :func:`_stack_layout`.
    :return: The addresses, and messages about damage of the list.
    """
    at_record, at_next, size = layout
    word = kernel.word.itemsize
    page_size = kernel.page_size
    found: list[int] = []
    seen: set[int] = set()
    # The elements are small, so that a page has many of them.
    pages: dict[int, Sequence[int]] = {}
    while address:
        if address in seen or len(seen) > _MOST_STACKS:
            return found, ["page_owner's list of stacks runs in a ring: it is damaged"]
        seen.add(address)
        page, at = address - address % page_size, address % page_size
        if page not in pages:
            whole = read_bulk(kernel.prog, page, page_size)
            pages[page] = [] if whole.missing else words(kernel.prog, whole.data).tolist()
        values = pages[page]
        if not values or at % word or at + size > page_size:
            bulk = read_bulk(kernel.prog, address, size)
            if bulk.missing:
                return found, [
                    f"page_owner's list of stacks goes on at {address:#x}, which is not in the dump"
                ]
            values, at = words(kernel.prog, bulk.data).tolist(), 0
        record, address = values[(at + at_record) // word], values[(at + at_next) // word]
        if record:
            found.append(record)
    return found, []


def _handles(kernel: Kernel, records: list[int], problems: list[str]) -> Array:
    """
    Read the handles in ``struct stack_record``; records that cannot be read are left out.

    :param records: Addresses of the records.
    :param problems: List of messages, to which a line is added if records cannot be read.
    :return: ``uint32``.
    """
    at = kernel.prog.type("struct stack_record").member("handle").offset
    addresses = np.array(records, np.uint64) + np.uint64(at)
    handles, there = gather(kernel.prog, addresses, np.dtype(f"{byte_order(kernel.prog)}u4"))
    missing = int(np.count_nonzero(~there))
    if missing:
        problems.append(f"{counted(missing, 'stack')} of page_owner's list not in the dump")
    return handles[there].astype(np.uint32)
