# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ``drgn.plugins`` entry point: ``%pageowner COMMAND`` and ``pageowner_type()`` in the drgn shell.

drgn loads this at every start. Only the names of the commands are imported then; the rest follows
when a command is run, or when a dump needs it.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from drgn import Architecture, Object, Program, ProgramFlags
from drgn.commands import CommandError, argument, command

from drgn_pageowner.commands import COMMANDS, CommandParser, add_commands, run_command
from drgn_pageowner.completer import complete_in_shell
from drgn_pageowner.errors import PageOwnerError

if TYPE_CHECKING:
    from drgn_pageowner.kernel.dump.kernel import Kernel

_DESCRIPTION = "show who owns the memory, from page_owner records"


def drgn_prog_set(prog: Program) -> None:
    """
    Prepare a program that drgn has just opened.

    drgn calls this hook of plugins. For an i386 kernel, it makes drgn able to translate virtual
    addresses.
    """
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        return
    complete_in_shell()
    _add_helpers()
    if prog.platform is not None and prog.platform.arch == Architecture.I386:
        from drgn_pageowner.kernel.dump.i386 import read_through_page_tables

        read_through_page_tables(prog)


def _add_helpers() -> None:
    """
    Add ``pageowner_type()`` to ``drgn.helpers.linux``.

    The shell, ``drgn -e`` and ``from drgn.helpers.linux import *`` take the names in its
    ``__all__``.
    """
    from drgn.helpers import linux

    name = "pageowner_type"
    if name not in linux.__all__:
        linux.__all__.append(name)
        setattr(linux, name, _pageowner_type)


def _pageowner_type(*args: Any) -> Object:
    """
    Get the object at an address, with its inferred type: ``pageowner_type([prog, ]address)``.

    The first call reads the kernel's memory, which takes seconds.

    :param address: Virtual address of any byte of a slab object, a page, an allocation of per-CPU
        memory, or a variable.
    :return: Reference object of the inferred type, such as ``struct dentry``; for an array, the
        element that contains the address.
    :raises LookupError: if the type is unknown
    """
    from drgn_pageowner.shell import pageowner_type

    return pageowner_type(*args)


@contextmanager
def _any_bytes(stream: Any) -> Iterator[None]:
    """
    Make *stream* write surrogates as the bytes that they stand for, until the ``with`` block ends.

    Task names in memory may have any bytes, and the kernel's text contains them unchanged. Without
    this, writing such a name to a pipe or file that drgn opened fails.
    """
    if not hasattr(stream, "reconfigure"):
        yield
        return
    before = {"encoding": stream.encoding, "errors": stream.errors}
    stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        yield
    finally:
        # Restoring the encoding flushes the stream, which fails for a pipe whose reader has exited.
        with suppress(OSError, ValueError):
            stream.reconfigure(**before)


@contextmanager
def _limited(kernel: Kernel, jobs: int | None, memory: int | None) -> Iterator[None]:
    """
    Let *jobs* processes read *kernel*, and large arrays take *memory* bytes, until the ``with``
    block ends.

    :param jobs: ``None`` for as many as before.
    :param memory: ``None`` for as much as before.
    """
    from drgn_pageowner.model.scratch import limit_memory, memory_limit

    before = kernel.jobs, memory_limit()
    kernel.jobs = before[0] if jobs is None else jobs
    limit_memory(before[1] if memory is None else memory)
    try:
        yield
    finally:
        kernel.jobs = before[0]
        limit_memory(before[1])


@command(
    name="pageowner",
    description=_DESCRIPTION,
    usage="**pageowner** *COMMAND* [*ARG*...]",
    long_description=f"Decode the kernel's page_owner records. Commands: {', '.join(COMMANDS)}; "
    "**pageowner** *COMMAND* **--help** describes each; "
    "**--traceback** behind a command shows where an error came from.",
    arguments=(argument("arguments", metavar="COMMAND", nargs=argparse.REMAINDER),),
)
def _cmd_pageowner(prog: Program, name: str, args: argparse.Namespace, **kwargs: Any) -> None:
    from drgn_pageowner.commands.options import add_jobs_option, add_memory_option
    from drgn_pageowner.errors import internal_error, out_of_memory
    from drgn_pageowner.escape import word
    from drgn_pageowner.kernel.dump.kernel import Kernel
    from drgn_pageowner.kernel.session import ProgramSession
    from drgn_pageowner.sources import opener_beside

    parser = CommandParser(prog=f"%{name}", description=_DESCRIPTION)
    words = [argument for argument in args.arguments if argument != "--traceback"]
    # The user may have threads, so that a fork is not safe unless they say so.
    add_jobs_option(parser, "1")
    add_memory_option(parser)
    add_commands(parser)
    try:
        with _any_bytes(sys.stdout):
            parsed = parser.parse_args(words)
            with _limited(Kernel.of(prog), parsed.jobs, parsed.memory):
                run_command(parsed, ProgramSession.of(prog), sys.stdout, opener_beside(prog))
            sys.stdout.flush()
    except PageOwnerError as error:
        raise CommandError(word(str(error))) from None
    except OSError:
        # The output cannot be written to its pipe or file; drgn reports that.
        raise
    except SystemExit:
        # --help was printed; do not leave the shell.
        return
    except Exception as error:
        if len(words) < len(args.arguments):
            traceback.print_exc()
        line = out_of_memory(error) if isinstance(error, MemoryError) else internal_error(error)
        raise CommandError(word(line)) from None
