# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test a few changed or cut-off files, the same in every run; run.py tests more."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Dump
from files import Change, changes, judge_file


@pytest.mark.parametrize(
    "name", ["linux-6.1/kdump", pytest.param("linux-6.12/kdump", marks=pytest.mark.thorough)]
)
def test_a_changed_file_is_answered_or_refused_in_a_line(
    name: str, dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    dump = dump_named(name)
    for change, command in itertools.islice(changes(dump, 1), 3):
        outcome = judge_file(dump, change, command, tmp_path)
        assert outcome.kind != "fault", f"{change}: {command}: {outcome.detail}"


def test_a_dump_without_any_pointer_has_no_types(
    dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    """A dump that is cut off early has none of the memory in which there could be a pointer."""
    dump = dump_named("linux-6.12-i386/traps")
    outcome = judge_file(dump, Change(16804097), "why pfn:0x2400", tmp_path)
    assert outcome.kind == "answered", outcome.detail
