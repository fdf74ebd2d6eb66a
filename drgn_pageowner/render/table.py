# SPDX-License-Identifier: LGPL-2.1-or-later
"""Format numbers and tables for people."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from drgn_pageowner.escape import word
from drgn_pageowner.render.terminal import columns, shortened
from drgn_pageowner.units import age, are, counted, have, pages_size, share

__all__ = (
    "age", "ages", "are", "counted", "csv_cell", "csv_row", "have", "pages_size", "seconds",
    "share", "shown_of", "table",
)  # fmt: skip

# First characters that make a spreadsheet evaluate a cell. A tab or a carriage return does so too,
# but these are escaped.
_FORMULA = ("=", "+", "-", "@")


def table(
    rows: Sequence[Sequence[Any]],
    headers: Sequence[str],
    right: Collection[int] = (),
    *,
    spare: Sequence[str] = (),
    keys: int = 1,
    below: bool = False,
) -> str:
    """
    Format *rows* under *headers*, no wider than the terminal.

    A table that is too wide is changed step by step until it fits:

    1. The last column is printed below the rows, as perf prints stacks, if a cell of it has several
       lines or *below* is true. Headers are wrapped.
    2. The columns *spare* are left out, and long names are shortened in the middle.
    3. The columns are split into several tables.

    :param right: Indices of the columns that are aligned to the right.
    :param spare: Headers of the columns that can be left out, in this order. Those with nothing but
        ``-`` always are.
    :param below: Whether to print the last column of a table that is too wide below the rows, even
        if each of its cells has one line.
    :param keys: Number of leading columns that are repeated in each table if the table is split.
    """
    cells = [[str(cell).split("\n") for cell in row] for row in rows]
    # Columns that have no value anywhere say nothing.
    empty = [c for c, header in enumerate(headers)
             if header in spare and cells and all(row[c] == ["-"] for row in cells)]  # fmt: skip
    for column in reversed(empty):
        headers = [*headers[:column], *headers[column + 1 :]]
        right = [c - (c > column) for c in right if c != column]
        for row in cells:
            del row[column]
    bodies = [max((len(line) for row in cells for line in row[c]), default=0)
              for c in range(len(headers))]  # fmt: skip
    names = [[header] for header in headers]
    width = columns()
    numbers = [column in right for column in range(len(headers))]
    chosen = list(range(len(headers)))
    last: list[Sequence[str]] = []
    if sum(_widths(bodies, names)) + 2 * (len(headers) - 1) > width:
        names = [header.split(" ") for header in headers]
        if below or any(len(row[-1]) > 1 for row in cells):
            last = [row[-1] for row in cells]
            chosen.pop()
    widths = _widths(bodies, names)
    for least, unwanted in ((_SHORT_NAME, ("", *spare)), (_SHORTEST_NAME, ("",))):
        for header in unwanted:
            if header and header in headers:
                chosen.remove(list(headers).index(header))
            limits = _limits(widths, names, chosen, numbers, width, least)
            if limits is not None:
                return _grid(cells, names, chosen, limits, right, last)
    parts = _parts(widths, names, chosen, numbers, width, keys)
    return "\n".join(
        _grid(cells, names, part, limits, right, last if number == len(parts) else ())
        for number, (part, limits) in enumerate(parts, 1)
    )


_Cells = Sequence[Sequence[Sequence[str]]]
# Minimum widths of shortened names, in characters: the first as long as there are columns that can
# be left out, the second otherwise.
_SHORT_NAME = 28
_SHORTEST_NAME = 16
_INDENT = "    "
# Rows from which on a table is long.
_LONG = 1000


def _widths(bodies: Sequence[int], names: Sequence[Sequence[str]]) -> list[int]:
    """Return the width of each column: that of its widest cell or word of the header."""
    return [max(body, *map(len, name)) for body, name in zip(bodies, names, strict=True)]


def _limits(
    widths: Sequence[int],
    names: Sequence[Sequence[str]],
    chosen: Sequence[int],
    numbers: Sequence[bool],
    width: int,
    shortest: int = _SHORTEST_NAME,
) -> dict[int, int] | None:
    """
    Find how far names must be shortened for the table to fit.

    :return: Index of the column -> its maximum width; ``None`` if the table cannot be made to fit.
    """
    limits = {column: widths[column] for column in chosen}
    excess = sum(limits.values()) + 2 * (len(chosen) - 1) - width
    texts = [column for column in chosen if not numbers[column]]
    while excess > 0:
        # Shorten the widest column first, because a short name loses more by being shortened.
        column = max(texts, key=lambda c: limits[c], default=None)
        least = max(shortest, *(len(line) for line in names[column or 0]))
        if column is None or limits[column] <= least:
            return None
        limits[column] -= 1
        excess -= 1
    return limits


def _parts(
    widths: Sequence[int],
    names: Sequence[Sequence[str]],
    chosen: Sequence[int],
    numbers: Sequence[bool],
    width: int,
    keys: int,
) -> list[tuple[list[int], dict[int, int]]]:
    """Split the columns into as few tables as possible, each of which has the first *keys*
    columns."""
    parts: list[tuple[list[int], dict[int, int]]] = []
    first = list(chosen[:keys])
    part = list(first)
    limits = _limits(widths, names, part, numbers, width) or {}
    for column in chosen[keys:]:
        wider = _limits(widths, names, [*part, column], numbers, width)
        if wider is None and len(part) > len(first):
            parts.append((part, limits))
            part = list(first)
            wider = _limits(widths, names, [*part, column], numbers, width)
        part = [*part, column]
        limits = wider or {c: min(widths[c], width // 2 - 1) for c in part}
    return [*parts, (part, limits)]


def _grid(
    cells: _Cells,
    names: Sequence[Sequence[str]],
    chosen: Sequence[int],
    limits: Mapping[int, int],
    right: Collection[int],
    below: Sequence[Sequence[str]],
) -> str:
    """
    Format the columns *chosen* as one table.

    :param limits: Index of a column -> its maximum width, in characters.
    :param below: Lines to print below each row; empty for none.
    """

    def fitted(row: Sequence[Sequence[str]]) -> list[str]:
        return [
            row[column][0]
            if len(row[column]) == 1 and len(row[column][0]) <= limits[column]
            else "\n".join(shortened(line, limits[column]) for line in row[column])
            for column in chosen
        ]

    height = max((len(names[column]) for column in chosen), default=1)
    title = [[""] * (height - len(name)) + list(name) for name in names]
    rule = ["-" * limits[column] for column in chosen]
    grid = [fitted(title), rule, *map(fitted, cells)]
    lines = [line.rstrip() for line in _aligned(grid, [column in right for column in chosen])]
    if below:
        heights = [max((len(row[column]) for column in chosen), default=1) for row in cells]
        position = height + 1
        mixed = lines[:position]
        room = columns() - len(_INDENT)
        for number, more in zip(heights, below, strict=True):
            mixed += lines[position : position + number]
            mixed += [_INDENT + shortened(line, room) for line in more if line]
            position += number
        lines = mixed
    return "\n".join(lines) + "\n"


def _aligned(grid: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """
    Return the lines of a grid with all cells of a column as wide as the widest.

    :param right: Whether each column is aligned to the right.
    """
    from tabulate import tabulate

    # tabulate() looks at each cell several times: 4 s for 100,000 rows.
    if len(grid) > _LONG and all(map(_is_simple, map("".join, grid))):
        columns_of = [[cell.strip() for cell in column] for column in zip(*grid, strict=True)]
        padded = [
            [cell.rjust(width) if to_right else cell.ljust(width) for cell in column]
            for column, to_right in zip(columns_of, right, strict=True)
            for width in (max(map(len, column)),)
        ]
        return list(map("  ".join, zip(*padded, strict=True)))
    text = tabulate(
        grid,
        tablefmt="plain",
        disable_numparse=True,
        colalign=["right" if to_right else "left" for to_right in right],
    )
    return text.split("\n")


def _is_simple(text: str) -> bool:
    """Return whether each character of *text* takes one column of a terminal."""
    return text.isascii() and text.isprintable()


def shown_of(rows: int, groups: int, noun: str, shown: int, pages: int, page_size: int) -> str:
    """
    Return how much of everything the rows of a table have.

    :param rows: Number of *groups* that are shown.
    :param shown: Number of *pages* that these have.
    """
    sizes = [pages_size(number * page_size) for number in (shown, pages)]
    if rows == groups and shown == pages:
        return f"{counted(groups, noun)}: {counted(pages, 'page')}, {sizes[1]}"
    return (
        f"{rows:,} of {counted(groups, noun)} shown: {shown:,} of {counted(pages, 'page')} "
        f"({share(shown, pages)}), {sizes[0]} of {sizes[1]}"
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
