# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that benchmarks/ measures something: on small dumps, whose numbers mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import ROOT, Dump

pytestmark = pytest.mark.once

BENCHMARKS = ROOT / "benchmarks"


def run(program: str, *arguments: str, given: str = "") -> str:
    command = [sys.executable, str(BENCHMARKS / program), *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def dump(dump_named: Callable[[str], Dump]) -> Dump:
    return dump_named("linux-7.2/kdump")


@pytest.mark.parametrize("what", ["snapshot", "count", "marking", "per-page"])
def test_peers_say_how_long_they_take(dump: Dump, what: str) -> None:
    if what == "snapshot":
        pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")
    found = json.loads(run("peers.py", str(dump.vmcore), str(dump.vmlinux), what))
    numbers = found.values() if isinstance(found, dict) else [found]
    assert all(number > 0 for number in numbers)


@pytest.mark.parametrize(
    ("options", "columns"),
    [
        ((), 4), (("--snapshots", "--runs", "1"), 4), (("--jobs", "1,2", "--runs", "1"), 7),
        (("--cpus", "16"), 8),
    ],
)  # fmt: skip
def test_large_dumps_are_compared(
    dump: Dump, dump_named: Callable[[str], Dump], options: tuple[str, ...], columns: int
) -> None:
    if "--snapshots" in options:
        pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")
    # Costs for each GiB of memory are those of a line through two machines.
    other = dump_named("linux-7.2-arm64-16k/kdump") if "--cpus" in options else None
    dumps = [f"{d.name}={d.vmcore}:{d.vmlinux}" for d in (dump, other) if d is not None]
    table = run("scale.py", *options, "--commands", "top;info", *dumps).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert len(rows[0]) == columns
    assert all(len(row) == columns for row in rows)
    assert [row for row in rows if "top" in row]
    assert [row for row in rows if "info" in row]


def test_a_map_of_a_file_is_compared_with_reading(dump: Dump) -> None:
    table = run("mapped.py", str(dump.vmcore)).splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert [row[0] for row in rows] == ["read", "mapped", "populated"]
    assert rows[0][2] == "1.00"
    assert all(float(row[2]) > 0 for row in rows)
