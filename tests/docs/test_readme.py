# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that README.md shows the output of the program."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT, Dump

README = (ROOT / "README.md").read_text()


def test_readme_shows_what_make_demo_prints(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    blocks = re.findall(r"```\n\$ drgn-pageowner -c vmcore -s vmlinux (.*)\n([^`]*)```", README)
    [(command, shown)] = blocks
    assert f"vmlinux {command}\n" in (ROOT / "Makefile").read_text()
    printed = one_dump.run(*command.split(), check=True).stdout
    assert [line.rstrip() for line in printed.splitlines()] == shown.splitlines()


def test_the_picture_of_the_report_is_small() -> None:
    [picture] = re.findall(r"!\[[^]]*\]\(([^)]*)\)", README)
    assert (ROOT / picture).stat().st_size < 150_000
