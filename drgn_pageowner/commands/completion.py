# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--print-completion SHELL``: a script that completes commands, options and file names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from drgn_pageowner.extras import extra

__all__ = ("SHELLS", "add_completion_option", "command_parsers", "completion_script")

SHELLS = ("bash", "zsh", "fish")

# Metavars of arguments that take the name of a file or a directory.
_FILES = {"AFTER", "BEFORE", "DUMP", "FILE", "OUT", "PATH"}
_DIRECTORIES = {"DIR"}


class _PrintCompletion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        shell = args[1]
        print(completion_script(parser, shell))
        parser.exit()


def add_completion_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--print-completion`` to the parser of the whole command line."""
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        help="print a script that makes this shell complete commands, options and file names",
    )


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """
    Return the script that completes the command line of *parser*.

    :raises PageOwnerError: if shtab is not installed
    """
    shtab = extra("shtab", "completion", "--print-completion")
    for each in (parser, *command_parsers(parser).values()):
        for action in each._actions:
            if action.metavar in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar in _DIRECTORIES:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def command_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command, with its arguments."""
    return dict(_loaded(parser))


def _loaded(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                command.load()
                yield name, command
