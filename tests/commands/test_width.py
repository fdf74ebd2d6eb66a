# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that no command prints lines wider than the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.cli import build_parser
from drgn_pageowner.commands import COMMANDS
from drgn_pageowner.progress import warn

# Commands with tables. Output in the format of kernel files (frag buddyinfo, ...) may be wider.
LINES = (
    "info",
    "list --limit 50",
    "list --freed --limit 50",
    "top",
    "top --by allocator",
    "top --by comm,order,gfp,migratetype,zone",
    "top --slab",
    "top --slab --by type",
    "account --caches --zones",
    "account --slab",
    "leaks --slab",
    "leaks --suspects",
    "frag summary contiguity culprits cma map",
    "frag culprits --stacks",
    "frag why --order 9",
    "frag --explain 0",
    "page pfn:0x1000",
    "why pfn:0x1000",
    "refs pfn:0x1000",
    "typegraph",
    "diff OTHER OTHER --by allocator",
    "diff OTHER OTHER --by class",
    "sql from/**/stacks",
)
# Commands without tables here: they write files, or need a running kernel or allocation tags.
WITHOUT = {"layout", "watch", "report", "triage", "save", "allocinfo", "fleet"}


def test_every_command_is_here() -> None:
    assert {line.split()[0] for line in LINES} | WITHOUT == set(COMMANDS)


@pytest.mark.once
@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("line", LINES)
def test_no_line_is_wider_than_columns(
    line: str,
    columns: int,
    dump_named: Callable[[str], Dump],
    live: Callable[[Dump], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = live(dump_named("linux-6.12/traps"))
    monkeypatch.setenv("COLUMNS", str(columns))
    if line.startswith("sql"):
        pytest.importorskip("duckdb")
        pytest.importorskip("pyarrow")
    status, said, _ = ask(session, line, open_session=lambda path: session)
    assert status == 0
    assert said
    assert [one for one in said.splitlines() if len(one) > columns] == []


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_no_line_of_help_is_wider(
    command: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        build_parser().parse_args([*command.split(), "--help"])
    # argparse does not wrap groups and lists of choices in the usage.
    _, text = capsys.readouterr().out.split("\n\n", 1)
    lines = [line for line in text.splitlines() if len(line) > columns]
    assert [line for line in lines if not line.startswith("  --format {")] == []


def test_a_terminal_breaks_messages_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    message = " ".join(["words"] * 30)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stderr", Terminal())
    warn(message)
    said = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, said.splitlines())) <= 60
    assert said.split() == ["drgn-pageowner:", *message.split()]
    monkeypatch.setattr("sys.stderr", io.StringIO())
    warn(message)
    assert sys.stderr.getvalue().count("\n") == 1  # type: ignore[attr-defined]
