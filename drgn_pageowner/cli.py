"""The command line: ``drgn-pageowner [drgn's program options] COMMAND``."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.progress import warn

if TYPE_CHECKING:
    from drgn_pageowner.commands import Session

__all__ = ("main",)

_EPILOG = """exit status: 0 answered; 1 the dump cannot answer (page_owner absent, off or
unreadable: one line on stderr says why and what to do); 2 usage."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    :return: Exit status.
    """
    # Arrays and text make no cycles, and the process ends soon.
    gc.disable()
    try:
        return _main(arguments)
    except PageOwnerError as error:
        warn(str(error))
        return error.exit_status
    except BrokenPipeError:
        # The reader (head, a pager) has seen enough; do not complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _main(arguments: Sequence[str] | None) -> int:
    from drgn_pageowner import __version__
    from drgn_pageowner.commands import CommandParser, add_commands, run_command
    from drgn_pageowner.options import add_program_options

    parser = CommandParser(
        prog="drgn-pageowner",
        description="Who owns the memory of a Linux kernel, from its page_owner records.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"drgn-pageowner {__version__}")
    add_program_options(parser)
    add_commands(parser)
    args = parser.parse_args(arguments)
    _use_surrogates(sys.stdout)
    status = run_command(args, _session(args), sys.stdout)
    sys.stdout.flush()
    return status


def _session(args: argparse.Namespace) -> Session:
    """What the options say is to be asked. Only a dump and a running kernel need drgn."""
    if args.snapshot:
        from drgn_pageowner.storage.session import open_snapshots

        return open_snapshots(args.snapshot)
    try:
        from drgn_pageowner.kernel.program import open_program
        from drgn_pageowner.kernel.session import ProgramSession
    except ModuleNotFoundError as error:
        if error.name != "drgn":
            raise
        raise PageOwnerError("drgn is not installed: only a snapshot (-S) can be read") from None
    return ProgramSession(open_program(args), args.core or args.qemu or "running kernel")


def _use_surrogates(stream: Any) -> None:
    """Task names are bytes: let those that are not UTF-8 out as they came in."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
