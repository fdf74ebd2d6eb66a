# SPDX-License-Identifier: LGPL-2.1-or-later
"""Print the rows of a query as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from drgn_pageowner.escape import word
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.table import csv_row, table

__all__ = ("numeric_columns", "query_csv", "query_json", "query_table", "shown")

Rows = Sequence[Sequence[Any]]


def _plain(value: Any) -> Any:
    """Convert a value of the database to JSON; types that JSON lacks become text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def query_json(names: Sequence[str], rows: Rows) -> Iterator[str]:
    """Yield one JSON object per row, each on one line."""
    for row in rows:
        yield json_document(dict(zip(names, map(_plain, row), strict=True))) + "\n"


def query_csv(names: Sequence[str], rows: Rows) -> Iterator[str]:
    """Yield a header and the rows; elements of a list have ``;`` between them."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(csv_row(names))
    writer.writerows(csv_row(_cell(value, ";") for value in row) for row in rows)
    yield text.getvalue()


def query_table(names: Sequence[str], rows: Rows) -> Iterator[str]:
    """Yield a table with numbers aligned to the right, and elements of a list below one another."""
    cells = [[shown(value) for value in row] for row in rows]
    yield table(cells, names, numeric_columns(rows))


def numeric_columns(rows: Rows) -> set[int]:
    """Return the indices of the columns that contain numbers."""
    return {
        column
        for row in rows
        for column, value in enumerate(row)
        if isinstance(value, int | float | Decimal)
    }


def shown(value: Any) -> str:
    """Format one value for people: ``-`` for NULL, one line for each element of a list."""
    if value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(_cell(_plain_words(value), "\n"))


def _plain_words(value: Any) -> Any:
    """Return *value* with unprintable characters escaped, also in names inside lists."""
    if isinstance(value, list | tuple):
        return [word(str(_plain(item))) for item in value]
    return word(value) if isinstance(value, str) else value


def _cell(value: Any, between: str) -> Any:
    value = _plain(value)
    return between.join(map(str, value)) if isinstance(value, list) else value
