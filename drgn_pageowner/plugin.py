# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ``drgn.plugins`` entry point: ``%pageowner COMMAND`` in the drgn shell.

drgn loads this at every start. Only the names of the commands are imported then; the rest follows
when a command is run, or when a dump needs it.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from drgn import Architecture, Program, ProgramFlags
from drgn.commands import CommandError, argument, command

from drgn_pageowner.commands import COMMANDS, CommandParser, add_commands, run_command
from drgn_pageowner.errors import PageOwnerError

_DESCRIPTION = "show who owns the memory, from page_owner records"


def drgn_prog_set(prog: Program) -> None:
    """
    Prepare a program that drgn has just opened.

    drgn calls this. It cannot translate virtual addresses of i386 by itself.
    """
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        return
    if prog.platform is not None and prog.platform.arch == Architecture.I386:
        from drgn_pageowner.kernel.dump.i386 import read_through_page_tables

        read_through_page_tables(prog)


@command(
    name="pageowner",
    description=_DESCRIPTION,
    usage="**pageowner** *COMMAND* [*ARG*...]",
    long_description=f"Decode the kernel's page_owner records. Commands: {', '.join(COMMANDS)}; "
    "**pageowner** *COMMAND* **--help** describes each.",
    arguments=(argument("arguments", metavar="COMMAND", nargs=argparse.REMAINDER),),
)
def _cmd_pageowner(prog: Program, name: str, args: argparse.Namespace, **kwargs: Any) -> None:
    from drgn_pageowner.kernel.session import ProgramSession
    from drgn_pageowner.sources import opener_beside

    parser = CommandParser(prog=f"%{name}", description=_DESCRIPTION)
    add_commands(parser)
    try:
        parsed = parser.parse_args(args.arguments)
        run_command(parsed, ProgramSession.of(prog), sys.stdout, opener_beside(prog))
    except PageOwnerError as error:
        raise CommandError(str(error)) from None
    except SystemExit:
        # --help: printed, and no reason to leave the shell.
        return
