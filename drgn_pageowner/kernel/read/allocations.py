# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the page allocations of a kernel without page_owner records."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.alloc_tag import page_references
from drgn_pageowner.kernel.read.tags import read_tagged
from drgn_pageowner.model.allocations import find_allocations
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.pages import Pages
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Stacks
from drgn_pageowner.model.tags import tag_stacks

__all__ = ("read_allocations",)


def read_allocations(kernel: Kernel, pages: Pages) -> Snapshot:
    """
    Find all page allocations from the state of each ``struct page``, and return them as records.

    If an allocation has an allocation tag (:mod:`drgn_pageowner.model.tags`), its stack is one
    frame, the function of the tag; otherwise it has no stack.

    :param pages: All pages, with the column ``head``.
    :return: Snapshot with the columns ``pfn``, ``order``, ``handle``, ``allocated``, and, if this
        kernel has tags, ``tag``.
    """
    if page_references(kernel) is None:
        rows, sizes = find_allocations(pages)
        return _snapshot(pages, rows, sizes)
    tagged = read_tagged(kernel, pages, None)
    marked = np.zeros(len(pages), bool)
    marked[tagged.row] = True
    rows, sizes = find_allocations(pages, marked)
    tag_of_row = np.full(len(pages), -1, np.int32)
    tag_of_row[tagged.row] = tagged.tag
    result = _snapshot(pages, rows, sizes)
    tag = tag_of_row[rows]
    stacks, frames, lines = tag_stacks(tagged.tags)
    result.columns |= {"tag": tag, "handle": (tag + 1).astype(np.uint32)}
    result.stacks, result.tags, result.source_lines = stacks, tagged.tags, lines
    result._frames.update(frames)
    result.problems += tagged.problems
    return result


def _snapshot(pages: Pages, rows: Array, sizes: Array) -> Snapshot:
    return Snapshot(
        facts=pages.facts,
        names=pages.names,
        columns={
            "pfn": pages.pfns(rows),
            "order": np.log2(sizes).astype(np.uint8),
            "handle": np.zeros(len(rows), np.uint32),
            "allocated": np.ones(len(rows), bool),
        },
        stacks=Stacks.empty(),
    )
