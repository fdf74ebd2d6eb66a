# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render the results of queries on a dataset as one HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from drgn_pageowner.escape import word
from drgn_pageowner.extras import extra
from drgn_pageowner.render.fleet_answer import DUMP_COLUMNS
from drgn_pageowner.render.query import numeric_columns

__all__ = ("FleetSection", "fleet_html")


@dataclass(frozen=True)
class FleetSection:
    """A section of the HTML page: a heading and a table."""

    id: str
    title: str
    names: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[Any]]
    note: str = ""

    @property
    def right(self) -> set[int]:
        """Indices of the columns that contain numbers."""
        return numeric_columns(self.rows)


def fleet_html(
    title: str, subtitle: str, numbers: Sequence[tuple[str, int]], sections: Sequence[FleetSection]
) -> Iterator[str]:
    """
    Yield a page that needs no other file and no network.

    :param numbers: Totals at the top of the page: name and number of each.
    """
    jinja2 = extra("jinja2", "report", "fleet report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("drgn_pageowner.render.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    shown = [
        {
            "id": section.id,
            "title": section.title,
            "note": section.note,
            "names": section.names,
            "right": section.right,
            "rows": [
                [_cell(name, value) for name, value in zip(section.names, row, strict=True)]
                for row in section.rows
            ],
        }
        for section in sections
    ]
    yield environment.get_template("fleet.html.j2").render(
        title=title,
        subtitle=subtitle,
        numbers=[(name, f"{number:,}") for name, number in numbers],
        sections=shown,
        dumps=DUMP_COLUMNS,
    )


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(word(str(item)) for item in value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return f"{value:,}"
    # The cell can be copied into a shell command.
    return shlex.quote(word(str(value))) if name in DUMP_COLUMNS else word(str(value))
