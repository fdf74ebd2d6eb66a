# SPDX-License-Identifier: LGPL-2.1-or-later
"""Orders and task names of records, from arrays typed in."""

from __future__ import annotations

import numpy as np
import pytest

from drgn_pageowner.kernel.linux.page_owner import OwnerCounts, _sane_orders, _terminated

pytestmark = pytest.mark.quick

MAX_PFN = 1 << 12


@pytest.mark.parametrize(
    ("orders", "pfns", "sane", "bad"),
    [
        ([0, 3, 9], [0, 8, 512], [0, 3, 9], 0),
        # The block of 2^9 pages that the page is in ends where memory ends.
        ([9], [MAX_PFN - 1], [9], 0),
        # The last page's block of the largest order ends after memory, its own does not.
        ([10, 0], [8, MAX_PFN - 1], [10, 0], 0),
        ([11, 0], [8, MAX_PFN - 1], [11, 0], 0),
        ([13, 0], [8, 16], [0, 0], 1),
        ([-1, 2], [8, 16], [0, 2], 1),
        ([60, 63, 1], [8, 16, 18], [0, 0, 1], 2),
        ([], [], [], 0),
    ],
)
def test_an_order_that_no_allocation_has_is_replaced(
    orders: list[int], pfns: list[int], sane: list[int], bad: int
) -> None:
    counts = OwnerCounts()
    found = _sane_orders(np.array(orders, np.int16), np.array(pfns, np.int64), MAX_PFN, counts)
    assert found.tolist() == sane
    assert counts.bad_order == bad


def test_what_follows_the_nul_of_a_task_name_is_cleared() -> None:
    stored = (b"kworker/0:1\0old", b"sh\0\0\0\0abc\0d", b"sixteen bytes, x", b"", b"\0x")
    names = np.frombuffer(b"".join(name.ljust(16, b"\0") for name in stored), "S16").copy()
    cleared = (b"kworker/0:1", b"sh", b"sixteen bytes, x", b"", b"")
    assert _terminated(names).tobytes() == b"".join(name.ljust(16, b"\0") for name in cleared)
