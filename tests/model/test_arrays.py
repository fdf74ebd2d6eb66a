# SPDX-License-Identifier: LGPL-2.1-or-later
"""Operations on arrays, against what they are short for."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.model.arrays import cover, ranges


def test_ranges_follow_one_another() -> None:
    result = ranges(np.array([5, 100, 7, 0]), np.array([3, 0, 1, 2]))
    assert result.tolist() == [5, 6, 7, 7, 0, 1]
    assert ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_runs_cover_rows_up_to_the_end() -> None:
    covered = cover(6, np.array([1, -1, 4, 0]), np.array([2, 3, 9, 1]))
    assert covered.tolist() == [3, 0, 0, -1, 2, 2]
