# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Complete ``%pageowner`` in drgn's shell: commands, options, and values such as names of modules.

drgn's own completer only knows Python names, and has no interface for commands. It is still used
for all other lines.
"""

from __future__ import annotations

import argparse
import glob
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drgn import Program

    from drgn_pageowner.commands import CommandParser
    from drgn_pageowner.model.session import Session

__all__ = ("complete_in_shell", "completions")

_COMMAND = "%pageowner"
# Metavars of arguments that are names of files.
_FILES = ("AFTER", "BEFORE", "DIR", "DUMP", "FILE", "OUT", "PATH")


def completions(line: str, session: Session | None = None) -> list[str]:
    """
    Return the possible completions of the last word of *line*.

    :param line: The line up to the cursor; its first word is ``%pageowner``.
    :param session: Source of the names of modules, zones and tasks; ``None`` for no such names.
    """
    from drgn_pageowner.commands import COMMANDS, CommandParser, add_commands

    *before, word = line.split(" ")
    before = [one for one in before if one]
    if not before:
        return [_COMMAND] if _COMMAND.startswith(word) else []
    parser = CommandParser(prog=_COMMAND)
    add_commands(parser)
    name = next((one for one in before[1:] if one in COMMANDS), None)
    if name is None:
        return _starting(word, COMMANDS)
    command = parser.command(name)
    option, separator, value = word.partition("=")
    if separator and option.startswith("--"):
        return [f"{option}={one}" for one in _values(command, option, value, session)]
    if before[-1] in command._option_string_actions and _takes_value(command, before[-1]):
        return _values(command, before[-1], word, session)
    if word.startswith("-"):
        return _starting(word, command._option_string_actions)
    return _positional(command, name, word)


def _starting(word: str, words: Iterable[str]) -> list[str]:
    return [one for one in words if one.startswith(word)]


def _takes_value(command: CommandParser, option: str) -> bool:
    return command._option_string_actions[option].nargs != 0


def _values(command: CommandParser, option: str, word: str, session: Session | None) -> list[str]:
    """Return the values of *option* that complete *word*; of a list, the last element is
    completed."""
    action = command._option_string_actions.get(option)
    if action is None:
        return []
    if action.choices is not None:
        return _starting(word, map(str, action.choices))
    if action.metavar in _FILES:
        return glob.glob(glob.escape(word) + "*")
    first, comma, last = word.rpartition(",")
    known = _KNOWN.get(action.dest)
    found: Iterable[str] = ()
    # If the dump lacks the data for the values, nothing is suggested.
    with suppress(Exception):
        found = known(command, session) if known is not None else ()
    return [f"{first}{comma}{one}" for one in _starting(last, dict.fromkeys(found))]


def _positional(command: CommandParser, name: str, word: str) -> list[str]:
    if name == "frag":
        from drgn_pageowner.commands.frag import VIEWS

        return _starting(word, [*VIEWS, "all"])
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            return _starting(word, action.choices)
        if not action.option_strings and action.metavar in _FILES:
            return glob.glob(glob.escape(word) + "*")
    return []


def _modules(command: CommandParser, session: Session | None) -> Iterable[str]:
    return session.modules() if session is not None else ()


def _zones(command: CommandParser, session: Session | None) -> Iterable[str]:
    return [zone.name for zone in session.facts().zones] if session is not None else ()


def _nodes(command: CommandParser, session: Session | None) -> Iterable[str]:
    return [str(zone.node) for zone in session.facts().zones] if session is not None else ()


def _tasks(command: CommandParser, session: Session | None) -> Iterable[str]:
    return sorted(session.inventory().tasks.values()) if session is not None else ()


def _keys(command: CommandParser, session: Session | None) -> Iterable[str]:
    from drgn_pageowner.analysis.account.holders import HOLDERS
    from drgn_pageowner.analysis.owners.group import GROUP_KEYS

    return [*GROUP_KEYS, *HOLDERS]


def _sort_keys(command: CommandParser, session: Session | None) -> Iterable[str]:
    from drgn_pageowner.analysis.owners.group import SORT_KEYS

    return SORT_KEYS


def _confidences(command: CommandParser, session: Session | None) -> Iterable[str]:
    from drgn_pageowner.analysis.leaks.owners import CONFIDENCES

    return CONFIDENCES


_KNOWN: Mapping[str, Callable[[Any, Any], Iterable[str]]] = {
    "module": _modules,
    "zone": _zones,
    "node": _nodes,
    "comm": _tasks,
    "by": _keys,
    "sort": _sort_keys,
    "confidence": _confidences,
}
"""Attribute of an option in the parsed arguments -> function that returns its values."""


def complete_in_shell() -> None:
    """
    Add the completion of ``%pageowner`` to drgn's shell.

    Nothing is changed if the program is not drgn's shell, or if its version of drgn has a different
    completer.
    """
    if "drgn.cli" not in sys.modules:
        return
    try:
        from drgn import get_default_prog
        from drgn.internal.repl import readline
        from drgn.internal.rlcompleter import Completer
    except ImportError:
        return
    of_drgn = getattr(Completer.complete, "of_drgn", Completer.complete)

    def complete(self: Any, text: str, state: int) -> str | None:
        line = readline.get_line_buffer()[: readline.get_endidx()]
        if not line.startswith("%") or not _COMMAND.startswith(line.split(" ")[0]) or line == "%":
            result: str | None = of_drgn(self, text, state)
            return result
        if state == 0:
            # The shell's program is the default one. A reference from here would keep it forever.
            self._of_pageowner = _ends(line, text, get_default_prog())
        found: list[str] = self._of_pageowner
        return found[state] if state < len(found) else None

    complete.of_drgn = of_drgn  # type: ignore[attr-defined]
    setattr(Completer, "complete", complete)  # noqa: B010 (mypy knows no method that is replaced)


def _ends(line: str, text: str, prog: Program) -> list[str]:
    """
    Return the possible completions of *text*.

    :param text: The end of *line* that readline replaces. It is shorter than the last word if this
        contains punctuation.
    """
    session: Session | None = None
    with suppress(Exception):
        from drgn_pageowner.kernel.session import ProgramSession

        session = ProgramSession.of(prog)
    try:
        found = completions(line, session)
    except Exception:
        # readline would ignore the exception. Suggest nothing; the user can continue typing.
        return []
    kept = len(line.split(" ")[-1]) - len(text)
    ends = [one[kept:] for one in found]
    return [f"{ends[0]} "] if len(ends) == 1 and not ends[0].endswith("/") else ends
