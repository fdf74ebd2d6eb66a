"""
The ``drgn.plugins`` entry point: ``%pageowner COMMAND`` in the drgn shell.

drgn loads this at every start, so it imports nothing of ours before the command is run.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from drgn import Program
from drgn.commands import CommandError, argument, command

_DESCRIPTION = "who owns the memory: page_owner records"


@command(
    name="pageowner",
    description=_DESCRIPTION,
    usage="**pageowner** *COMMAND* [*ARG*...]",
    long_description="Decode the kernel's page_owner records. Commands: info, list, top, page, "
    "account, leaks, why, refs and frag; **pageowner** *COMMAND* **--help** describes each.",
    arguments=(argument("arguments", metavar="COMMAND", nargs=argparse.REMAINDER),),
)
def _cmd_pageowner(prog: Program, name: str, args: argparse.Namespace, **kwargs: Any) -> None:
    from drgn_pageowner.commands import CommandParser, add_commands, run_command
    from drgn_pageowner.errors import PageOwnerError
    from drgn_pageowner.kernel.session import ProgramSession

    parser = CommandParser(prog=f"%{name}", description=_DESCRIPTION)
    add_commands(parser)
    try:
        parsed = parser.parse_args(args.arguments)
        run_command(parsed, ProgramSession(prog), sys.stdout)
    except PageOwnerError as error:
        raise CommandError(str(error)) from None
    except SystemExit:
        # --help: printed, and no reason to leave the shell.
        return
