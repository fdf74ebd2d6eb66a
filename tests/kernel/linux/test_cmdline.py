# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test command lines of processes, in dumps without the memory of processes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import DUMPS, Dump, dump_id, traps
from drgn import FaultError, Object

from drgn_pageowner.kernel.linux import cmdline
from drgn_pageowner.kernel.linux.cmdline import command_lines
from drgn_pageowner.kernel.linux.tasks import every_task


@pytest.mark.parametrize("get", traps(), ids=dump_id)
def test_the_path_of_the_program_stands_for_its_arguments(get: Any) -> None:
    dump: Dump = get()
    if dump.has_truth("proc/1/cmdline"):
        pytest.skip("this dump may have the memory of processes")
    found = command_lines(dump.linux)
    # The guest's init has called exec() to run the program that saves the kernel's files.
    assert found[1] == "/bin/truth"
    assert "/bin/work" in found.values()
    kernel_threads = {int(task.pid) for task in every_task(dump.linux, []) if not task.mm}
    assert len(kernel_threads) > 5
    assert not kernel_threads & set(found)


@pytest.mark.parametrize("get", DUMPS, ids=dump_id)
def test_arguments_are_those_of_proc(get: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No bundled dump has the memory of processes: see testdata/README.md."""
    dump: Dump = get()
    if not dump.has_truth("proc/1/cmdline"):
        pytest.skip("no command lines were captured with this dump")
    expected = {}
    for path in dump.truth_directory.glob("proc/[0-9]*/cmdline"):
        arguments = path.read_bytes().split(b"\0")
        line = b" ".join(arguments).strip()[:400].decode(errors="surrogateescape")
        if line:
            expected[int(path.parent.name)] = line
    assert len(expected) > 5
    assert command_lines(dump.linux) == expected
    monkeypatch.setenv("COLUMNS", "80")
    # They are printed, the beginning of long ones.
    said = dump.run("top", "--by", "process", "--limit", "0", check=True).stdout
    shown = [line.strip() for line in said.splitlines() if re.match(r" {4}[a-z/]", line)]
    assert any(line.endswith("...") and expected[1].startswith(line[:-3]) for line in shown)
    assert {line for line in shown if not line.endswith("...")} <= set(expected.values())
    report = json.loads(dump.run("report", "--format", "json", check=True).stdout)
    holders = report["holders"]["process"]["holders"]
    assert {h["key"]: h["command_line"] for h in holders if h["command_line"]}.items() <= (
        expected.items()
    )


def test_arguments_are_read_where_the_dump_has_them(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(task: Object) -> list[bytes]:
        if int(task.pid) == 1:
            return [b"/sbin/init", b"--user", b"\xff", b""]
        raise FaultError("excluded", 0)

    monkeypatch.setattr(cmdline, "cmdline", known)
    found = command_lines(one_dump.linux)
    assert found[1] == "/sbin/init --user \udcff"
    assert "/bin/work" in found.values()
