# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--drgn``: print lines of Python that compute a command's result in drgn's shell or a script."""

from __future__ import annotations

import argparse
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, TextIO

from drgn_pageowner.commands.arguments import refuse_option
from drgn_pageowner.commands.output import unescaped
from drgn_pageowner.errors import UsageError
from drgn_pageowner.render.terminal import columns

__all__ = ("add_drgn", "constructor", "print_lines", "refuse", "refuse_drgn")


def add_drgn(parser: argparse.ArgumentParser) -> None:
    """Add ``--drgn``."""
    parser.add_argument(
        "--drgn",
        action="store_true",
        help="print instead the Python lines that compute this in drgn's shell or a script",
    )


def refuse_drgn(parser: argparse.ArgumentParser, why: str) -> None:
    """
    Make ``--drgn`` an error of a command that has no such lines.

    :param why: The reason, for the message.
    """

    refuse_option(parser, "--drgn", f"there are no such lines: {why}")


def refuse(args: argparse.Namespace, options: Mapping[str, object]) -> None:
    """
    Check that no option is given with which the lines would compute something else.

    :param options: Name of an option -> its default.
    :raises UsageError: if one of them has another value
    """
    given = [
        f"--{name}"
        for name, default in options.items()
        if getattr(args, name.replace("-", "_")) != default
    ]
    if given:
        raise UsageError(f"--drgn: there are no such lines with {', '.join(given)}")


def constructor(value: Any) -> str:
    """Return the call that makes the dataclass *value*, without arguments that are the default."""
    arguments = []
    for field in fields(value):
        mine = getattr(value, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        # An option that was not given is an empty list, and the default may be an empty tuple.
        if mine != default and not (mine == [] and default == ()):
            arguments.append(f"{field.name}={mine!r}")
    return f"{type(value).__name__}({', '.join(arguments)})"


def print_lines(lines: str, args: argparse.Namespace, out: TextIO) -> int:
    """Print *lines*; long lines are broken where Python allows it."""
    text = "".join(_broken(lines, columns()))
    (out if getattr(args, "format", "table") != "table" else unescaped(out)).write(text)
    return 0


def _broken(lines: str, width: int) -> Iterator[str]:
    """Yield *lines* of Python, broken in brackets where they exceed *width*."""
    commas: dict[int, list[int]] = {}
    brackets: dict[int, list[int]] = {}
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(lines).readline):
        if token.type != tokenize.OP:
            continue
        opens = token.string in "([{"
        depth += opens - (token.string in ")]}")
        if opens or (token.string == "," and depth):
            places = brackets if opens else commas
            places.setdefault(token.end[0], []).append(token.end[1])
    for number, line in enumerate(lines.splitlines(), 1):
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        start, prefix = 0, ""
        while len(prefix) + len(line) - start > width:
            room = start + width - len(prefix)
            # A comma is the better place.
            fitting = [
                max((place for place in places.get(number, ()) if start < place <= room), default=0)
                for places in (commas, brackets)
            ]
            place = fitting[0] or fitting[1]
            if not place:
                break
            yield f"{prefix}{line[start:place]}\n"
            start, prefix = place + (line[place] == " "), indent
        yield f"{prefix}{line[start:]}\n"
