# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test ``%pageowner`` in the drgn shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import drgn
import pytest
from conftest import Dump
from drgn.cli import default_globals
from drgn.helpers import linux
from drgn.helpers.linux.pid import find_task

from drgn_pageowner import plugin
from drgn_pageowner.commands import COMMANDS
from drgn_pageowner.kernel.dump import parallel
from drgn_pageowner.model.scratch import memory_limit
from drgn_pageowner.plugin import drgn_prog_set  # registers the command, too

run_command = pytest.importorskip("drgn.commands").run_command
CommandError = pytest.importorskip("drgn.commands").CommandError


def test_a_command_prints_what_the_command_line_prints(
    one_dump: Dump, capfd: pytest.CaptureFixture[str]
) -> None:
    run_command(one_dump.prog, "pageowner top --limit 3 --format json")
    ours = capfd.readouterr().out
    assert ours == one_dump.run("top", "--limit", "3", "--format", "json", check=True).stdout
    assert len(json.loads(ours)["groups"]) == 3


def test_output_can_be_redirected_and_piped(
    one_dump: Dump, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "records"
    run_command(one_dump.prog, f"pageowner list --order 3 --format json > {out}")
    lines = out.read_text().splitlines()
    assert {json.loads(line)["order"] for line in lines} == {3}
    run_command(one_dump.prog, "pageowner list --order 3 --format json | wc -l")
    assert int(capfd.readouterr().out) == len(lines)


@pytest.mark.parametrize("command", ["leaks", "account", "why pfn:0x1000", "refs pfn:0x1000"])
def test_what_reads_the_whole_memory_works_there_too(
    one_dump: Dump, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run_command(one_dump.prog, f"pageowner {command}")
    assert capfd.readouterr().out == one_dump.run(*command.split(), check=True).stdout


def test_processes_are_started_only_if_asked_for(
    one_dump: Dump, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1)
    started = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: started.append(1) or fork())
    printed = []
    for line, number in (("top", 0), ("top --jobs 2", 2), ("top", 0)):
        run_command(one_dump.prog, f"pageowner {line}")
        printed.append(capfd.readouterr().out)
        assert len(started) == number
        started.clear()
    assert printed == [printed[0]] * 3
    with pytest.raises(CommandError, match="1 or more"):
        run_command(one_dump.prog, "pageowner top --jobs 0")


def test_the_limit_of_memory_is_for_one_command(
    one_dump: Dump, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    really = plugin.run_command
    monkeypatch.setattr(
        plugin, "run_command", lambda *args: limits.append(memory_limit()) or really(*args)
    )
    for line in ("top --limit 1", "top --limit 1 --memory 2M", "top --limit 1"):
        run_command(one_dump.prog, f"pageowner {line}")
    assert limits == [None, 2 << 20, None]
    assert memory_limit() is None
    capfd.readouterr()


@pytest.mark.parametrize("line", ["pageowner", "pageowner top --by colour", "pageowner page x"])
def test_what_is_wrong_is_a_command_error(
    one_dump: Dump, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        run_command(one_dump.prog, line)
    except CommandError:
        return
    # An unknown page is reported on stderr; the others are described.
    assert "drgn-pageowner: " in capfd.readouterr().err


def test_help_does_not_leave_the_shell(one_dump: Dump, capfd: pytest.CaptureFixture[str]) -> None:
    run_command(one_dump.prog, "pageowner top --help")
    assert "--by" in capfd.readouterr().out


def test_drgn_starts_without_what_only_commands_need() -> None:
    heavy = ("numpy", "tabulate", "drgn_pageowner.commands.top", "drgn_pageowner.model.records")
    code = f"import sys, drgn_pageowner.plugin; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_the_shell_has_the_commands_of_the_command_line(one_dump: Dump) -> None:
    commands = pytest.importorskip("drgn.commands").DEFAULT_COMMAND_NAMESPACE
    text = commands.lookup(one_dump.prog, "pageowner").format_help()
    assert ", ".join(COMMANDS) in " ".join(text.split())


def test_the_shell_knows_types_by_a_name_that_is_there(one_dump: Dump) -> None:
    prog = one_dump.prog
    drgn_prog_set(prog)
    names = default_globals(prog)
    task = find_task(prog, 1)
    drgn.set_default_prog(prog)
    try:
        found = eval(f"pageowner_type({int(task) + 8:#x})", names)
    finally:
        drgn.set_default_prog(None)
    assert found.type_.type_name() == "struct task_struct"
    assert found.address_ == int(task)
    assert eval(f"pageowner_type(prog, {int(task):#x})", names).address_ == int(task)
    drgn_prog_set(prog)
    assert linux.__all__.count("pageowner_type") == 1
