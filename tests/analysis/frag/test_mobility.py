# SPDX-License-Identifier: LGPL-2.1-or-later
"""The numbers of pageblocks, without a column of them."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest

from drgn_pageowner.analysis.frag import mobility
from drgn_pageowner.analysis.frag.mobility import Blocks
from drgn_pageowner.model.pages import Pages

ORDER = 3


@pytest.mark.parametrize(
    "pieces",
    [(), ((0, 40),), ((5, 9), (12, 20), (21, 23), (40, 41), (80, 99)), ((16, 32), (64, 80))],
)
def test_blocks_are_those_of_the_pages(
    pieces: tuple[tuple[int, int], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobility, "_PIECE", 12)
    start, end = np.array(pieces, np.int64).reshape(-1, 2).T
    offsets = np.concatenate([[0], np.cumsum(end - start)])
    facts = Mock(pageblock_order=ORDER)
    pages = Pages(facts=facts, names=Mock(), starts=start, offsets=offsets, columns={})
    expected = pages.all_pfns() >> ORDER
    blocks = Blocks(pages)
    assert len(blocks) == len(expected)
    for rows in (np.arange(len(expected)), np.arange(len(expected))[::-3], np.zeros(0, np.int64)):
        assert blocks[rows].tolist() == expected[rows].tolist()
    assert blocks[2:7].tolist() == expected[2:7].tolist()
    assert blocks[:].dtype == np.int32

    first = np.flatnonzero(np.diff(expected, prepend=-1))
    assert [part.tolist() for part in blocks.starts()] == [first.tolist(), expected[first].tolist()]

    cut = [blocks[piece] for piece in blocks.pieces()]
    assert [number for part in cut for number in part.tolist()] == expected.tolist()
    # No block is in two pieces.
    assert len({number for part in cut for number in part.tolist()}) == sum(
        len(set(part.tolist())) for part in cut
    )
    assert len(cut) >= len(expected) // 24
