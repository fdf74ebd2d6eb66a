# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test converting values to JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from handmade import frame

from drgn_pageowner.analysis.account.page_class import PageClass
from drgn_pageowner.analysis.frag.alloc_check import AllocVerdict
from drgn_pageowner.render.jsonable import json_document, json_text, jsonable


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


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"empty": [], "none": {}, "nested": [[], [{}], [[1]]]},
        [Point(1.5, [frame("f"), frame("g [mod]")]), Point(2, Point(None, True))],
        {1: (1, 2.0, -3, True, None), b"x": b"comm\0\0", "é": '\U0001f600 \t"\\'},
        ["\udcff a byte", "\\udcff as text"],
        [math.nan, math.inf, -math.inf, 1e300, 1e-7],
        np.array([[1, 2], [3, 4]], np.uint16),
        {"rows": np.zeros(0, np.int64), "number": np.float64(0.25), "truth": np.bool_(True)},
        [PageClass.SLAB, AllocVerdict.SUCCEEDS],
        [frame("f"), "f", None],
        {"frames": (frame("f"), frame("f"))},
        {"many": [Point(number, [number]) for number in range(3000)], "more": {"a": range(2000)}},
        {"lazy": range(3), "nothing": range(0)},
    ],
)
def test_the_text_is_that_of_the_json_module(value: object) -> None:
    assert "".join(json_text(value)) == json_document(jsonable(value), indent=1) + "\n"


def test_what_json_does_not_know_is_an_error() -> None:
    with pytest.raises(TypeError):
        "".join(json_text({"a": [object()]}))
