# SPDX-License-Identifier: LGPL-2.1-or-later
"""Patterns of stacks, on stacks typed by hand."""

from __future__ import annotations

import pytest

from drgn_pageowner.rules.stack import Holding, StackPattern, sum_matches

FRAMES = [
    ("get_page_from_freelist", ""), ("__alloc_pages", ""), ("nv_alloc", "nvidia"),
    ("nv_open", "nvidia"), ("vfs_open", ""), ("do_sys_open", ""),
]  # fmt: skip
HELD = Holding(FRAMES, "nv_alloc [nvidia]", "nvidia", 100, 10, "high")
OTHER = Holding([("__alloc_pages", ""), ("vfs_read", "")], "vfs_read", "", 300, 3, "low")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (StackPattern(functions=("nv_*", "vfs_open")), True),
        (StackPattern(functions=("vfs_open", "nv_*")), False),
        (StackPattern(functions=("nv_*", "nv_*", "nv_*")), False),
        (StackPattern(functions=("nv_alloc [nv*]",)), True),
        (StackPattern(functions=("nv_alloc [ext4]",)), False),
        (StackPattern(functions=("vfs_open [nvidia]",)), False),
        (StackPattern(functions=("alloc_pages",)), False),
        (StackPattern(functions=("__alloc_page?", "n[uv]_alloc")), True),
        (StackPattern(module="nvidia*"), True),
        (StackPattern(module="ext4"), False),
        (StackPattern("leaks", ("nv_*",), confidence="high"), True),
        (StackPattern("leaks", ("nv_*",), confidence="medium"), False),
    ],
)
def test_which_stacks_match(pattern: StackPattern, expected: bool) -> None:
    assert pattern.matches(HELD) is expected


def test_matches_are_summed_up() -> None:
    pattern = StackPattern(functions=("__alloc_pages",))
    assert sum_matches(pattern, [HELD, OTHER], 4000) == {
        "pages": 400, "allocations": 13, "stacks": 2, "percent": "10.0 %",
        "allocator": "vfs_read", "module": None,
    }  # fmt: skip
    assert sum_matches(pattern, [], 4000) is None


@pytest.mark.parametrize(
    ("least", "enough"),
    [
        ({"min_pages": 400}, True), ({"min_pages": 401}, False),
        ({"min_percent": 10}, True), ({"min_percent": 10.1}, False),
        ({"min_allocations": 13}, True), ({"min_allocations": 14}, False),
    ],
)  # fmt: skip
def test_too_little_does_not_match(least: dict[str, float], enough: bool) -> None:
    found = sum_matches(StackPattern(functions=("__alloc_pages",), **least), [HELD, OTHER], 4000)
    assert (found is not None) is enough
