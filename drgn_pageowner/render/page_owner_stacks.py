# SPDX-License-Identifier: LGPL-2.1-or-later
"""The texts of /sys/kernel/debug/page_owner_stacks, as ``stack_print()`` of mm/page_owner.c prints
them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.stacks import StackList

__all__ = ("FILES", "page_owner_stacks_text")

FILES = {
    "stacks": ("stack", "pages"),
    "handles": ("handle", "pages"),
    "stacks_handles": ("stack", "handle"),
}
"""The formats (each file is named ``show_`` and the format) -> the parts of a stack that it
prints."""


def page_owner_stacks_text(listed: StackList, format_: str) -> Iterator[str]:
    """
    Yield the text of one of the files, stack by stack.

    :param format_: A key of :data:`FILES`.
    :raises PageOwnerError: if *listed* comes from a text that lacks a part of it
    """
    parts = FILES[format_]
    known = {"stack": listed.offsets, "handle": listed.handles, "pages": listed.pages}
    for part in parts:
        if known[part] is None:
            raise PageOwnerError(f"this text does not say the {part} of its stacks")
    columns = [
        {"stack": _stacks, "handle": _handles, "pages": _pages}[part](listed) for part in parts
    ]
    shown = np.ones(len(columns[0]), bool)
    if "pages" in parts:
        assert listed.pages is not None
        # Stacks without pages are not printed; the threshold applies to the same files.
        shown = listed.pages >= max(listed.threshold, 1)
    for number in np.flatnonzero(shown).tolist():
        yield "".join(column[number] for column in columns) + "\n"


def _stacks(listed: StackList) -> list[str]:
    offsets, pcs = listed.offsets, listed.pcs
    assert offsets is not None
    unique, inverse = np.unique(pcs, return_inverse=True)
    names = [f" {frame}\n" for frame in listed.symbolizer.symbolize(unique)]
    lines: Array = np.array(names, object)[inverse] if names else np.zeros(0, object)
    return ["".join(lines[start:end].tolist()) for start, end in pairwise(offsets.tolist())]


def _handles(listed: StackList) -> list[str]:
    assert listed.handles is not None
    # The kernel prints an unsigned number with "%d".
    return [f"handle: {handle}\n" for handle in listed.handles.astype(np.int32).tolist()]


def _pages(listed: StackList) -> list[str]:
    assert listed.pages is not None
    return [f"nr_base_pages: {pages}\n" for pages in listed.pages.tolist()]
