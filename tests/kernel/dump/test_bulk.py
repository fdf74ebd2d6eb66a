# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test reading ranges with missing pages."""

from __future__ import annotations

from typing import Any, cast

import pytest
from drgn import FaultError, Program
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_pageowner.kernel.dump.bulk import read_bulk

PAGE = 16


class Holes:
    """A program with missing pages; a fault has the address of the first missing byte, or of the
    start of the read."""

    def __init__(self, gone: set[int], exact: bool) -> None:
        self._gone = gone
        self._exact = exact
        self.reads = 0

    def __getitem__(self, name: str) -> int:
        return {"PAGE_SIZE": PAGE}[name]

    def read(self, address: int, size: int, physical: bool = False) -> bytes:
        self.reads += 1
        for page in range(address // PAGE, (address + size - 1) // PAGE + 1):
            if page in self._gone:
                raise FaultError("gone", max(page * PAGE, address) if self._exact else address)
        return bytes(byte & 0xFF for byte in range(address, address + size))


@given(
    gone=st.sets(st.integers(0, 60), max_size=12),
    exact=st.booleans(),
    address=st.integers(0, 300),
    size=st.integers(1, 700),
)
@settings(max_examples=300, deadline=None)
def test_exactly_what_is_not_there_is_missing(
    gone: set[int], exact: bool, address: int, size: int
) -> None:
    bulk = read_bulk(cast(Any, Holes(gone, exact)), address, size)
    missing = {at for offset, number in bulk.missing for at in range(offset, offset + number)}
    assert missing == {at for at in range(size) if (address + at) // PAGE in gone}
    for at in range(size):
        assert bulk.data[at] == (0 if at in missing else (address + at) & 0xFF)
    assert all(sum(one) < two[0] for one, two in zip(bulk.missing, bulk.missing[1:], strict=False))


@pytest.mark.parametrize("exact", [True, False])
def test_a_hole_in_much_memory_is_found_in_few_reads(exact: bool) -> None:
    prog = Holes({70_000}, exact)
    bulk = read_bulk(cast(Program, prog), 0, 100_000 * PAGE)
    assert bulk.missing == [(70_000 * PAGE, PAGE)]
    assert prog.reads < 50
