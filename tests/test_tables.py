# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that the generated tables of README.md and docs/ are up to date."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from drgn_pageowner.commands import COMMANDS

_TABLES: dict[str, Any] = runpy.run_path(str(ROOT / "docs/tables.py"))


@pytest.mark.parametrize("path", _TABLES["files"](), ids=lambda path: path.name)
def test_the_tables_are_up_to_date(path: Path) -> None:
    text = path.read_text()
    assert _TABLES["with_tables"](text) == text, "run: python docs/tables.py"


def test_every_table_is_shown_somewhere() -> None:
    text = "".join(path.read_text() for path in _TABLES["files"]())
    for name in _TABLES["TABLES"]:
        assert f"<!-- {name}: made by docs/tables.py -->" in text


def test_a_table_that_differs_is_replaced() -> None:
    old = "a\n<!-- commands: made by docs/tables.py -->\n| old |\n<!-- end -->\nb\n"
    new = _TABLES["with_tables"](old)
    assert new.startswith("a\n<!-- commands")
    assert new.endswith("<!-- end -->\nb\n")
    assert "| old |" not in new
    assert all(f"| `{name}` | {text} |" in new for name, text in COMMANDS.items())
