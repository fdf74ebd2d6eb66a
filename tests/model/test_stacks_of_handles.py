# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stack of a handle, found by binary search or in a table."""

from __future__ import annotations

import numpy as np
import pytest

from drgn_pageowner.model import stacks as module
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.stacks import Stacks

pytestmark = pytest.mark.quick


def stacks_of(handles: Array) -> Stacks:
    """A stack of one frame for each handle."""
    number = len(handles)
    return Stacks(handles, np.arange(number + 1), np.arange(number, dtype=np.uint64))


@pytest.mark.parametrize(
    "spread", [1 << 10, 1 << 32], ids=["pools and offsets", "any 32-bit number"]
)
def test_many_handles_are_found_as_one_is(monkeypatch: pytest.MonkeyPatch, spread: int) -> None:
    monkeypatch.setattr(module, "_MANY", 64)
    random = np.random.default_rng(1)
    numbers = random.integers(1, spread, 5000).astype(np.uint64)
    if spread < 1 << 16:
        # The number of a pool in the lower half, an offset in the upper one.
        numbers = numbers << np.uint64(16) | random.integers(0, 40, 5000).astype(np.uint64)
    handles = np.unique(numbers.astype(np.uint32))
    known = stacks_of(handles)
    asked = np.concatenate([handles, handles + np.uint32(1), np.zeros(3, np.uint32)])
    one_by_one = [int(known.index(asked[i : i + 1])[0]) for i in range(len(asked))]
    assert known.index(asked).tolist() == one_by_one
    assert known.index(handles).tolist() == list(range(len(handles)))
    assert known.index(np.zeros(100, np.uint32)).tolist() == [-1] * 100
    assert known.index(asked).dtype == np.int64
