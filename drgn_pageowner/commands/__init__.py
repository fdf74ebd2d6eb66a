# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands, one file each: arguments, one analysis, one renderer.

:data:`COMMANDS` registers them. The command line, ``%pageowner`` in the drgn shell and the table in
README.md are made from it. The module of a command is imported when the command is chosen. Commands
get their data from the :class:`Session` that is passed to them. This module is loaded whenever drgn
starts, so it imports as little as possible.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from itertools import groupby
from typing import Any, NoReturn, TextIO, cast

from drgn_pageowner.commands.output import escaping, for_people, output_to
from drgn_pageowner.commands.session import Command, Opener
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.session import Session
from drgn_pageowner.render.terminal import columns, fold, wants_colour

__all__ = ("COMMANDS", "Command", "CommandParser", "Session", "add_commands", "run_command")

COMMANDS = {
    "info": "check whether page_owner is compiled in, on, complete and consistent",
    "list": "list every record, filtered; also as the kernel's own page_owner text",
    "top": "show who owns the memory: records grouped by stack, allocator, task, order, ...",
    "watch": "show what grows in a running kernel, read every few seconds",
    "page": "describe one page: owner, stacks, state, file or process",
    "allocinfo": "show bytes and calls of every source line that allocates, and the memory found",
    "account": "show what every page is used for, next to the kernel's own counters",
    "leaks": "find allocated pages that nothing can reach, and who allocated them",
    "why": "show why a page is not free: the chain of pointers to it, with types and members",
    "refs": "show who points at a page directly",
    "typegraph": "show what C types the slab objects have, inferred from the pointers to them",
    "diff": "compare two dumps: growth by stack, allocator, class, task, ...",
    "frag": "explain fragmentation: zones, culprits, contiguity, CMA, one allocation",
    "report": "write a post-mortem as one HTML page, as Markdown or JSON",
    "triage": "run all analyses into a directory, with verdicts and an exit status for scripts",
    "save": "save a snapshot that every command reads instead of the dump (-S)",
    "layout": "write a small file with types and symbols, to use instead of the vmlinux",
    "sql": "query a dump, any number of snapshots, or datasets, with SQL",
    "fleet": "decode many dumps into a dataset, and report on all of them",
}
"""Every command, with a one-line description. The module of a command has its name."""


_WORDS = {
    "owner": "list or top", "dump": "list", "records": "list", "show": "list or page",
    "sort": "top", "page_owner_sort": "top", "stacks": "list --format stacks, or top",
    "alloc": "top", "allocations": "top", "usage": "account", "meminfo": "account",
    "kmem": "page for one page, account for all, top --slab for slab caches",
    "slab": "top --slab", "slabtop": "top --slab", "slabinfo": "account --slab",
    "findleaks": "leaks", "leak": "leaks", "kmemleak": "leaks", "whatis": "page", "pfn": "page",
    "whattype": "page", "search": "refs", "rd": "page", "buddyinfo": "frag buddyinfo",
    "pagetypeinfo": "frag pagetypeinfo", "extfrag": "frag extfrag", "fragmentation": "frag",
    "compare": "diff", "snapshot": "save", "query": "sql", "html": "report", "log": "report",
    "files": "report, which lists files", "memcg": "top --by memcg", "cgroup": "top --by memcg",
    "vm": "top --by process, or page for an address", "vtop": "page",
    "ps": "top --by process", "mod": "top --by driver", "help": "--help",
}  # fmt: skip
"""Names of commands in other tools -> the command of this program that does the same."""

_OPTIONS = {
    "--cull": "--by", "--group": "--by", "--group-by": "--by", "--groupby": "--by", "--key": "--by",
    "--name": "--comm", "--task": "--comm", "--process": "--by process", "--command": "--comm",
    "--head": "--limit", "--top": "--limit", "--count": "--limit", "--lines": "--limit",
    "--function": "--stack-contains", "--func": "--stack-contains", "--symbol": "--stack-contains",
    "--caller": "--stack-contains", "--grep": "--stack-contains", "--filter": "--stack-contains",
    "--json": "--format json", "--csv": "--format csv", "--text": "--format table",
    "--verbose": "--stacks", "--callgraph": "--format folded", "--flamegraph": "--format folded",
    "--older": "--min-age", "--newer": "--max-age", "--size": "--min-size", "--vmlinux": "-s",
    "--vmcore": "-c", "--dump": "-c",
}  # fmt: skip
"""Options of other tools -> the option of this program that does the same."""


def _load(name: str) -> Command:
    """Import the module of a command."""
    return cast(Command, import_module(f"{__name__}.{name}"))


class _Help(argparse.RawDescriptionHelpFormatter):
    """Format help to the width of the terminal; indented lines of a description are not joined."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for prose, some in groupby(text.splitlines(), lambda line: line[:1].strip() != ""):
            if prose:
                lines += textwrap.wrap(" ".join(some), columns())
                continue
            for example in _examples(some):
                lines += fold(example, columns())
        return "\n".join(indent + line for line in lines)


# A line of help with at least this indentation continues the description of an example.
_TEXT = " " * 20


def _examples(lines: Iterable[str]) -> list[str]:
    """Join the lines of each example's description, which is to the right of the example."""
    found: list[str] = []
    for line in lines:
        before = found[-1] if found else ""
        if line.startswith(_TEXT) and (before.startswith(_TEXT) or "  " in before.strip()):
            found[-1] = f"{before} {line.strip()}"
        else:
            found.append(line)
    return found


