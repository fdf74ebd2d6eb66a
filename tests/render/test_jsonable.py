# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test converting values to JSON."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from handmade import frame

from drgn_pageowner.analysis.account.page_class import PageClass
from drgn_pageowner.analysis.frag.alloc_check import AllocVerdict
from drgn_pageowner.render.jsonable import json_text, jsonable


@dataclass
class Point:
    x: int
    where: object


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (frame("f [mod]"), "f+0x10/0x100 [mod]"),
        (b"cat\0rest", "cat"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.uint64(1 << 63), 1 << 63),
        (Point(1, Point(2, None)), {"x": 1, "where": {"x": 2, "where": None}}),
        ({1: (frame("f"),)}, {"1": ["f+0x10/0x100"]}),
        (AllocVerdict.SUCCEEDS, "succeeds"),
        (PageClass.SLAB, 2),
    ],
)
def test_a_value_becomes_plain(value: object, expected: object) -> None:
    assert jsonable(value) == expected


def test_a_document_ends_with_a_newline() -> None:
    assert "".join(json_text({"a": AllocVerdict.WATERMARK})) == '{\n "a": "watermark"\n}\n'
