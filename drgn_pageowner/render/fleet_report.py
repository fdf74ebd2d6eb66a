# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render the results of queries on a dataset as one HTML page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from drgn_pageowner.escape import word
from drgn_pageowner.extras import extra
from drgn_pageowner.render.fleet_answer import DUMP_COLUMNS
from drgn_pageowner.render.query import numeric_columns
from drgn_pageowner.render.table import counted

__all__ = ("FleetHeadline", "FleetSection", "fleet_headline", "fleet_html")

_PLURAL = re.compile(r"\b(dump|host|kernel|page)s\b")

# Number of characters of a text that is broken into lines.
_LONG = 60


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
    title: str,
    subtitle: str,
    headline: FleetHeadline,
    numbers: Sequence[tuple[str, int]],
    sections: Sequence[FleetSection],
) -> Iterator[str]:
    """
    Yield a page that needs no other file and no network.

    :param headline: The answer in one sentence, at the top of the page.
    :param numbers: Totals below it: name and number of each.
    """
    jinja2 = extra("jinja2", "report", "fleet report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("drgn_pageowner.render.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    yield environment.get_template("fleet.html.j2").render(
        title=title,
        subtitle=subtitle,
        headline=headline.text,
        bad=headline.bad,
        numbers=[(_name(name, number), f"{number:,}") for name, number in numbers],
        sections=[_shown(section) for section in sections],
        dumps=DUMP_COLUMNS,
    )


@dataclass(frozen=True)
class FleetHeadline:
    """The first sentence of the page."""

    text: str
    bad: bool
    """Whether it says that something is wrong."""


def fleet_headline(
    totals: Mapping[str, int], leaks: FleetSection, causes: FleetSection
) -> FleetHeadline:
    """
    Return the answer in words.

    :param totals: Numbers of the whole dataset, by name.
    :param leaks: Stacks with leaked pages, largest number of pages first.
    :param causes: Known causes, those in most dumps first.
    """
    dumps, found, pages = (
        totals[name] for name in ("dumps", "dumps with findings", "leaked pages")
    )
    if not found and not pages and not causes.rows:
        return FleetHeadline(f"Nothing was found in {counted(dumps, 'dump')}.", False)
    said = [f"{found:,} of {counted(dumps, 'dump')} {'has' if found == 1 else 'have'} findings"]
    if pages and leaks.rows:
        worst = dict(zip(leaks.names, leaks.rows[0], strict=True))
        # One function may have another stack in every kernel.
        same = [dict(zip(leaks.names, row, strict=True)) for row in leaks.rows]
        same = [row for row in same if row["allocator"] == worst["allocator"]]
        number = sum(row["pages"] for row in same)
        owner = word(str(worst["allocator"] or "a function without a name"))
        said.append(
            f"{counted(pages, 'page')} leaked, {number:,} of these by {owner}, in "
            + counted(sum(row["dumps"] for row in same), "dump")
        )
    if causes.rows:
        first = dict(zip(causes.names, causes.rows[0], strict=True))
        known = word(str(first["rule"]))
        said.append(f"most common known cause: {known}, in {counted(first['dumps'], 'dump')}")
    # Rules may only warn.
    return FleetHeadline("; ".join(said) + ".", bool(found or pages))


def _name(name: str, number: int) -> str:
    """Return the name of a number: ``"1 dump with findings"``, ``"2 dumps with findings"``."""
    return _PLURAL.sub(r"\1", name) if number == 1 else name


def _shown(section: FleetSection) -> dict[str, Any]:
    """Return what the template prints of a section; columns without any value are left out."""
    used = [
        column
        for column in range(len(section.names))
        if any(row[column] not in (None, []) for row in section.rows)
    ]
    columns = [
        {
            "name": section.names[column],
            "label": section.names[column].replace("_", " "),
            "number": column in section.right,
            "style": _style(section, column),
        }
        for column in used
    ]
    rows = [[_cell(section.names[column], row[column]) for column in used] for row in section.rows]
    return {
        "id": section.id, "title": section.title, "note": section.note, "columns": columns,
        "rows": rows,
    }  # fmt: skip


def _style(section: FleetSection, column: int) -> str:
    """Return the CSS class of the cells of a column."""
    name = section.names[column]
    if column in section.right:
        return "n"
    if name in DUMP_COLUMNS:
        return "dump"
    if name in ("link", "stack_id"):
        return "link" if name == "link" else "id"
    values = [row[column] for row in section.rows]
    if any(isinstance(value, list | tuple) for value in values):
        return "list"
    return "long" if any(len(str(value)) > _LONG for value in values) else ""


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(word(str(item)) for item in value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return f"{value:,}"
    # The cell can be copied into a shell command.
    return shlex.quote(word(str(value))) if name in DUMP_COLUMNS else word(str(value))
