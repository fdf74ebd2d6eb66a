# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of all pages: rows and PFNs."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest

from drgn_pageowner.model.contents import PfnRanges
from drgn_pageowner.model.pages import Heads, Pages


def pages_of(*pieces: tuple[int, int]) -> Pages:
    """Return pages without columns: those of half-open ranges of PFNs."""
    start, end = np.array(pieces, np.int64).reshape(-1, 2).T
    offsets = np.concatenate([[0], np.cumsum(end - start)])
    return Pages(facts=Mock(), names=Mock(), starts=start, offsets=offsets, columns={})


@pytest.mark.parametrize("pieces", [(), ((0, 8),), ((3, 9), (12, 20), (20, 23), (40, 41))])
@pytest.mark.parametrize(
    "pfns", [(), ((0, 50),), ((1, 3), (8, 9), (22, 40)), ((9, 12), (13, 14), (18, 21), (45, 50))]
)
def test_pages_within_ranges(
    pieces: tuple[tuple[int, int], ...], pfns: tuple[tuple[int, int], ...]
) -> None:
    pages = pages_of(*pieces)
    ranges = PfnRanges(*np.array(pfns, np.int64).reshape(-1, 2).T)
    assert np.array_equal(pages.within(ranges), ranges.has(pages.all_pfns()))


@pytest.mark.parametrize("tails", [(), (3, 4), (1, 2, 3, 5, 6, 7)])
def test_heads_are_those_of_a_whole_column(tails: tuple[int, ...]) -> None:
    expected = np.arange(8, dtype=np.int32)
    expected[list(tails)] -= 1
    column = Heads.of(8, np.array(tails, np.int32), np.array(tails, np.int32) - 1)
    assert isinstance(column, np.ndarray) == (len(tails) > 4)
    assert (len(column), column.dtype) == (8, np.int32)
    assert np.asarray(column).tolist() == expected.tolist()
    for rows in (np.array([7, 3, 0]), np.arange(8) % 3 == 0, slice(2, 6), slice(None, None, 3)):
        assert column[rows].tolist() == expected[rows].tolist()
    assert int(column[4]) == int(expected[4])
