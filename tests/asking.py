# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run commands in this process, on a session that is opened once."""

from __future__ import annotations

import contextlib
import io

from drgn_pageowner.commands import CommandParser, Session, add_commands, run_command
from drgn_pageowner.commands.session import Opener
from drgn_pageowner.errors import PageOwnerError

Answer = tuple[int, str, str]


def ask(session: Session, line: str, open_session: Opener | None = None) -> Answer:
    """
    Run a command; return exit status, stdout and stderr.

    :param open_session: Opens other dumps, for commands with paths as arguments.
    """
    parser = CommandParser(prog="drgn-pageowner")
    add_commands(parser)
    args = parser.parse_args(line.split())
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            status = run_command(args, session, out, open_session)
        except PageOwnerError as error:
            status = error.exit_status
            err.write(str(error))
    return status, out.getvalue(), err.getvalue()
