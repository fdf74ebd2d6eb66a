# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the pages of the manual that are generated from the parser and from other directories."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from drgn_pageowner.cli import build_parser
from drgn_pageowner.commands.completion import command_parsers

pytestmark = pytest.mark.once

pytest.importorskip("sphinx", reason="the manual needs Sphinx (the extra docs)")
pytest.importorskip("myst_parser", reason="the manual needs myst-parser (the extra docs)")

MANUAL: dict[str, Any] = runpy.run_path(str(ROOT / "docs/manual.py"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the man pages by name, built without the API pages, which would need drgn."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("man")
    settings = runpy.run_path(str(ROOT / "docs/conf.py"))
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'docs')!r})\nimport manual\n"
        f"smartquotes = {settings['smartquotes']}\n"
        "extensions = ['manual']\nman_pages = manual.man_pages()\n"
        "root_doc = 'generated/commands/drgn-pageowner'\nsuppress_warnings = ['toc']\n"
    )
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "man", source, out], check=True
    )
    return {path.stem: path for path in out.glob("*.1")}


def test_every_command_has_a_man_page(pages: dict[str, Path]) -> None:
    commands = command_parsers(build_parser())
    assert set(pages) == {"drgn-pageowner"} | {f"drgn-pageowner-{name}" for name in commands}


def test_a_man_page_has_every_option_of_the_command(pages: dict[str, Path]) -> None:
    parsers = {f"drgn-pageowner-{n}": p for n, p in command_parsers(build_parser()).items()}
    for name, parser in {"drgn-pageowner": build_parser(), **parsers}.items():
        text = pages[name].read_text().replace("\\-", "-")
        for action in parser._actions:
            for option in action.option_strings:
                assert f"\n.B {option}" in text or f"\\fB{option}\\fP" in text, (name, option)


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
def test_groff_has_nothing_to_say_of_the_man_pages(pages: dict[str, Path]) -> None:
    for page in pages.values():
        result = subprocess.run(
            ["groff", "-man", "-ww", "-z", page], capture_output=True, text=True, check=True
        )
        assert result.stderr == ""


def test_what_is_indented_in_a_description_is_shown_as_it_is() -> None:
    text = "One line,\nanother.\n\n  top            by stack\n    deeper\n\nThe *end*.\n"
    assert MANUAL["_description"](text) == (
        "One line,\nanother.\n\n::\n\n     top            by stack\n       deeper\n\n"
        "The \\*end\\*.\n"
    )


def test_links_lead_to_pages_of_the_manual_or_are_plain_text() -> None:
    mend = MANUAL["links_for_manual"]
    text = (
        "[a](docs/live.md#watch) [b](testdata/README.md) [c](Makefile) [d](#here) ![](docs/x.png)"
    )
    assert mend(text, "") == (
        "[a](/live.md#watch) [b](/generated/testdata.md) c [d](#here) ![](/x.png)"
    )
    assert mend("[a](../README.md) [b](leaks.md)", "docs") == (
        "[a](/generated/readme.md) [b](/leaks.md)"
    )
    with pytest.raises(ValueError, match="nowhere"):
        mend("[a](docs/nothing.md)", "")


MARKDOWN = sorted(
    path
    for directory in (".", "docs", "testdata", "tests/layouts")
    for path in (ROOT / directory).glob("*.md")
)


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_texts_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target
