# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test ``report`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from conftest import ROOT, Dump, run_cli

from drgn_pageowner.analysis import report as analysis
from drgn_pageowner.analysis.owners import sums
from drgn_pageowner.commands import Session
from drgn_pageowner.commands.report import read
from drgn_pageowner.kernel.session import ProgramSession

pytestmark = pytest.mark.once

DRIP = ROOT / "testdata/linux-6.12/drip"
NEEDS = pytest.mark.skipif(
    find_spec("jinja2") is None or find_spec("plotly") is None,
    reason="the extra report is not installed",
)


def answer(session: Session, line: str) -> str:
    """Return the output of a command; fail if it prints on stderr."""
    status, out, err = ask(session, line)
    assert (status, err) == (0, "")
    return out


@NEEDS
def test_the_suffix_decides_and_standard_output_is_the_file(one_dump: Dump, tmp_path: Path) -> None:
    session = ProgramSession(one_dump.prog)
    session.heap()
    for name, start in (("a.html", "<!doctype html>"), ("b.md", "# Memory"), ("c.json", "{")):
        assert answer(session, f"report {tmp_path / name}").startswith(f"{tmp_path / name}: ")
        assert (tmp_path / name).read_text().startswith(start)
    assert answer(session, "report --format md") == (tmp_path / "b.md").read_text()


def test_json_has_what_the_commands_say(dump_named: Callable[[str], Dump]) -> None:
    session = ProgramSession(dump_named("linux-7.2/traps").prog)

    def found(line: str) -> Any:
        return json.loads(answer(session, f"{line} --format json"))

    whole = found("report")
    assert whole["account"] == found("account")
    assert whole["leaks"] == found("leaks")
    assert whole["top"]["allocator"] == found("top --by allocator --limit 100")
    frag = found("frag summary culprits map --by allocator --limit 100")
    assert whole["frag"]["zones"] == frag["summary"]["zones"]
    assert whole["frag"]["culprits"] == frag["culprits"]
    for zone in whole["frag"]["map"]["zones"]:
        for cell in zone["cells"]:
            del cell["owners"]
    assert whole["frag"]["map"] == frag["map"]
    assert whole["problems"] == []


@pytest.mark.parametrize(
    "name, arguments, problem, warned",
    [
        ("linux-6.12/kdump", "--no-leaks", "--no-leaks", 0),
        ("linux-5.10/owner-off", "--no-leaks", "page_owner=on", 1),
        ("linux-6.12-noowner/kdump", "", "CONFIG_PAGE_OWNER", 1),
    ],
)
def test_what_is_left_out_is_said(
    dump_named: Callable[[str], Dump],
    name: str,
    arguments: str,
    problem: str,
    warned: int,
) -> None:
    session = ProgramSession(dump_named(name).prog)
    status, out, err = ask(session, f"report {arguments} --format json")
    assert status == 0
    whole = json.loads(out)
    assert (whole["leaks"] is None) == ("--no-leaks" in arguments)
    assert problem in whole["problems"][0]
    assert whole["account"]["accounted"] == whole["account"]["present"]
    lines = err.splitlines()
    assert len(lines) == warned
    assert all(problem in line for line in lines)


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


def test_what_has_grown_since_an_earlier_dump_is_said_first(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")
    before, after = DRIP / "before.parquet", DRIP / "after.parquet"

    def said(*question: object) -> str:
        return run_cli("-S", after, *question, check=True).stdout

    question = ("report", "--no-leaks", "--before", before)
    whole = json.loads(said(*question, "--format", "json"))
    [growth] = [verdict for verdict in whole["verdicts"] if verdict["area"] == "growth"]
    assert growth["text"].startswith("po_drip_leak_one [po_drip] has grown by 3.9 MiB")
    assert growth["level"] == "warning"
    assert whole["diff"] == json.loads(said("diff", before, "--limit", 0, "--format", "json"))
    if find_spec("jinja2") is not None and find_spec("plotly") is not None:
        text = said(*question, "--format", "md")
        assert "| `po_drip_leak_one [po_drip]` | +1,000 | 3.9 MiB |" in text
        said(*question, tmp_path / "a.html")
        page = (tmp_path / "a.html").read_text()
        assert page.index("has grown by") < page.index('id="h-changes"')


def test_a_file_is_named_with_the_answer(one_dump: Dump, tmp_path: Path) -> None:
    said = one_dump.run("report", tmp_path / "out.json", "--no-leaks", check=True).stdout
    assert said.startswith(f"{tmp_path / 'out.json'}: ")
    assert json.loads((tmp_path / "out.json").read_text())["headline"] in said
    # The parts of a triage write reports, too: there, the last line is the answer.
    folder = tmp_path / "triage"
    lines = one_dump.run("triage", folder).stdout.splitlines()
    assert not [line for line in lines if line.startswith(str(folder / "report"))]


def test_many_records_are_summed_up_in_parts(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = ProgramSession(one_dump.prog)
    whole = analysis.report(read(session, leaks=False))
    monkeypatch.setattr(sums, "_ROWS", 1000)
    parts = analysis.report(read(session, leaks=False))
    assert parts.tops == whole.tops
    assert parts.flame == whole.flame
