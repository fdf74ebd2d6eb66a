# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the completion of ``%pageowner``: the suggestions, and drgn's shell on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Dump

from drgn_pageowner.completer import completions


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%pageow", ["%pageowner"]),
        ("%pageowner to", ["top"]),
        ("%pageowner top --mod", ["--module"]),
        ("%pageowner top --by alloc", ["allocator"]),
        ("%pageowner top --by comm,pro", ["comm,process"]),
        ("%pageowner top --by=driv", ["--by=driver"]),
        ("%pageowner top --format spe", ["speedscope"]),
        ("%pageowner leaks --confidence high,m", ["high,medium"]),
        ("%pageowner leaks --by mod", ["module"]),
        ("%pageowner frag contig", ["contiguity"]),
        ("%pageowner fleet inge", ["ingest"]),
        ("%pageowner top --nothing-like-it", []),
        ("%pageowner top --nothing=x", []),
        # Without a dump, no names are suggested.
        ("%pageowner top --module po_", []),
    ],
)
def test_what_a_word_may_become(line: str, found: list[str]) -> None:
    assert completions(line) == found


def test_files_are_completed(tmp_path: Path) -> None:
    (tmp_path / "one.html").touch()
    assert completions(f"%pageowner report {tmp_path}/on") == [f"{tmp_path}/one.html"]
    assert completions(f"%pageowner top -o {tmp_path}/on") == [f"{tmp_path}/one.html"]


def test_values_come_from_the_dump(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    session = live(dump_named("linux-6.12/traps"))

    def of(line: str) -> list[str]:
        return completions(f"%pageowner {line}", session)

    assert set(of("top --module po_")) == {"po_frag", "po_leak", "po_holder"}
    assert of("leaks --module po_frag,po_l") == ["po_frag,po_leak"]
    assert of("top --zone DMA") == ["DMA32"]
    assert of("top --node ") == ["0", "1"]
    assert "worker-alpha" in of("list --comm worker-")


class Shell:
    """drgn's shell on a pseudo-terminal."""

    def __init__(self, dump: Dump, home: Path) -> None:
        self._leader, follower = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "drgn", "-q", "-c", dump.vmcore, "-s", dump.vmlinux],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            # Use the plain prompt in Python 3.13 and later, too.
            env={**os.environ, "HOME": str(home), "XDG_STATE_HOME": str(home), "TERM": "dumb",
                 "PYTHON_BASIC_REPL": "1", "COLUMNS": "80"},
        )  # fmt: skip
        os.close(follower)
        self._said = ""

    def send(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def until(self, wanted: str, seconds: float = 60) -> str:
        """Read output until it contains *wanted*."""
        end = time.monotonic() + seconds
        while wanted not in self._said:
            assert time.monotonic() < end, self._said
            if select.select([self._leader], [], [], 0.2)[0]:
                self._said += os.read(self._leader, 1 << 16).decode(errors="replace")
        before, _, self._said = self._said.partition(wanted)
        return before + wanted

    def leave(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._leader)


def test_tab_completes_in_drgns_shell(dump_named: Callable[[str], Dump], tmp_path: Path) -> None:
    pytest.importorskip("drgn.internal.rlcompleter")
    shell = Shell(dump_named("linux-6.12/traps"), tmp_path)
    try:
        shell.until(">>> ")
        shell.send("%pageown\tto\t--modu\tpo_le\t-n 1\n")
        said = shell.until("groups shown")
        assert "%pageowner top --module po_leak -n 1" in said
        assert "1 of " in said
        # Python names are completed as before.
        shell.until(">>> ")
        shell.send("prog.main_mod\t")
        shell.until("prog.main_module(")
    finally:
        shell.leave()
