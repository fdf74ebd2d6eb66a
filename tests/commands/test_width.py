# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that no command prints lines wider than the terminal."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.cli import build_parser
from drgn_pageowner.commands import COMMANDS, run_command
from drgn_pageowner.fleet.questions import QUESTIONS
from drgn_pageowner.progress import warn

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
    "frag all --order 9",
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
    "report DIR/out.html",
    "triage DIR/triage",
    "save DIR/out.parquet",
    "layout DIR/out.debug",
    "save --leaks --dataset DIR/dataset",
)
# Of a kernel with allocation tags.
TAGGED = (
    "allocinfo",
    "allocinfo --by module,function",
    "account --slab",
    "leaks --slab",
    "leaks --by tag",
    "top",
    "top --by tag,order",
    "top --slab",
)
FLEET = (
    *(f"fleet top DIR {question}" for question in QUESTIONS),
    "fleet rules DIR",
    "fleet report DIR DIR/out.html",
    "fleet diff DIR --kernel 6.12.107 6.12.107",
)
# At 80 columns most tables already leave something out; help texts are also seen at others.
COLUMNS = [
    pytest.param(60, marks=pytest.mark.thorough),
    80,
    pytest.param(120, marks=pytest.mark.thorough),
]
FIRST = {"sql": "duckdb", "report": "plotly", "triage": "plotly", "save": "pyarrow"}


def test_every_command_is_here() -> None:
    # watch needs a running kernel: tests/render/test_watch_text.py has its width.
    lines = (*LINES, *TAGGED, *FLEET)
    assert {line.split()[0] for line in lines} | {"watch"} == set(COMMANDS)


@pytest.mark.once
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("line", LINES)
def test_no_line_is_wider_than_columns(
    line: str,
    columns: int,
    dump_named: Callable[[str], Dump],
    live: Callable[[Dump], Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pytest.importorskip(FIRST.get(line.split()[0], "drgn_pageowner"))
    session = live(dump_named("linux-6.12/traps"))
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    status, said, _ = ask(session, line.replace("DIR", "."), open_session=lambda path: session)
    assert status == (3 if line.startswith("triage") else 0)
    assert said
    assert [one for one in said.splitlines() if len(one) > columns] == []


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("line", TAGGED)
def test_no_line_about_tags_is_wider(
    line: str,
    columns: int,
    dump_named: Callable[[str], Dump],
    live: Callable[[Dump], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = live(dump_named("linux-7.2-profiling/owner-off-tags"))
    monkeypatch.setenv("COLUMNS", str(columns))
    status, said, _ = ask(session, line)
    assert status == 0
    assert said
    assert [one for one in said.splitlines() if len(one) > columns] == []


@pytest.fixture(scope="module")
def dataset(
    tmp_path_factory: pytest.TempPathFactory,
    dump_named: Callable[[str], Dump],
    live: Callable[[Dump], Any],
) -> Path:
    for module in ("duckdb", "pyarrow", "jinja2"):
        pytest.importorskip(module)
    made = tmp_path_factory.mktemp("width") / "dataset"
    status, _, error = ask(
        live(dump_named("linux-6.12/traps")), f"save --leaks --rules builtin --dataset {made}"
    )
    assert status == 0, error
    return made


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("line", FLEET)
def test_no_line_of_a_fleet_is_wider(
    line: str, columns: int, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(dataset)
    status, said, _ = ask(cast(Any, None), line.replace("DIR", "."))
    assert status == 0
    assert said
    assert [one for one in said.splitlines() if len(one) > columns] == []


@pytest.mark.parametrize("columns", [100, 140, 200])
def test_what_processes_hold_is_left_out_in_whole_classes(
    columns: int,
    dump_named: Callable[[str], Dump],
    live: Callable[[Dump], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    status, said, _ = ask(live(dump_named("linux-6.12/traps")), "top --by process -n 12")
    assert status == 0
    assert max(map(len, said.splitlines())) <= columns
    # The class that a process has most of, and no part of a name.
    assert re.search(r"init 1 \(now truth\) +anonymous \d+\.\d MiB, .*\d more(  |$)", said, re.M)
    assert "..." not in said


@pytest.mark.parametrize("view", ["buddyinfo", "pagetypeinfo", "extfrag"])
def test_the_kernels_files_fit_a_terminal(
    view: str,
    dump_named: Callable[[str], Dump],
    live: Callable[[Dump], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    session = live(dump_named("linux-6.12/traps"))
    monkeypatch.setenv("COLUMNS", "80")
    args = build_parser().parse_args(["frag", view])
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        assert run_command(args, session, out) == 0
    assert max(map(len, terminal.getvalue().splitlines())) <= 80
    # Programs get what the kernel prints.
    assert max(map(len, file.getvalue().splitlines())) > 80


@pytest.mark.parametrize("columns", COLUMNS)
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
