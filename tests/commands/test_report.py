"""``report`` as people and scripts run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import Dump

NEEDS = pytest.mark.skipif(
    find_spec("jinja2") is None or find_spec("plotly") is None,
    reason="the extra report is not installed",
)


@NEEDS
def test_the_suffix_decides(one_dump: Dump, tmp_path: Path) -> None:
    for name, start in (("a.html", "<!doctype html>"), ("b.md", "# Memory"), ("c.json", "{")):
        result = one_dump.run("report", tmp_path / name, "--no-leaks", check=True)
        assert (result.stdout, result.stderr) == ("", "")
        assert (tmp_path / name).read_text().startswith(start)


@NEEDS
def test_standard_output_is_the_file(one_dump: Dump, tmp_path: Path) -> None:
    one_dump.run("report", tmp_path / "out", "--format", "md", check=True)
    said = one_dump.run("report", "--format", "md", check=True).stdout
    assert (tmp_path / "out").read_text() == said


def test_json_has_what_the_commands_say(dump_named: Callable[[str], Dump]) -> None:
    dump = dump_named("linux-7.2/traps")

    def answer(*args: str) -> object:
        return json.loads(dump.run(*args, "--format", "json", check=True).stdout)

    whole = answer("report")
    assert isinstance(whole, dict)
    assert whole["account"] == answer("account")
    assert whole["leaks"] == answer("leaks")
    assert whole["top"]["allocator"] == answer("top", "--by", "allocator", "--limit", "100")
    frag = answer("frag", "all", "--by", "allocator", "--limit", "100")
    assert isinstance(frag, dict)
    assert whole["frag"]["zones"] == frag["summary"]["zones"]
    assert whole["frag"]["culprits"] == frag["culprits"]
    for zone in whole["frag"]["map"]["zones"]:
        for cell in zone["cells"]:
            del cell["owners"]
    assert whole["frag"]["map"] == frag["map"]
    assert whole["problems"] == []


def test_leaks_that_were_not_wanted_are_said(one_dump: Dump) -> None:
    result = one_dump.run("report", "--no-leaks", "--format", "json", check=True)
    whole = json.loads(result.stdout)
    assert whole["leaks"] is None
    assert whole["problems"] == ["leaks were not searched for: --no-leaks"]


@pytest.mark.parametrize("name", ["linux-5.10/owner-off", "linux-6.12-noowner/kdump"])
def test_a_kernel_without_records(dump_named: Callable[[str], Dump], name: str) -> None:
    result = dump_named(name).run("report", "--format", "json", check=True)
    [line] = result.stderr.splitlines()
    assert "page_owner=on" in line
    whole = json.loads(result.stdout)
    assert whole["leaks"] is None
    assert whole["account"]["accounted"] == whole["account"]["present"]
    assert "page_owner=on" in whole["problems"][0]


@pytest.mark.parametrize("arguments", [["out.pdf"], ["out"], []], ids=len)
def test_a_suffix_that_says_nothing(one_dump: Dump, arguments: list[str]) -> None:
    result = one_dump.run("report", *arguments)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "--format" in line


def test_a_file_that_cannot_be_written(one_dump: Dump, tmp_path: Path) -> None:
    result = one_dump.run("report", tmp_path / "no" / "out.json", "--no-leaks")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "No such file or directory" in line
