"""
The commands, one file each: arguments, one analysis, one renderer.

The command line and the drgn shell register the same ones; where a command gets its data is the
business of the :class:`Session` that they hand it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib import import_module
from typing import TextIO, cast

from drgn_pageowner.commands.session import Command, Session

__all__ = ("COMMANDS", "Command", "Session", "add_commands", "run_command")

COMMANDS = ("info", "list", "top", "page")


def _load(name: str) -> Command:
    return cast(Command, import_module(f"{__name__}.{name}"))


def add_commands(parser: argparse.ArgumentParser, names: Iterable[str] = COMMANDS) -> None:
    """Add every command to *parser* as a subcommand."""
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in names:
        command = _load(name)
        subparser = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)


def run_command(args: argparse.Namespace, session: Session, out: TextIO) -> int:
    """
    Run the command that *args* names.

    :return: Exit status.
    :raises PageOwnerError: if it cannot be answered
    """
    return _load(args.command).run(args, session, out)
