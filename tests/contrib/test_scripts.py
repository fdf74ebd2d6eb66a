# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run every script of contrib/ with drgn, as its first lines describe."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Dump
from drgn.helpers.linux.mm import pfn_to_virt

SCRIPTS = sorted((ROOT / "contrib").glob("*.py"))


def run(dump: Dump, name: str, *args: str) -> str:
    drgn = Path(sys.executable).with_name("drgn")
    script = ROOT / "contrib" / name
    result = subprocess.run(
        [drgn, "-q", "-c", dump.vmcore, "-s", dump.vmlinux, script, *args],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_there_is_a_test_for_every_script() -> None:
    tested = set(re.findall(r'"(\w+\.py)"', Path(__file__).read_text()))
    assert {script.name for script in SCRIPTS} <= tested


def test_last_free_names_who_had_the_page(one_dump: Dump) -> None:
    snapshot = one_dump.snapshot
    row = int((snapshot["free_handle"] != 0).nonzero()[0][0])
    pfn = int(snapshot["pfn"][row])
    out = run(one_dump, "last_free.py", f"{int(pfn_to_virt(one_dump.prog, pfn)) + 8:#x}")
    assert f"pfn {pfn:#x}" in out
    assert "allocated last by:" in out
    assert "free" in out.split("freed last by:")[1]


def test_orphans_finds_the_module_whose_insmod_is_gone(one_dump: Dump) -> None:
    out = run(one_dump, "orphans.py", "50")
    assert "po_holder_get" in out
    assert re.search(r"^\d+ pages in \d+ allocations", out)


def test_order_by_zone_sums_to_all_pages(one_dump: Dump) -> None:
    rows = run(one_dump, "order_by_zone.py").splitlines()[2:]
    snapshot = one_dump.snapshot.select(one_dump.snapshot["allocated"])
    assert sum(int(row.split()[-1]) for row in rows) == int(snapshot.pages.sum())


def test_a_kernel_without_task_names_is_told_so(dump: Dump) -> None:
    if "pid" in dump.snapshot:
        pytest.skip("this kernel records pids")
    with pytest.raises(AssertionError, match="does not record who allocated"):
        run(dump, "orphans.py")
