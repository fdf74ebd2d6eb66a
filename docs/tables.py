# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Write the tables of README.md and docs/ that are generated from the code: `python docs/tables.py`.

A table stands between `<!-- NAME: made by docs/tables.py -->` and the next `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from drgn_pageowner.commands import COMMANDS, CommandParser
from drgn_pageowner.model.columns import FIELDS, Form
from drgn_pageowner.model.dataset import DATASET
from drgn_pageowner.rules.rule import BUILTIN, read_rules

ROOT = Path(__file__).resolve().parent.parent

_TABLE = re.compile(
    r"(?P<begin><!-- (?P<name>[\w-]+): made by docs/tables\.py -->\n).*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def with_tables(text: str) -> str:
    """Return the Markdown *text* with its generated tables updated."""
    return _TABLE.sub(
        lambda match: match["begin"] + "\n" + TABLES[match["name"]]() + "\n" + match["end"], text
    )


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def commands() -> str:
    """Return the table of commands."""
    return _markdown(
        ("command", "what it does"), ((f"`{name}`", text) for name, text in COMMANDS.items())
    )


def options() -> str:
    """Return the table of the formats and limits of every command."""
    rows = []
    for name in COMMANDS:
        parser = CommandParser(prog=name, command=name)
        parser.load()
        actions = {option: a for a in parser._actions for option in a.option_strings}
        rows.append(
            (
                f"`{name}`",
                _formats(actions.get("--format")),
                _limit(actions.get("--limit")),
                "`-o`" if "-o" in actions else "-",
            )
        )
    return _markdown(("command", "`--format`", "`--limit N`", "`-o FILE`"), rows)


def _formats(action: argparse.Action | None) -> str:
    if action is None or action.choices is None:
        return "-"
    return ", ".join(f"`{choice}`" for choice in action.choices)


def _limit(action: argparse.Action | None) -> str:
    if action is None or action.help is None:
        return "-"
    return action.help.removeprefix("show the first N ").replace("; 0: all", "")


def fields() -> str:
    """Return the table of the fields of a record."""
    return _markdown(
        ("field", "value", "what", "since", "`--by`", "filter"),
        (
            (
                f"`{column.name}`",
                "true or false" if column.dtype == "bool" else _VALUES.get(column.form, "number"),
                column.doc + (f"; `null` if {column.none_if}" if column.none_if else ""),
                column.since,
                _code(column.key),
                _code(f"--{column.criterion.name}" if column.criterion is not None else ""),
            )
            for column in FIELDS
        ),
    )


_VALUES = {
    Form.GFP: "names, with \\| between them",
    Form.MIGRATETYPE: "name",
    Form.MIGRATE_REASON: "name",
    Form.PAGE_FLAGS: "names, with \\| between them",
    Form.ZONE: "name",
    Form.COMM: "name",
    Form.MEMCG: "path",
    Form.STACK: "list of texts",
}
"""Form of a column -> type of its values in JSON; the values of other forms are numbers."""


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def dataset() -> str:
    """Return the tables of a dataset, one after another."""
    return "\n".join(
        f"### `{name}`\n\n"
        + _markdown(
            ("column", "type", "what"),
            ((f"`{field.name}`", f"`{field.type}`", field.doc) for field in table),
        )
        for name, table in DATASET.items()
    )


def rules() -> str:
    """Return the table of the rules of this package."""
    return _markdown(
        ("rule", "severity", "says"),
        (
            (f"`{rule.name}`", f"`{rule.level}`", f"{rule.text} {rule.detail}".replace("|", "\\|"))
            for rule in read_rules([BUILTIN]).rules
        ),
    )


TABLES = {
    "commands": commands,
    "options": options,
    "fields": fields,
    "dataset": dataset,
    "rules": rules,
}
"""Name of a table -> function that generates it."""


def files() -> list[Path]:
    """Return the files that have such tables."""
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [path for path in texts if _TABLE.search(path.read_text())]


if __name__ == "__main__":
    for path in files():
        path.write_text(with_tables(path.read_text()))
