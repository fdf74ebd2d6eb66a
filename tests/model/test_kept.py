# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test caching of results that several parts need."""

from __future__ import annotations

import pytest

from drgn_pageowner.model.kept import forget, keeping_nothing, keeping_results, kept, kept_as

CALLS: list[object] = []


@kept
def described(thing: list[int], name: str = "", *, flag: bool = False) -> tuple[int, str, bool]:
    CALLS.append(thing)
    return len(thing), name, flag


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def test_the_same_arguments_are_computed_once() -> None:
    thing, equal = [1], [1]
    with keeping_results():
        first = described(thing, "a")
        assert described(thing, "a") is first
        assert len(CALLS) == 1
        # An equal object is not the same object, because it may be modified later.
        described(equal, "a")
        described(thing, "b")
        described(thing, "a", flag=True)
        described(thing, "a", flag=False)
        assert len(CALLS) == 5


def test_nothing_is_kept_outside() -> None:
    thing = [1]
    described(thing)
    described(thing)
    with keeping_results():
        described(thing)
    described(thing)
    assert len(CALLS) == 4


def test_an_inner_block_keeps_for_the_outer_one() -> None:
    thing = [1]
    with keeping_results():
        with keeping_results():
            described(thing)
        described(thing)
    assert len(CALLS) == 1


def test_results_of_a_kind_of_argument_can_be_dropped() -> None:
    thing, other = [1], {"a": 1}
    with keeping_results():
        described(thing)
        described(other)  # type: ignore[arg-type]
        kept_as("of no function", None, lambda: CALLS.append(3))
        forget(list)
        described(other)  # type: ignore[arg-type]
        kept_as("of no function", None, lambda: CALLS.append(3))
        assert len(CALLS) == 3
        described(thing)
        assert len(CALLS) == 4


def test_nothing_is_kept_or_taken_where_that_is_not_wanted() -> None:
    thing = [1]
    with keeping_results():
        described(thing)
        with keeping_nothing():
            described(thing)
            described(thing, "b")
        described(thing)
        described(thing, "b")
    assert len(CALLS) == 4


def test_what_raises_is_not_kept() -> None:
    def fail() -> int:
        CALLS.append(1)
        raise ValueError("no result")

    with keeping_results():
        for _ in range(2):
            with pytest.raises(ValueError, match="no result"):
                kept_as("key", None, fail)
    assert len(CALLS) == 2


def test_arguments_stay_alive_so_that_no_other_object_gets_their_identity() -> None:
    with keeping_results():
        for number in range(50):
            assert described([0] * number)[0] == number
