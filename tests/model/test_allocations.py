# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test finding allocations in hand-made pages."""

from __future__ import annotations

import numpy as np
from handmade import Machine

from drgn_pageowner.model.allocations import find_allocations
from drgn_pageowner.model.pages import PageState


def machine(states: str, heads: dict[int, int] | None = None):  # type: ignore[no-untyped-def]
    letters = {"k": PageState.KERNEL, "n": PageState.NOREF, ".": PageState.FREE,
               "s": PageState.SLAB, "r": PageState.RESERVED}  # fmt: skip
    pages = Machine("k" * len(states)).inventory().memory.pages
    pages.state[:] = [letters[letter] for letter in states]
    pages.columns["head"] = np.arange(len(states))
    for tail, head in (heads or {}).items():
        pages.columns["head"][tail] = head
    return pages


def found(pages, tagged=None):  # type: ignore[no-untyped-def]
    rows, sizes = find_allocations(pages, tagged)
    return list(zip(rows.tolist(), sizes.tolist(), strict=True))


def test_pages_without_references_belong_to_the_block_before_them() -> None:
    # A block of four, one of two that is aligned to two, and a page that is in no block.
    assert found(machine("knnnknk.")) == [(0, 4), (4, 2), (6, 1)]
    assert found(machine("kknnk...")) == [(0, 1), (1, 1), (4, 1)]


def test_compound_pages_say_their_size() -> None:
    assert found(machine("kkkkk", {1: 0, 2: 0, 3: 0})) == [(0, 4), (4, 1)]


def test_free_reserved_and_slab_pages_are_none() -> None:
    assert found(machine(".srnk")) == [(4, 1)]


def test_a_tag_begins_an_allocation_that_has_no_references() -> None:
    tagged = np.array([False, False, True, False])
    assert found(machine("knnn"), tagged) == [(0, 2), (2, 2)]
