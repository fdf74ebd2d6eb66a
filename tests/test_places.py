# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check the names of test files: tests/A/test_B.py tests drgn_pageowner/A/B.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

TESTS = ROOT / "tests"
PACKAGE = ROOT / "drgn_pageowner"
FILES = sorted(TESTS.rglob("test_*.py"))

# Directories with tests of something outside of the package, or of several of its parts.
OTHERS = {
    "benchmarks": "benchmarks/",
    "browser": "the report's page in a browser",
    "contrib": "contrib/",
    "docs": "docs/ and the Markdown files",
    "fuzz": "all commands on damaged dumps",
    "testdata": "testdata/",
}
# Test files for several modules, or named after a common feature.
SEVERAL = {
    "analysis/account/test_counts.py": "sums by class, counter and owner",
    "analysis/compare/test_changes.py": "diff and kinship on records typed by hand",
    "analysis/frag/test_defrag_mode.py": "vm.defrag_mode in all of analysis/frag",
    "analysis/frag/test_traps.py": "what the module po_frag of the guests did to pageblocks",
    "analysis/leaks/test_chains.py": "links and reach on graphs typed by hand",
    "analysis/leaks/test_confidence.py": "leaks and reach on graphs typed by hand",
    "analysis/leaks/test_owners.py": "leaks against what the module po_owners of the guests lost",
    "analysis/owners/test_filters.py": "select, and the options that it is given",
    "analysis/leaks/test_memory.py": "how much memory a search for leaks takes",
    "analysis/test_scale.py": "how the work of all of analysis/ grows with its input",
    "commands/test_width.py": "all commands in narrow terminals",
    "commands/test_guesses.py": "what people type first, of all commands",
    "kernel/read/test_record_columns.py": "records, and model/columns",
    "kernel/read/test_tag_records.py": "records made of allocation tags, on dumps that have such",
    "kernel/test_layouts.py": "compiled layouts of other kernels",
    "kernel/test_parity.py": "the kernels' own page_owner and show_stacks",
    "render/report/test_documents.py": "a report as HTML, Markdown and JSON",
    "render/test_made_records.py": "all formats of records, on records typed by hand",
    "test_api.py": "the names of the package itself",
    "test_architecture.py": "which module may import which",
    "test_hostile_names.py": "escaping in all formats",
    "test_internal_errors.py": "mistakes of this program, in all commands",
    "test_places.py": "the test files",
    "test_tables.py": "the tables that docs/tables.py makes",
}


def place(path: Path) -> str:
    return str(path.relative_to(TESTS))


def modules_for(path: Path) -> list[Path]:
    """
    Return the modules that the test file *path* may test.

    test_diff_command.py tests diff.py, because two test files cannot have the same name.
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


def test_the_directories_of_the_exceptions_are_there() -> None:
    assert [name for name in OTHERS if not list((TESTS / name).glob("test_*.py"))] == []


def test_a_file_of_no_module_is_found() -> None:
    assert modules_for(TESTS / "kernel/linux/test_nothing.py") == []
    assert modules_for(TESTS / "analysis/test_zones.py") == []
