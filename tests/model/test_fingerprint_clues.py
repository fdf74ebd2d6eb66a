# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test finding clues in hand-made words."""

from __future__ import annotations

import numpy as np

from drgn_pageowner.model.fingerprint import Clue, Fingerprint, find_numbers, find_text


def words(*pieces: bytes) -> np.ndarray:
    return np.stack([np.frombuffer(piece.ljust(64, b"\0"), np.uint64) for piece in pieces])


def test_text_begins_where_it_does_and_ends_at_the_first_digit() -> None:
    data = words(
        b"item-17", b"\1\2\3\4\5\6\7\x08GET /index 1", b"\0" * 9 + b"not at a word", b"12345678"
    )
    row, column, text = find_text(data)
    found = dict(zip(zip(row.tolist(), column.tolist(), strict=True), text.tolist(), strict=True))
    assert found == {(0, 0): b"item-", (1, 1): b"GET /index ", (2, 2): b"a word"}


def test_bytes_behind_a_text_make_it_none() -> None:
    assert len(find_text(words(b"abcd\0\0\1\0", b"abc\0\0\0\0\0"))[0]) == 0


def test_numbers_are_known_whole_and_in_half() -> None:
    data = np.array([0xDEAD000000000100, 0xDEAD4EAD, 5, 0x57AC6E9D00000001], np.uint64)
    places, which, names = find_numbers(data)
    found = {
        place: names[name] for place, name in zip(places.tolist(), which.tolist(), strict=True)
    }
    assert found == {0: "LIST_POISON1", 1: "SPINLOCK_MAGIC", 3: "STACK_END_MAGIC"}


def test_clues_that_name_an_owner_come_first() -> None:
    clues = [Clue(0, "itself", ""), Clue(8, "itself", ""), Clue(16, "symbol", "ops [mod]")]
    found = Fingerprint(clues, False, 0x1000, "", 3)
    assert found.text == "address of ops [mod] at +0x10; address of itself at +0x0, +0x8"
    assert Fingerprint([], True, 0, "", 1).text == "all zero"
    many = [Clue(8 * n, "page", "") for n in range(5)]
    assert Fingerprint(many, False, 0, "", 1).text == (
        "address of a page at +0x0, +0x8, +0x10 and 2 more"
    )
