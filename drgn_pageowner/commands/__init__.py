# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands, one file each: arguments, one analysis, one renderer.

:data:`COMMANDS` registers them: the command line, ``%pageowner`` in the drgn shell and the table in
    README.md are made from it, and a command is loaded when it is chosen. Commands get their data
    from the :class:`Session` that is passed to them. This module is loaded whenever drgn starts, so
    it imports as little as possible.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, NoReturn, TextIO, cast

from drgn_pageowner.commands.output import for_people, output_to
from drgn_pageowner.commands.session import Command, Opener
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.session import Session

__all__ = ("COMMANDS", "Command", "CommandParser", "Session", "add_commands", "run_command")

COMMANDS = {
    "info": "check whether page_owner is there, on, complete and consistent",
    "list": "list every record, filtered; also as the kernel's own page_owner text",
    "top": "show who owns the memory: records grouped by stack, allocator, task, order, ...",
    "watch": "show what grows in a running kernel, read every few seconds",
    "page": "describe one page: owner, stacks, state, file or process",
    "allocinfo": "show how much every place in the source allocates, and what bears its tag",
    "account": "tell what every page is used for, beside the kernel's own counters",
    "leaks": "find allocated pages that nothing can reach, and who allocated them",
    "why": "show the chain of pointers that keeps a page, in names",
    "refs": "show who points at a page directly",
    "typegraph": "show what C types the slab objects have, inferred from the pointers to them",
    "diff": "compare two dumps: growth by stack, allocator, class, task, ...",
    "frag": "explain fragmentation: zones, culprits, contiguity, CMA, one allocation",
    "report": "write a post-mortem as one HTML page, as Markdown or JSON",
    "triage": "run everything into a folder, with verdicts and an exit status for scripts",
    "save": "save a snapshot that every command reads instead of the dump (-S)",
    "sql": "query a dump, or any number of snapshots, with SQL",
}
"""Every command, and what it does in one line. Each is the module of its name in this package."""


# Formats for people. Markdown and HTML have escaping rules of their own, which their renderers
# apply.
_FOR_PEOPLE = ("table", "text")


def _load(name: str) -> Command:
    """Import the module of a command."""
    return cast(Command, import_module(f"{__name__}.{name}"))


class CommandParser(argparse.ArgumentParser):
    """
    A parser that reports an error in one line; ``--help`` has the rest.

    The parser of a command loads that command when it is chosen, and no other.
    """

    def __init__(self, *, command: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)
        self._command = command

    def load(self) -> None:
        """Add the arguments of the command that this parser is made for, if it has none yet."""
        if self._command is not None:
            command = _load(self._command)
            self.description = command.__doc__
            command.add_arguments(self)
            self._command = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, with the command's arguments."""
        self.load()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """
        Report what is wrong with the arguments.

        :raises UsageError: always
        """
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
    Run the command that *args* names; it prints to *out*, or to the file of ``-o``.

    :param open_session: Opens other dumps, for the commands that are given their paths.
    :return: The exit status.
    :raises PageOwnerError: if the dump cannot answer
    """
    args.open_session = open_session
    with output_to(getattr(args, "output", None), out) as stream:
        # Commands without a format print a summary for people.
        if getattr(args, "format", "text") in _FOR_PEOPLE:
            stream = for_people(stream)
        return _load(args.command).run(args, session, stream)