class CommandParser(argparse.ArgumentParser):
    """
    An argument parser that reports errors in one line and refers to ``--help``.

    The module of a command is imported when that command is chosen.
    """

    def __init__(self, *, command: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(**kwargs)
        self._command = command
        self._commands: dict[str, CommandParser] = {}

    def load(self) -> None:
        """Add the arguments of the command that this parser is made for, if it has none yet."""
        if self._command is not None:
            command = _load(self._command)
            self.description = command.__doc__
            command.add_arguments(self)
            self._command = None

    def command(self, name: str) -> CommandParser:
        """Return the parser of a command, with its arguments."""
        found = self._commands[name]
        found.load()
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, with the command's arguments."""
        self.load()
        if self._commands:
            args = self._in_order([*(sys.argv[1:] if args is None else args)])
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """
        Parse all arguments.

        :raises UsageError: if an argument is unknown; the message names the ``--help`` of the
            command
        """
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = self._commands.get(getattr(parsed, "command", None) or "", self)
            command.error(_unrecognized(unknown, self, command))
        return parsed

    def _in_order(self, words: list[str]) -> list[str]:
        """
        Reorder arguments: options of the program before the command, those of the command after it.

        The command is the first word that names one and is not the value of an option.
        """
        place = self._place_of_command(words)
        if place is None:
            return words
        command = self._commands[words[place]]
        command.load()
        before, behind = words[:place], words[place + 1 :]
        ours, theirs = self._option_string_actions, command._option_string_actions
        moved, before = _split(before, theirs, ours)
        hoisted, behind = _split(behind, ours, _with_views(command))
        return [*before, *hoisted, words[place], *moved, *behind]

    def _place_of_command(self, words: Sequence[str]) -> int | None:
        known = dict(self._option_string_actions)
        place = 0
        while place < len(words):
            word = words[place]
            if word == "--":
                return None
            if word in self._commands:
                return place
            place += 2 if _takes_next(word, known) else 1
        return None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.dest != "command" or value in self._commands or not self._commands:
            super()._check_value(action, value)
            return
        near = difflib.get_close_matches(value, COMMANDS, 3)
        known = _WORDS.get(value.lower()) or " or ".join(near)
        hint = f"try {known}" if known else f"known are {', '.join(COMMANDS)}"
        self.error(f"no command {value!r}: {hint}")

    def error(self, message: str) -> NoReturn:
        """
        Report what is wrong with the arguments.

        :raises UsageError: always
        """
        raise UsageError(f"{message} (see {self.prog} --help)")


_Options = Mapping[str, argparse.Action]


def _with_views(command: CommandParser) -> _Options:
    """Return the options of *command*, including those of its subcommands (views)."""
    known = dict(command._option_string_actions)
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for view in action.choices.values():
                known |= view._option_string_actions
    return known


def _option(word: str, known: _Options) -> str | None:
    """
    Return the name of the option in *word*, which may also contain the option's value.

    :return: ``None`` if *word* is not one of the options *known*.
    """
    if not word.startswith("-") or word == "-":
        return None
    name = word.partition("=")[0] if word.startswith("--") else word[:2]
    return name if name in known else None


def _takes_next(word: str, known: _Options) -> bool:
    """Return whether *word* is an option whose value is the next word."""
    name = _option(word, known)
    # A value may follow the option in the same word: --limit=3, -n3.
    return name is not None and name == word and known[name].nargs != 0


def _split(words: Sequence[str], wanted: _Options, others: _Options) -> tuple[list[str], list[str]]:
    """
    Separate the options *wanted* and their values from the other words.

    :param others: Options that are not separated, even if they are in *wanted* as well.
    :return: The separated options and values, and the other words.
    """
    taken: list[str] = []
    rest: list[str] = []
    place = 0
    while place < len(words):
        word = words[place]
        if word == "--":
            rest += words[place:]
            break
        mine = _option(word, others) is None and _option(word, wanted) is not None
        number = 1 + _takes_next(word, wanted if mine else others)
        (taken if mine else rest).extend(words[place : place + number])
        place += number
    return taken, rest


def _unrecognized(
    unknown: Sequence[str], parser: argparse.ArgumentParser, command: argparse.ArgumentParser
) -> str:
    """Return the message about unknown arguments, with options of similar names."""
    options = [*command._option_string_actions, *parser._option_string_actions]
    name = unknown[0].partition("=")[0]
    other = _OPTIONS.get(name)
    near: list[str] = []
    if other:
        near = [other]
    elif name.startswith("-"):
        near = difflib.get_close_matches(name, options, 3, 0.75)
    elif name.isdecimal() and "--limit" in options:
        near = [f"--limit {name}"]
    elif name.startswith("pfn:") and "--pfn" in options:
        near = [f"--pfn {name.removeprefix('pfn:')}"]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"unrecognized arguments: {' '.join(unknown)}{hint}"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add every command to *parser* as a subcommand."""
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=CommandParser
    )
    for name, help_ in COMMANDS.items():
        command = subparsers.add_parser(name, help=help_, command=name)
        if isinstance(parser, CommandParser):
            parser._commands[name] = command


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
    # Where a command that writes a file says so.
    args.standard_output = for_people(out)
    with output_to(getattr(args, "output", None), out) as stream:
        # A command without --format prints a summary for people.
        format_ = getattr(args, "format", "table")
        if format_ != "table":
            if format_ == "text":
                stream = escaping(stream)
            return _load(args.command).run(args, session, stream)
        colour = wants_colour(getattr(args, "color", "auto"), stream)
        people = for_people(stream, colour=colour)
        status = _load(args.command).run(args, session, people)
        people.flush()
        return status
