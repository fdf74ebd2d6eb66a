# SPDX-License-Identifier: LGPL-2.1-or-later
"""Errors, and the exit status of each."""

from __future__ import annotations

__all__ = (
    "INTERNAL",
    "NO_RECORDS",
    "PageOwnerError",
    "UsageError",
    "internal_error",
    "one_line",
    "out_of_memory",
)

INTERNAL = 4
"""Exit status if the program itself failed: an internal error, or not enough memory."""


class PageOwnerError(Exception):
    """
    Raised if a command cannot be carried out, for example because data are missing in the dump
    (exit status 1).

    The message is one line that says what is wrong, in which object, and what
    to do next.
    """

    exit_status = 1


class UsageError(PageOwnerError):
    """Raised for an unknown or invalid argument (exit status 2)."""

    exit_status = 2


def internal_error(error: BaseException) -> str:
    """
    Describe an unexpected exception, which is a bug in this program, in one line.

    The line names the innermost frame of this package in the traceback, or, if there is none, the
    frame that raised the exception.
    """
    place = ""
    frame, ours = error.__traceback__, False
    while frame is not None:
        module = str(frame.tb_frame.f_globals.get("__name__", "?"))
        of_package = module.partition(".")[0] == __package__
        if of_package or not ours:
            ours |= of_package
            place = f"{module}:{frame.tb_lineno} in {frame.tb_frame.f_code.co_name}"
        frame = frame.tb_next
    text = one_line(error)
    return f"internal error, please report: {text}" + (f" (at {place})" if place else "")


def out_of_memory(error: MemoryError) -> str:
    """Describe a :class:`MemoryError` in one line."""
    text = " ".join(str(error).split())
    return (
        "not enough memory for this on this machine"
        + (f" ({text})" if text else "")
        + ": that says nothing about the dump; let large arrays be in a file (--memory 1G), run it "
        "where there is more, or save a snapshot there (save) and read that (-S)"
    )


def one_line(error: BaseException) -> str:
    """Return the type and the message of an exception, without line breaks."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


NO_RECORDS = {
    "absent": "this kernel was built without CONFIG_PAGE_OWNER: it keeps no page_owner records; "
    "rebuild it with CONFIG_PAGE_OWNER=y and boot with page_owner=on on the kernel command line "
    "(leaks, account and top --slab answer without)",
    "off": "page_owner is compiled in but was off when this kernel ran: boot with page_owner=on "
    "on the kernel command line to have records (leaks, account and top --slab answer without)",
}
"""Messages for kernels without records, by :attr:`Facts.page_owner`: the reason, and what to do."""
