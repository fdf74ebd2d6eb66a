# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands, one file each: arguments, one analysis, one renderer.

The command line and the drgn shell register the same ones; where a command gets its data is the
business of the :class:`Session` that they hand it.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, NoReturn, TextIO, cast

from drgn_pageowner.commands.output import for_people
from drgn_pageowner.commands.session import Command, Opener
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.session import Session

__all__ = ("COMMANDS", "Command", "CommandParser", "Session", "add_commands", "run_command")

COMMANDS = {
    "info": "is page_owner there, on, complete and consistent",
    "list": "every record, filtered; also as the kernel's own page_owner text",
    "top": "who owns the memory: records grouped by stack, task, order, ...",
    "watch": "what grows: a running kernel read every few seconds, by stack",
    "page": "all about one page: owner, stacks, state, file or process",
    "account": "what every page is used for, beside the kernel's own counters",
    "leaks": "allocated pages that nothing can reach, and who allocated them",
    "why": "the chain of pointers that keeps a page, in names",
    "refs": "who points at a page directly",
    "diff": "what changed between two dumps: growth by stack, allocator, class, task, ...",
    "frag": "explain fragmentation: zones, culprits, contiguity, CMA, one allocation",
    "report": "a post-mortem as one HTML page, as Markdown or JSON",
    "triage": "everything into a folder, with verdicts and an exit status for scripts",
    "save": "save it to a file that every command reads instead of the dump (-S)",
    "sql": "query a dump, or any number of snapshots, with SQL",
}
"""Every command, and what it is for in one line."""


# Formats that people read. Markdown and HTML have rules of their own, which their renderers know.
_FOR_PEOPLE = ("table", "text")


def _load(name: str) -> Command:
    return cast(Command, import_module(f"{__name__}.{name}"))


class CommandParser(argparse.ArgumentParser):
    """
    A parser that says in one line what is wrong; ``--help`` has the rest.

    One that is made for a command loads that command when it is chosen, and no other.
    """

    def __init__(self, *, command: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)
        self._command = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, with the command's arguments."""
        if self._command is not None:
            command = _load(self._command)
            self.description = command.__doc__
            command.add_arguments(self)
            self._command = None
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """:raises UsageError: always"""
        raise UsageError(f"{message} (see {self.prog} --help)")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add every command to *parser* as a subcommand."""
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=CommandParser
    )
    for name, help_ in COMMANDS.items():
        subparsers.add_parser(name, help=help_, command=name)


def run_command(
    args: argparse.Namespace, session: Session, out: TextIO, open_session: Opener | None = None
) -> int:
    """
    Run the command that *args* names.

    :param open_session: For the commands that are given paths of other dumps.
    :return: Exit status.
    :raises PageOwnerError: if it cannot be answered
    """
    args.open_session = open_session
    # Without a format it is a summary.
    if getattr(args, "format", "text") in _FOR_PEOPLE:
        out = for_people(out)
    return _load(args.command).run(args, session, out)
