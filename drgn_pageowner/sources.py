# SPDX-License-Identifier: LGPL-2.1-or-later
"""Open what a command reads: a kernel, a dump, a snapshot or a text."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import copy
from dataclasses import fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.model.threads import allow_threads, usable_cpus

if TYPE_CHECKING:
    from drgn import Program

    from drgn_pageowner.commands.session import Opener
    from drgn_pageowner.kernel.dump.open import ProgramOptions
    from drgn_pageowner.model.session import Session

__all__ = ("opener_beside", "opener_of", "program_options", "session_of")

_PARQUET = b"PAR1"


class _Later:
    """
    A session that is opened on first use, because commands that take paths as arguments may not
    need it.
    """

    def __init__(self, open_session: Callable[[], Session]) -> None:
        self._open = open_session

    @cached_property
    def _session(self) -> Session:
        return self._open()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._session, name)


def session_of(args: argparse.Namespace) -> Session:
    """
    Return the session that the options name, which is opened on first use.

    See :func:`~drgn_pageowner.commands.options.add_program_options`.
    """
    return cast("Session", _Later(partial(_open, args)))


def _open(args: argparse.Namespace) -> Session:
    """Open the session; drgn is imported only for a dump or a running kernel."""
    if getattr(args, "memory", None) is not None:
        from drgn_pageowner.model.scratch import limit_memory

        limit_memory(args.memory)
    if args.snapshot:
        from drgn_pageowner.storage.session import open_snapshots

        allow_threads(getattr(args, "jobs", None) or usable_cpus())
        return open_snapshots(args.snapshot, args.page_size)
    try:
        from drgn_pageowner.kernel.dump.open import open_program
        from drgn_pageowner.kernel.session import ProgramSession
    except ModuleNotFoundError as error:
        if error.name != "drgn":
            raise
        raise PageOwnerError("drgn is not installed: only a snapshot (-S) can be read") from None
    return ProgramSession(
        open_program(program_options(args)), args.core or args.qemu or "running kernel"
    )


def program_options(args: argparse.Namespace) -> ProgramOptions:
    """
    Return the options that :func:`~drgn_pageowner.commands.options.add_program_options` added to
    *args*.
    """
    from drgn_pageowner.kernel.dump.open import ProgramOptions

    chosen = {
        field.name: value
        for field in fields(ProgramOptions)
        if (value := getattr(args, field.name, None)) is not None
    }
    chosen.setdefault("jobs", usable_cpus())
    return ProgramOptions(
        **chosen,
        for_others=getattr(args, "command", None) == "diff" or bool(getattr(args, "before", None)),
    )


def opener_of(args: argparse.Namespace) -> Opener:
    """
    Return a function that opens another dump, a snapshot or a text by its path.

    Dumps are opened with the symbol files and other options of *args*.
    """

    def open_dump(path: str) -> Session:
        other = copy(args)
        other.core, other.kernel, other.qemu, other.snapshot = path, False, None, None
        return _open(other)

    return partial(_open_file, open_dump, args.page_size)


def opener_beside(prog: Program) -> Opener:
    """
    Return a function that opens another dump, a snapshot or a text by its path, in drgn's shell.

    The symbols of *prog* are used for another dump if they match.

    :param prog: The program that the shell has opened.
    """
    from drgn_pageowner.kernel.dump.open import open_beside
    from drgn_pageowner.kernel.session import ProgramSession

    return partial(_open_file, lambda path: ProgramSession(open_beside(prog, path), path), None)


def _open_file(open_dump: Callable[[str], Session], page_size: int | None, path: str) -> Session:
    try:
        with open(path, "rb") as file:
            magic = file.read(len(_PARQUET))
    except OSError as error:
        raise PageOwnerError(f"cannot read {path}: {error.strerror or error}") from error
    from drgn_pageowner.storage.session import open_file
    from drgn_pageowner.storage.text.source import kind_of_text

    if magic != _PARQUET and kind_of_text(path) is None:
        return open_dump(path)
    return open_file(path, page_size)
