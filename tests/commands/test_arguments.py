# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test options that all commands share, on ten records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, cast

import pytest
from asking import ask
from made import MadeSession

from drgn_pageowner.commands import COMMANDS, CommandParser
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.session import Session

SESSION = cast(Session, MadeSession())


def options_of(command: str) -> dict[str, argparse.Action]:
    parser = CommandParser(prog=command, command=command)
    parser.load()
    return {option: action for action in parser._actions for option in action.option_strings}


OPTIONS = {command: options_of(command) for command in COMMANDS}
LIMITED = [command for command, options in OPTIONS.items() if "--limit" in options]


def parse(command: str, words: list[str]) -> Any:
    needed = {
        "page": ["1"], "why": ["1"], "refs": ["1"], "diff": ["before"], "sql": ["select 1"],
        "save": ["out"], "triage": ["out"],
    }  # fmt: skip
    return CommandParser(prog=command, command=command).parse_args(
        [*needed.get(command, []), *words]
    )


@pytest.mark.parametrize("command", LIMITED)
def test_a_limit_is_a_number_from_0_up(command: str) -> None:
    assert parse(command, ["--limit", "0"]).limit == 0
    assert "0: all)" in (OPTIONS[command]["--limit"].help or "")
    for word in ("-1", "some", "1.5"):
        with pytest.raises(UsageError, match="--limit"):
            parse(command, ["--limit", word])


@pytest.mark.parametrize(
    ("question", "rows"),
    [
        ("list --format json", 9),
        ("list --format json --limit 4", 4),
        ("list --format json --limit 0", 9),
        ("list --format csv --limit 1", 2),
        ("list --format debugfs --limit 0", None),
        ("top --format folded", 5),
        ("top --format folded --limit 2", 2),
        ("top --format folded --limit 0", 5),
        ("top --format csv --by pid --limit 0", 6),
    ],
)
def test_a_limit_of_0_is_none(question: str, rows: int | None) -> None:
    status, out, err = ask(SESSION, question)
    if rows is None:
        # These records have no printf formats of a kernel.
        assert (status, out) == (1, "")
    else:
        assert (status, err) == (0, "")
        assert len(out.splitlines()) == rows


def test_totals_are_those_of_all_rows() -> None:
    for limit, groups in ((0, 5), (1, 1), (3, 3)):
        answer = json.loads(ask(SESSION, f"top --format json --limit {limit}")[1])
        assert len(answer["groups"]) == groups
        assert answer["total"]["pages"] == 32


@pytest.mark.parametrize("command", COMMANDS)
def test_the_format_for_people_is_called_table(command: str) -> None:
    action = OPTIONS[command].get("--format")
    if action is None:
        assert command in ("triage", "save", "layout", "fleet")
        return
    assert action.choices is not None
    # allocinfo has the kernel's own text format.
    assert command == "allocinfo" or "text" not in action.choices
    if command == "report":
        with pytest.raises(UsageError, match="--format"):
            parse(command, ["--format", "text"])
        return
    assert parse(command, []).format == "table"
    text = "text" if "text" in action.choices else "table"
    assert parse(command, ["--format", "text"]).format == text
    with pytest.raises(UsageError, match="--format"):
        parse(command, ["--format", "xml"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_answer_can_go_to_a_file(command: str) -> None:
    assert ("-o" in OPTIONS[command]) == ("--output" in OPTIONS[command])
    assert ("-o" in OPTIONS[command]) or command in ("triage", "fleet")


@pytest.mark.parametrize(
    "question", ["list", "list --format json", "top --format csv", "top --format speedscope"]
)
def test_a_file_gets_what_would_be_printed(question: str, tmp_path: Path) -> None:
    path = tmp_path / "answer"
    assert ask(SESSION, f"{question} -o {path}") == (0, "", "")
    # One of the task names is not UTF-8.
    written = path.read_bytes().decode(errors="surrogateescape")
    assert written == ask(SESSION, question)[1] != ""


def test_a_dash_is_standard_output() -> None:
    assert ask(SESSION, "top -o -") == ask(SESSION, "top")


def test_an_empty_answer_is_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    path.write_text("old")
    assert ask(SESSION, f"list --format json --pid 4711 -o {path}")[0] == 0
    assert path.read_text() == ""


def test_an_error_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "answer"
    path.write_text("old")
    assert ask(SESSION, f"top --by colour -o {path}")[0] == 2
    assert ask(SESSION, f"list --pfn 0x999999 -o {path}")[0] == 1
    assert path.read_text() == "old"


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    path = tmp_path / "none" / "answer"
    status, out, err = ask(SESSION, f"top -o {path}")
    assert (status, out, err) == (1, "", f"cannot write {path}: No such file or directory")


def test_a_full_disk_is_said() -> None:
    status, _, err = ask(SESSION, "list -o /dev/full")
    assert (status, err) == (1, "cannot write /dev/full: No space left on device")


@pytest.mark.parametrize("command", ["report", "save"])
def test_a_destination_has_one_name(command: str) -> None:
    def destination(*words: str) -> Any:
        args = vars(CommandParser(prog=command, command=command).parse_args(list(words)))
        return args.get("output") or args.get("snapshot_path")

    assert destination("x.html") == destination("-o", "x.html") == "x.html"
    assert destination("--output", "x.html") == "x.html"
    with pytest.raises(UsageError, match="not allowed with"):
        destination("x.html", "-o", "y.html")
    if command == "save":
        with pytest.raises(UsageError, match="OUT"):
            destination()
    else:
        assert destination() is None
