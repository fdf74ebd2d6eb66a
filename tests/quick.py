# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find the tests that need neither a dump nor drgn: they get the marker ``quick``.

A test is quick if its file does not import drgn, drgn_pageowner/kernel or code that opens dumps
when it is loaded, and if it uses no such fixture. Tests that start a program which needs drgn have
the marker ``drgn``.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import drgn_pageowner

__all__ = ("is_quick", "needs_drgn")

TESTS = Path(__file__).resolve().parent
DUMP_FIXTURES = {"dump", "one_dump", "dump_named", "live", "saved"}
# Names in conftest.py that refer to dumps.
DUMP_NAMES = {"conftest.DUMPS", "conftest.bundled", "conftest.leak_free", "conftest.traps"}


def is_quick(item: pytest.Item) -> bool:
    """Return whether *item* needs neither a dump nor drgn."""
    fixtures = set(getattr(item, "fixturenames", ()))
    if fixtures & DUMP_FIXTURES or item.get_closest_marker("drgn"):
        return False
    return not needs_drgn(item.path)


@functools.cache
def needs_drgn(path: Path) -> bool:
    """Return whether importing the test file or helper *path* needs drgn or dumps."""
    for name in _imported(ast.parse(path.read_text()).body):
        first, _, rest = name.partition(".")
        if first == "drgn_pageowner":
            module = drgn_pageowner._HOMES.get(rest, name)
            if module.startswith(("drgn_pageowner.kernel", "drgn_pageowner.plugin")):
                return True
        elif first == "conftest":
            if name in DUMP_NAMES:
                return True
        elif first == "drgn" or any(map(needs_drgn, _files().get(first, ()))):
            return True
    return False


@functools.cache
def _files() -> dict[str, list[Path]]:
    """Return the tests and their helpers, by name without suffix."""
    found: dict[str, list[Path]] = {}
    for path in TESTS.rglob("*.py"):
        found.setdefault(path.stem, []).append(path)
    return found


def _imported(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the dotted names that the statements *body* import when they are executed."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
