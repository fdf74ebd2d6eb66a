# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that a flattened dump reads as the original file."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pytest

from drgn_pageowner.kernel.dump.flattened import Flattened, rearranged


def flatten(data: bytes, sizes: list[int], *, end: bool = True, shuffle: int = 0) -> bytes:
    """Return *data* in the format of makedumpfile -F, in pieces of *sizes*, which are repeated."""
    pieces = []
    position = number = 0
    while position < len(data):
        size = sizes[number % len(sizes)]
        pieces.append((position, data[position : position + size]))
        position += size
        number += 1
    if shuffle:
        random.Random(shuffle).shuffle(pieces)
    text = b"makedumpfile\0".ljust(4096, b"\0")
    text += b"".join(struct.pack(">qq", at, len(piece)) + piece for at, piece in pieces)
    return text + struct.pack(">qq", -1, -1) * end


DATA = bytes(random.Random(1).randbytes(100_000))


@pytest.mark.parametrize("shuffle", [0, 7])
@pytest.mark.parametrize("sizes", [[1000], [4096, 13, 20_000]])
def test_pieces_read_as_the_file_they_are_of(sizes: list[int], shuffle: int) -> None:
    inner = Flattened.of(io.BytesIO(flatten(DATA, sizes, shuffle=shuffle)))
    assert inner is not None
    assert inner.whole
    assert inner.read() == DATA
    inner.seek(5_000)
    assert inner.read(30_000) == DATA[5_000:35_000]


def test_a_file_that_is_not_flattened_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(DATA)
    assert rearranged(str(path)) is None
    path.write_bytes(flatten(DATA, [1000]))
    assert rearranged(str(path)) is None


def test_a_cut_off_file_has_its_pieces_up_to_there_and_zeros(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    whole = flatten(DATA, [1000], end=False)
    path.write_bytes(whole[: 4096 + 10 * 1016 + 16 + 300])
    out = rearranged(str(path))
    assert out is not None
    out.seek(0)
    assert out.read() == DATA[:10_300]


def test_a_piece_of_impossible_size_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    whole = flatten(DATA[:3000], [1000], end=False)
    path.write_bytes(whole + struct.pack(">qq", 3000, 1 << 40) + b"x")
    out = rearranged(str(path))
    assert out is not None
    out.seek(0)
    assert out.read() == DATA[:3000]
