# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test source lines on an architecture without stack traces in drgn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Dump

pytestmark = pytest.mark.once


def test_without_source_lines_the_rest_is_saved(
    dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="a snapshot is saved")
    dump = dump_named("linux-6.12-i386/traps")
    saved = dump.run("save", "--source", tmp_path / "saved.parquet")
    assert saved.returncode == 0
    (line,) = saved.stderr.splitlines()
    assert "source could not be saved: drgn finds no source lines of this kernel" in line
    asked = dump.run("top", "--source", "--limit", "1")
    assert asked.returncode == 1
    assert "drgn finds no source lines of this kernel" in asked.stderr
