# SPDX-License-Identifier: LGPL-2.1-or-later
"""``--drgn``: print lines of Python that compute a command's result in drgn's shell or a script."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TextIO

from drgn_pageowner.commands.output import unescaped
from drgn_pageowner.errors import UsageError

__all__ = ("add_drgn", "print_lines", "refuse")


def add_drgn(parser: argparse.ArgumentParser) -> None:
    """Add ``--drgn``."""
    parser.add_argument(
        "--drgn",
        action="store_true",
        help="print instead the Python lines that compute this in drgn's shell or a script",
    )


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


def print_lines(lines: str, args: argparse.Namespace, out: TextIO) -> int:
    """Print *lines* without wrapping them at the width of the terminal."""
    (out if args.format != "table" else unescaped(out)).write(lines)
    return 0
