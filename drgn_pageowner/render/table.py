# SPDX-License-Identifier: LGPL-2.1-or-later
"""Format numbers and tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from drgn_pageowner.escape import word
from drgn_pageowner.units import age, pages_size, share

__all__ = ("age", "ages", "csv_cell", "csv_row", "pages_size", "seconds", "share", "table")

# First characters that make a spreadsheet evaluate a cell. A tab or a carriage return does so too,
# but these are escaped.
_FORMULA = ("=", "+", "-", "@")


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str], right: Sequence[int] = ()) -> str:
    """Format a table; the columns whose numbers are in *right* are right-aligned."""
    from tabulate import tabulate

    align = ["right" if column in right else "left" for column in range(len(headers))]
    return (
        tabulate(
            rows,
            headers,
            tablefmt="simple",
            disable_numparse=True,
            colalign=align if rows else None,
        )
        + "\n"
    )


def csv_row(values: Iterable[Any]) -> list[Any]:
    """Apply :func:`csv_cell` to every cell of a row."""
    return [csv_cell(value) for value in values]


def csv_cell(value: Any) -> Any:
    """
    Return a CSV cell that no spreadsheet evaluates as a formula. Numbers stay as they are. A text
    that begins with ``=``, ``+``, ``-`` or ``@`` gets a ``'`` in front; unprintable characters are
    escaped.
    """
    if not isinstance(value, str):
        return value
    text = word(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def seconds(nanoseconds: int | None) -> str:
    """Format a timestamp as dmesg does: ``"12.345678"``."""
    return "-" if nanoseconds is None else f"{nanoseconds / 10**9:.6f}"


def ages(oldest_ns: int | None, newest_ns: int | None, now_ns: int | None) -> str:
    """
    Format the ages of two timestamps: ``"3.2 s - 2.5 h"``, or a single age if both look the same.
    """
    if now_ns is None or oldest_ns is None or newest_ns is None:
        return "-"
    youngest, oldest = age(max(now_ns - newest_ns, 0)), age(max(now_ns - oldest_ns, 0))
    return youngest if youngest == oldest else f"{youngest} - {oldest}"
