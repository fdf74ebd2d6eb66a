# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test grouping memory by hand-made clues."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drgn_pageowner.analysis.leaks.fingerprint import fingerprints
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.fingerprint import Contents, Fingerprint

TOKENS = [("symbol", "ops"), ("page", ""), ("text", "item-")]


def grouped(
    *pieces: Sequence[tuple[int, int]] | None, kinds: Sequence[int] | None = None
) -> tuple[list[int], list[Fingerprint]]:
    """Return the fingerprints of pieces of memory, given by their clues (offset, token); ``None``
    for an unreadable piece."""
    rows = [(n, o, t) for n, clues in enumerate(pieces) for o, t in clues or ()]
    piece, offset, token = np.array(rows or np.zeros((0, 3)), np.int32).reshape(-1, 3).T
    contents = Contents(
        address=0x1000 * np.arange(1, len(pieces) + 1, dtype=np.uint64),
        zero=np.array([clues is not None and not clues for clues in pieces], bool),
        there=np.array([clues is not None for clues in pieces], bool),
        piece=piece,
        offset=offset,
        token=token,
        tokens=TOKENS,
    )

    def read(addresses: Array, size: int) -> list[bytes]:
        return [int(address).to_bytes(8, "little") for address in addresses.tolist()]

    numbers, found = fingerprints(contents, np.array(kinds or [0] * len(pieces), np.int64), read)
    return numbers.tolist(), found


def test_what_several_have_at_one_offset_makes_a_group() -> None:
    # Clues of only one piece are ignored.
    numbers, found = grouped([(16, 0), (40, 1)], [(16, 0)], [(16, 0)], [])
    assert numbers == [0, 0, 0, 1]
    assert [(f.shared, f.zero, f.text) for f in found] == [
        (3, False, "address of ops at +0x10"), (1, True, "all zero"),
    ]  # fmt: skip
    assert found[0].example == 0x1000
    assert bytes.fromhex(found[0].bytes)[1] == 0x10


def test_what_shares_no_offset_is_compared_by_what_it_has() -> None:
    numbers, found = grouped([(8, 1)], [(16, 1)], [(24, 1), (32, 1)], [(0, 2)])
    assert numbers == [0, 0, 0, 1]
    assert found[0].shared == 3


def test_kinds_have_nothing_in_common() -> None:
    numbers, found = grouped([(16, 0)], [(16, 0)], [], [], kinds=[1, 2, 1, 2])
    assert sorted(numbers) == [0, 1, 2, 3]
    assert len(found) == 4


def test_what_is_not_in_the_dump_has_none() -> None:
    assert grouped(None, [(0, 2)])[0] == [-1, 0]
    assert grouped() == ([], [])
