# SPDX-License-Identifier: LGPL-2.1-or-later
"""Group memory by the clues that its content gives of its owner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.fingerprint import Clue, Contents, Fingerprint

__all__ = ("EXAMPLE_BYTES", "fingerprints")

EXAMPLE_BYTES = 128
"""Number of bytes of an example that are stored."""
# Maximum number of clues in a fingerprint; those at the lowest offsets are kept.
_MOST_CLUES = 24


def fingerprints(
    contents: Contents, kinds: Array, read: Callable[[Array, int], Sequence[bytes]]
) -> tuple[Array, list[Fingerprint]]:
    """
    Compute the fingerprint of each piece of memory.

    A fingerprint consists of the clues that several pieces have at the same offset. A clue that
    only one piece has is usually a leftover of an earlier use of the memory, and is ignored. A
    piece without any shared clue is compared by all of its clues, whatever their offsets.

    :param kinds: ``int64``, shape ``(n,)``: kind of each piece. Pieces of different kinds never
        have the same fingerprint.
    :param read: Takes addresses and a number of bytes; returns the contents at each address.
    :return: ``int32``, shape ``(n,)``: the index of each piece's fingerprint, -1 if the piece is
        not in the dump; and the fingerprints, those of most pieces first.
    """
    number = len(contents.there)
    width = np.int64(len(contents.tokens) + 1)
    pair = contents.offset.astype(np.int64) * width + contents.token
    _, kind = np.unique(kinds, return_inverse=True)
    comparable = kind[contents.piece] * (np.int64(1) << 44) + pair
    _, inverse, counts = np.unique(comparable, return_inverse=True, return_counts=True)
    shared = counts[inverse] > 1
    sharing = np.zeros(number, bool)
    sharing[contents.piece[shared]] = True
    kept = shared | ~sharing[contents.piece]
    piece, pair = contents.piece[kept].astype(np.int64), pair[kept]
    alone = ~sharing[piece]
    compared = np.where(alone, pair % width - width, pair)
    _, once = np.unique(piece * (np.int64(1) << 40) + compared, return_index=True)
    # The key of a piece is the sum of the hashes of its clues, so it does not depend on their
    # order. Each clue that is compared occurs once in a piece.
    key = np.zeros(number, np.uint64)
    np.add.at(key, piece[once], _mix(compared[once].astype(np.uint64)))
    key[contents.zero] = 1
    key = _mix(key) + _mix(kinds.astype(np.uint64) + np.uint64(1 << 32))
    known = np.flatnonzero(contents.there)
    _, first, which, number_of = np.unique(
        key[known], return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(-number_of, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    result = np.full(number, -1, np.int32)
    result[known] = rank[which]
    examples = known[first[order]]
    starts = np.searchsorted(piece, examples, "left")
    ends = np.searchsorted(piece, examples, "right")
    found = []
    bytes_of = read(contents.address[examples], EXAMPLE_BYTES)
    for place, example in enumerate(examples.tolist()):
        clues = [
            Clue(int(code // width), *contents.tokens[int(code % width)])
            for code in pair[starts[place] : ends[place]][:_MOST_CLUES].tolist()
        ]
        found.append(
            Fingerprint(
                clues=clues,
                zero=bool(contents.zero[example]),
                example=int(contents.address[example]),
                bytes=bytes_of[place].hex(),
                shared=int(number_of[order[place]]),
            )
        )
    return result, found


def _mix(values: Array) -> Array:
    """Spread *values* over 64 bits (splitmix64)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        result: Array = values ^ (values >> np.uint64(31))
    return result
