# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test numbers that are not PFNs."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.kernel.read.numbers import _markers


def test_ends_of_empty_lists_are_no_numbers_of_pages() -> None:
    markers = 2 * np.arange(1000, 1200, dtype=np.uint64) + 1
    assert _markers(markers).all()
    # A bucket in use interrupts the sequence.
    used = np.concatenate([markers[:100], np.array([7], np.uint64), markers[101:]])
    assert _markers(used).sum() == 199


def test_pages_that_follow_one_another_are_none() -> None:
    for step, first in ((1, 1000), (2, 1000), (4, 1001)):
        assert not _markers(np.arange(first, first + 200 * step, step, dtype=np.uint64)).any()
    # Such a short run may be PFNs of a driver.
    assert not _markers(np.arange(1001, 1001 + 2 * 32, 2, dtype=np.uint64)).any()
    assert _markers(np.zeros(0, np.uint64)).tolist() == []
