# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every test file is where its module is: tests/A/test_B.py tests drgn_pageowner/A/B.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

TESTS = ROOT / "tests"
PACKAGE = ROOT / "drgn_pageowner"
FILES = sorted(TESTS.rglob("test_*.py"))

# Directories whose tests are of something outside of the package, or of several of its parts.
OTHERS = {
    "browser": "the report's page in a browser",
    "contrib": "contrib/",
    "docs": "docs/ and the Markdown files",
    "fuzz": "all commands on damaged dumps",
    "testdata": "testdata/",
}
# Files that are of several modules.
SEVERAL = {
    "analysis/frag/test_traps.py": "what the module po_frag of the guests did to pageblocks",
    "kernel/test_layouts.py": "compiled layouts of other kernels",
    "kernel/test_parity.py": "the kernels' own page_owner and show_stacks",
    "test_api.py": "the names of the package itself",
    "test_architecture.py": "which module may import which",
    "test_places.py": "the test files",
}


def place(path: Path) -> str:
    return str(path.relative_to(TESTS))


def modules_for(path: Path) -> list[Path]:
    """
    Return the modules that the test file *path* may be of.

    test_diff_command.py is of diff.py: two test files cannot have the same name.
    """
    words = path.stem.removeprefix("test_").split("_")
    names = ["_".join(words[:n]) for n in range(1, len(words) + 1)]
    directory = PACKAGE / path.relative_to(TESTS).parent
    found = [directory / name for name in names]
    return [p for p in found if p.with_suffix(".py").is_file() or (p / "__init__.py").is_file()]


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_test_file_is_beside_its_module(path: Path) -> None:
    if path.relative_to(TESTS).parts[0] in OTHERS or place(path) in SEVERAL:
        return
    assert modules_for(path), f"{place(path)} is of no module, and not among the exceptions here"


def test_no_two_test_files_have_the_same_name() -> None:
    names = [path.name for path in FILES]
    assert [name for name in names if names.count(name) > 1] == []


def test_the_exceptions_are_there() -> None:
    assert [name for name in OTHERS if not list((TESTS / name).glob("test_*.py"))] == []
    assert [name for name in SEVERAL if not (TESTS / name).exists()] == []


def test_a_file_of_no_module_is_found() -> None:
    assert modules_for(TESTS / "kernel/linux/test_nothing.py") == []
    assert modules_for(TESTS / "analysis/test_zones.py") == []
