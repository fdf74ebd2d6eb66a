# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interfaces of a command, and of the function that opens further dumps for it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Protocol, TextIO

from drgn_pageowner.model.session import Session

__all__ = ("Command", "Opener")


Opener = Callable[[str], Session]
"""
A function that opens another dump or snapshot by its path; commands call it as
``args.open_session``.

:raises PageOwnerError: if it is neither, or cannot be read
"""


class Command(Protocol):
    """A module of :mod:`drgn_pageowner.commands`."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to *parser*."""
        ...

    def run(self, args: argparse.Namespace, session: Session, out: TextIO) -> int:
        """Print the answer to *out*; return the exit status."""
        ...
