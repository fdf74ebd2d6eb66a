# SPDX-License-Identifier: LGPL-2.1-or-later
"""``distinct`` is ``np.unique`` for every integer type, up to its ends."""

from __future__ import annotations

import numpy as np
import pytest

from drgn_pageowner.model.arrays import distinct


@pytest.mark.parametrize(
    "values, kind",
    [
        # last_migrate_reason of a damaged record beside -1: the difference is no int16.
        ([0x7FFF, -1, 3, -1], "i2"),
        ([-0x8000, 0x7FFF, 0], "i2"),
        ([-128, 127, 0, 127], "i1"),
        ([0, 255, 7], "u1"),
        ([2**64 - 1, 2**64 - 5, 2**64 - 1], "u8"),
        ([2**63 - 1, 2**63 - 9], "i8"),
        ([-(2**63), 4 - 2**63], "i8"),
        ([-(2**63), 2**63 - 1], "i8"),
        ([5], "i4"),
        ([], "i4"),
    ],
)
def test_the_ends_of_a_type(values: list[int], kind: str) -> None:
    array = np.array(values, kind)
    found, inverse = distinct(array)
    expected, places = np.unique(array, return_inverse=True)
    assert found.dtype == array.dtype
    assert found.tolist() == expected.tolist()
    assert inverse.tolist() == places.tolist()
