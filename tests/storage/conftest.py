"""Every dump's snapshot, saved once."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Dump

from drgn_pageowner.commands import CommandParser, Session, add_commands, run_command
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.session import ProgramSession

pytest.importorskip("pyarrow", reason="snapshots need pyarrow")

Answer = tuple[int, str, str]


def ask(session: Session, line: str) -> Answer:
    """What a command says: exit status, stdout, stderr."""
    parser = CommandParser(prog="drgn-pageowner")
    add_commands(parser)
    args: argparse.Namespace = parser.parse_args(line.split())
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            status = run_command(args, session, out)
        except PageOwnerError as error:
            status = error.exit_status
            err.write(str(error))
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def live() -> Callable[[Dump], ProgramSession]:
    """A dump's session: one for all tests."""

    @functools.cache
    def of(dump: Dump) -> ProgramSession:
        return ProgramSession(dump.prog)

    return of


@pytest.fixture(scope="session")
def saved(
    tmp_path_factory: pytest.TempPathFactory, live: Callable[[Dump], ProgramSession]
) -> Callable[[Dump], Path]:
    """A dump's snapshot, with leaks."""
    directory = tmp_path_factory.mktemp("snapshots")

    @functools.cache
    def of(dump: Dump) -> Path:
        path = directory / (dump.name.replace("/", "-") + ".parquet")
        status, _, problems = ask(live(dump), f"save --leaks {path}")
        assert (status, problems) == (0, "")
        return path

    return of
