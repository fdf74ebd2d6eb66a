# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong, and the exit status that says so."""

from __future__ import annotations

__all__ = ("GARBAGE", "NO_RECORDS", "PageOwnerError", "UsageError", "nonsense")


class PageOwnerError(Exception):
    """
    The dump cannot answer the question (exit status 1).

    The message is one line that says what is wrong, in which object, and what
    to do next.
    """

    exit_status = 1


class UsageError(PageOwnerError):
    """The question itself is wrong: an unknown value or argument (exit status 2)."""

    exit_status = 2


GARBAGE = (
    # An index or a key that is not there; numbers that are too large or fit nothing, and names
    # that cannot be decoded; a tree that has a ring; an array as long as garbage says.
    LookupError,
    ValueError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
"""What Python raises for numbers that no kernel has."""


def nonsense(error: BaseException) -> str:
    """One line for one of :data:`GARBAGE`."""
    text = " ".join(str(error).split())
    return f"the dump is damaged: what it says makes no sense ({type(error).__name__}: {text})"


NO_RECORDS = {
    "absent": "this kernel was built without CONFIG_PAGE_OWNER: it keeps no page_owner records; "
    "rebuild it with CONFIG_PAGE_OWNER=y and boot with page_owner=on on the kernel command line",
    "off": "page_owner is compiled in but was off when this kernel ran: boot with page_owner=on "
    "on the kernel command line to have records",
}
"""Why a kernel has no records, by :attr:`Facts.page_owner`, and what to do."""
