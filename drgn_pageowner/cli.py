# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: ``drgn-pageowner [drgn's program options] COMMAND``."""

from __future__ import annotations

import _thread
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
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
    # Import modules inside of this block, so that Ctrl-C never prints a traceback, and is noted if
    # Python's import system swallows it.
    try:
        with _noting_interrupts() as interrupts:
            import gc
            import os

            # Garbage collection costs time and frees nothing: arrays and strings form no reference
            # cycles.
            gc.disable()
            # NumPy would start threads for linear algebra, one per CPU, that wait for work in a
            # loop: a quarter of the CPU time of a command on a small dump.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            arguments = sys.argv[1:] if arguments is None else arguments
            # Accept --traceback anywhere among the arguments, so that it can be appended to a
            # command that failed.
            words = [word for word in arguments if word != _TRACEBACK]
            try:
                return _main(words, interrupts)
            except Exception as error:
                # A library that is being imported may turn KeyboardInterrupt into an ImportError.
                if interrupts:
                    return _INTERRUPTED
                if len(words) < len(arguments):
                    import traceback

                    traceback.print_exc()
                return _said(error)
            finally:
                # Python collects garbage at exit, even if that is disabled.
                gc.freeze()
    except KeyboardInterrupt:
        return _INTERRUPTED


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """
    Record SIGINT while a ``with`` block runs, because some code swallows :exc:`KeyboardInterrupt`.

    Python itself does if it is raised in a callback or a destructor, such as those of the import
    system. Then it is raised once more. Extension modules that are being imported may print it and
    raise another exception (``import_array()`` of NumPy does), so it is not raised before the
    import has ended. Libraries may warn of what they could not finish, which nobody asks for any
    more.

    :return: A list, to which the number of the signal is appended whenever it arrives.
    """
    noted: list[int] = []
    thread = _thread.get_ident()

    def interrupt_soon() -> None:
        _thread.start_new_thread(_interrupt_soon, (thread, noted))

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        warnings.simplefilter("ignore")
        if not _is_importing(frame):
            raise KeyboardInterrupt
        interrupt_soon()

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:
        # Only the main thread may set signal handlers.
        yield noted
        return
    if before is not signal.default_int_handler:
        # The caller has its own handler, or the process ignores SIGINT (nohup).
        signal.signal(signal.SIGINT, before)
        yield noted
        return
    hook = sys.unraisablehook

    def once_more(lost: sys.UnraisableHookArgs) -> None:
        if noted and issubclass(lost.exc_type, KeyboardInterrupt):
            # Here, it would be swallowed again.
            interrupt_soon()
        else:
            hook(lost)

    sys.unraisablehook = once_more
    try:
        with warnings.catch_warnings():
            yield noted
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
        noted.clear()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _interrupt_soon(thread: int, noted: Sequence[int]) -> None:
    time.sleep(0.01)
    # The list is cleared once the command has ended.
    if noted:
        signal.pthread_kill(thread, signal.SIGINT)


def _said(error: Exception) -> int:
    """Print *error* on one line, and return its exit status."""
    from drgn_pageowner.errors import INTERNAL, PageOwnerError, internal_error, out_of_memory
    from drgn_pageowner.progress import warn

    if isinstance(error, PageOwnerError):
        warn(str(error))
        return error.exit_status
    if isinstance(error, BrokenPipeError):
        # The reader of the pipe (head, a pager) has exited.
        _drop_output()
        return 0
    if isinstance(error, OSError):
        # Errors of all other files are converted to PageOwnerError where the files are opened, so
        # this is an error of standard output.
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
    """
    Discard the output that is still buffered, so that flushing it at exit does not fail again.
    """
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(arguments: Sequence[str], interrupts: Sequence[int]) -> int:
    from drgn_pageowner.commands import run_command
    from drgn_pageowner.commands.pager import paged
    from drgn_pageowner.sources import opener_of, session_of

    args = build_parser().parse_args(arguments)
    _use_surrogates(sys.stdout)
    # If the user quits the pager early, the exit status is 0.
    status = 0
    with paged(sys.stdout, wanted=args.pager and args.command != "watch") as out:
        status = run_command(args, session_of(args), out, opener_of(args))
        out.flush()
    # Ctrl-C is the normal end of watch. Other commands were interrupted, and some code swallowed
    # the exception.
    return _INTERRUPTED if interrupts and args.command != "watch" else status


def build_parser() -> CommandParser:
    """
    Return the parser of the command line; the manual and the completions are generated from it,
    too.
    """
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
    parser.add_argument(
        "--color",
        "--colour",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour severities and modules (default: on a terminal, unless NO_COLOR is set)",
    )
    parser.add_argument(
        "--no-pager",
        dest="pager",
        action="store_false",
        help="do not show a long answer in a pager (PAGER, or less) on a terminal",
    )
    add_completion_option(parser)
    add_program_options(parser)
    add_commands(parser)
    return parser


def _use_surrogates(stream: Any) -> None:
    """Write surrogates as the bytes they stand for: the debugfs text contains task names."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
