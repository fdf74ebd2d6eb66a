# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: ``drgn-pageowner [drgn's program options] COMMAND``."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.progress import warn

__all__ = ("main",)

_EPILOG = """exit status: 0 answered; 1 the dump cannot answer (page_owner absent, off or
unreadable: one line on stderr says why and what to do); 2 usage; 3 triage found something."""


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
        # The reader (head, a pager) has seen enough.
        _drop_output()
        return 0
    except OSError as error:
        # Where files are read or written by name, that is said there: this is standard output.
        warn(f"cannot write the answer: {error.strerror or error}")
        _drop_output()
        return PageOwnerError.exit_status
    except KeyboardInterrupt:
        return 130


def _drop_output() -> None:
    """What is not written yet goes nowhere: nothing is to complain again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(arguments: Sequence[str] | None) -> int:
    from drgn_pageowner import __version__
    from drgn_pageowner.commands import CommandParser, add_commands, run_command
    from drgn_pageowner.commands.options import add_program_options
    from drgn_pageowner.sources import opener_of, session_of

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
    status = run_command(args, session_of(args), sys.stdout, opener_of(args))
    sys.stdout.flush()
    return status


def _use_surrogates(stream: Any) -> None:
    """Task names are bytes: let those that are not UTF-8 out as they came in."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
