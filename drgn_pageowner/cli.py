# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: ``drgn-pageowner [drgn's program options] COMMAND``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drgn_pageowner.commands import CommandParser

__all__ = ("build_parser", "main")

_EPILOG = """exit status: 0 answered; 1 the dump cannot answer (page_owner absent, off or
unreadable: one line on stderr says why and what to do); 2 usage; 3 triage found something;
4 an error of drgn-pageowner itself, or not enough memory: that says nothing about the dump;
130 interrupted."""

_INTERRUPTED = 130
_TRACEBACK = "--traceback"


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    :return: Exit status.
    """
    # This module imports next to nothing before: Ctrl-C ends a command from its first moment on
    # without a traceback.
    try:
        import gc

        # Arrays and text make no cycles, and the process ends soon.
        gc.disable()
        arguments = sys.argv[1:] if arguments is None else arguments
        # Taken anywhere among the arguments: somebody adds it to a command that has just failed.
        words = [word for word in arguments if word != _TRACEBACK]
        with _noting_interrupts() as interrupts:
            try:
                return _main(words, interrupts)
            except Exception as error:
                # A library that is just being imported makes an ImportError of it.
                if interrupts:
                    return _INTERRUPTED
                if len(words) < len(arguments):
                    import traceback

                    traceback.print_exc()
                return _said(error)
    except KeyboardInterrupt:
        return _INTERRUPTED


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """Collect the signals that raise :exc:`KeyboardInterrupt`: some code swallows that."""
    import signal

    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:
        # Only the main thread gets signals.
        yield noted
        return
    if before is not signal.default_int_handler:
        # Somebody has a way of their own, or the process was started to ignore it (nohup).
        signal.signal(signal.SIGINT, before)
        yield noted
        return
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _said(error: Exception) -> int:
    """Say *error* in one line; the exit status that goes with it."""
    from drgn_pageowner.errors import INTERNAL, PageOwnerError, internal_error, out_of_memory
    from drgn_pageowner.progress import warn

    if isinstance(error, PageOwnerError):
        warn(str(error))
        return error.exit_status
    if isinstance(error, BrokenPipeError):
        # The reader (head, a pager) has seen enough.
        _drop_output()
        return 0
    if isinstance(error, OSError):
        # Errors about other files become a PageOwnerError where those are opened: this is about
        # standard output.
        reason = error.strerror or error
        warn(
            f"cannot write the answer: {reason}"
            if error.filename is None
            else f"cannot open {error.filename}: {reason}"
        )
        _drop_output()
        return PageOwnerError.exit_status
    warn(out_of_memory(error) if isinstance(error, MemoryError) else internal_error(error))
    return INTERNAL


def _drop_output() -> None:
    """Discard what is buffered for standard output, so that nothing fails again at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(arguments: Sequence[str], interrupts: Sequence[int]) -> int:
    from drgn_pageowner.commands import run_command
    from drgn_pageowner.sources import opener_of, session_of

    args = build_parser().parse_args(arguments)
    _use_surrogates(sys.stdout)
    status = run_command(args, session_of(args), sys.stdout, opener_of(args))
    sys.stdout.flush()
    # Ctrl-C is how watch ends; of another command it was lost on the way.
    return _INTERRUPTED if interrupts and args.command != "watch" else status


def build_parser() -> CommandParser:
    """Return the parser of the command line: the manual and completions are made from it, too."""
    from drgn_pageowner import __version__
    from drgn_pageowner.commands import CommandParser, add_commands
    from drgn_pageowner.commands.completion import add_completion_option
    from drgn_pageowner.commands.options import add_program_options

    parser = CommandParser(
        prog="drgn-pageowner",
        description="Who owns the memory of a Linux kernel, from its page_owner records.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"drgn-pageowner {__version__}")
    parser.add_argument(
        _TRACEBACK, action="store_true", help="show where in the program an error came from"
    )
    add_completion_option(parser)
    add_program_options(parser)
    add_commands(parser)
    return parser


def _use_surrogates(stream: Any) -> None:
    """Let bytes that are no UTF-8 out as they are: the kernel's own text has task names in it."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
