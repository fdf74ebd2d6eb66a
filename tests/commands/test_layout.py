# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that `layout` writes a file for -s."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Dump


@pytest.fixture(scope="module")
def path(one_dump: Dump, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a layout pack written by the command."""
    path = tmp_path_factory.mktemp("layout") / "layout.debug"
    written = one_dump.run("layout", path)
    assert (written.returncode, written.stderr) == (0, "")
    assert f"{path.stat().st_size:,} bytes" in " ".join(written.stdout.split())
    return path


@pytest.mark.once
def test_it_is_used_instead_of_the_vmlinux(
    one_dump: Dump, path: Path, cli: Callable[..., Any]
) -> None:
    read = cli("-c", one_dump.vmcore, "-s", path, "list", "--format", "debugfs")
    assert read.stdout == one_dump.run("list", "--format", "debugfs").stdout
    assert (read.returncode, read.stderr) == (0, "")


def test_it_is_of_one_kernel(path: Path, dump_named: Any, cli: Any) -> None:
    other = cli("-c", dump_named("linux-5.10/noleak").vmcore, "-s", path, "info")
    assert other.returncode == 1
    [line] = other.stderr.splitlines()
    assert "of another kernel" in line


def test_a_snapshot_has_none(saved: Any, one_dump: Dump, cli: Any, tmp_path: Path) -> None:
    result = cli("-S", saved(one_dump), "layout", tmp_path / "layout.debug")
    assert result.returncode == 1
    assert "is a snapshot, without the types of its kernel" in result.stderr
    assert not (tmp_path / "layout.debug").exists()
