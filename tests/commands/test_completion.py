# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test completion in real shells: type a line with a TAB at its end."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from conftest import run_cli

from drgn_pageowner.cli import build_parser
from drgn_pageowner.commands import COMMANDS
from drgn_pageowner.commands.completion import SHELLS, command_parsers

pytest.importorskip("shtab", reason="completion needs shtab (the extra completion)")

# Text before the TAB, and the command line after it.
TYPED = [
    ("tri", "triage"),
    ("-c CORE -s SYMBOLS acco", "-c CORE -s SYMBOLS account"),
    ("--sna", "--snapshot"),
    ("top --stack-c", "top --stack-contains"),
    ("top --format speeds", "top --format speedscope"),
    ("-c vmco", "-c vmcore"),
    ("save vmco", "save vmcore"),
    ("leaks --susp", "leaks --suspects"),
]
IDS = [typed.replace(" ", "_") for typed, _ in TYPED]

# The function replaces the program, and prints its arguments.
START = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        'eval "$(cat script)"; drgn-pageowner() { echo "<$*>"; }',
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -Uz compinit; compinit -u -D; "
        'eval "$(cat script)"; drgn-pageowner() { echo "<$*>"; }',
    ),
}


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"no {request.param} here")
    return str(request.param)


@pytest.fixture(scope="module")
def directory(shell: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory with the script for the shell, and a file whose name can be completed."""
    path = tmp_path_factory.mktemp(shell)
    (path / "script").write_text(run_cli("--print-completion", shell, check=True).stdout)
    (path / "vmcore").touch()
    return path


@pytest.mark.parametrize(("typed", "completed"), TYPED, ids=IDS)
def test_a_tab_completes(shell: str, directory: Path, typed: str, completed: str) -> None:
    if shell == "fish":
        # The program completes a line without a terminal, and prints the last word.
        program = f"source script; complete -C 'drgn-pageowner {typed}'"
        lines = subprocess.check_output(
            ["fish", "--no-config", "-c", program], cwd=directory, text=True
        )
        assert completed.split()[-1] in [line.split("\t")[0] for line in lines.splitlines()]
    else:
        assert type_into(shell, directory, typed, completed.split()[-1]) == completed


def type_into(shell: str, directory: Path, typed: str, wanted: str) -> str:
    """
    Type the arguments *typed* and a TAB into an interactive *shell*.

    :param wanted: Text that the line should contain after the TAB; waited for before the line is
        entered.
    :return: The arguments of the program.
    """
    command, start = START[shell]
    environment = {**os.environ, "TERM": "dumb", "PS1": "$ ", "HISTFILE": "/dev/null"}
    master, slave = pty.openpty()
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=directory, env=environment,
        start_new_session=True, close_fds=True,
    ) as process:  # fmt: skip
        os.close(slave)
        try:
            os.write(master, f"{start}; echo rea''dy\n".encode())
            read_until(master, "ready\r\n")
            os.write(master, f"drgn-pageowner {typed}\t".encode())
            read_until(master, wanted)
            os.write(master, b"\n")
            answer = read_until(master, ">\r\n")
        finally:
            process.kill()
            os.close(master)
    return answer.rpartition("<")[2].removesuffix(">\r\n").strip()


def read_until(terminal: int, end: str) -> str:
    text, until = "", time.monotonic() + 20
    while not text.endswith(end) and end not in text:
        ready, _, _ = select.select([terminal], [], [], max(0, until - time.monotonic()))
        assert ready, f"no {end!r} in {text!r}"
        text += os.read(terminal, 1 << 16).decode(errors="replace")
    return text[: text.index(end) + len(end)]


def test_the_script_has_every_command_and_option(shell: str, directory: Path) -> None:
    script = (directory / "script").read_text()
    for name, parser in command_parsers(build_parser()).items():
        assert name in script
        for action in parser._actions:
            for option in action.option_strings:
                # fish lists "-l format" for "--format".
                assert (f"-l {option[2:]}" if shell == "fish" else option) in script or (
                    not option.startswith("--")
                )


def test_all_commands_are_loaded() -> None:
    parsers = command_parsers(build_parser())
    assert list(parsers) == list(COMMANDS)
    assert all(parser.description for parser in parsers.values())


def test_an_unknown_shell_is_a_usage_error() -> None:
    result = run_cli("--print-completion", "ksh")
    assert result.returncode == 2
    assert "ksh" in result.stderr


def test_without_shtab_one_line_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "shtab.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = run_cli("--print-completion", "bash", env={**os.environ, "PYTHONPATH": path})
    assert result.returncode == 1
    assert result.stderr == (
        "drgn-pageowner: --print-completion needs shtab: pip install 'drgn-pageowner[completion]'\n"
    )
