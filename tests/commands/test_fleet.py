# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test queries on a dataset of two kernels: tables, JSON, the report."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Dump

from drgn_pageowner.cli import main
from drgn_pageowner.commands.fleet import memory_size
from drgn_pageowner.fleet.questions import QUESTIONS

pytest.importorskip("duckdb", reason="sql needs duckdb (the extra sql)")

NAMES = ("linux-6.1/traps", "linux-6.12/traps")


@pytest.fixture(scope="module")
def dataset(
    tmp_path_factory: pytest.TempPathFactory,
    dump_named: Callable[[str], Dump],
    saved: Callable[[Dump], Path],
) -> Path:
    path = tmp_path_factory.mktemp("fleet") / "all"
    for name in NAMES:
        snapshot = str(saved(dump_named(name)))
        words = ["save", "--leaks", "--dataset", str(path), "--dump-name", f"/dumps/{name}"]
        words += ["--rules", "builtin"]
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["-S", snapshot, *words]) == 0
    return path


def fleet(*words: object) -> list[dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["fleet", *map(str, words), "--format", "json"]) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def leaked(path: Path) -> int:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["-S", str(path), "leaks", "--format", "json"]) == 0
    pages: int = json.loads(out.getvalue())["lost_pages"]
    return pages


def test_leaks_are_those_of_the_dumps(
    dataset: Path, saved: Callable[[Dump], Path], dump_named: Callable[[str], Dump]
) -> None:
    rows = fleet("top", dataset, "--limit", 0)
    assert sum(row["pages"] for row in rows) == sum(leaked(saved(dump_named(n))) for n in NAMES)
    assert rows == sorted(rows, key=lambda row: (-row["pages"], row["stack_id"]))
    assert {row["worst_dump"] for row in rows} == {f"/dumps/{name}" for name in NAMES}
    assert all(row["dumps"] == len(row["kernels"]) for row in rows)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_is_answered(dataset: Path, question: str) -> None:
    rows = fleet("top", dataset, question, "--limit", 3)
    assert len(rows) <= 3
    # One host was dumped once with each kernel, and nothing failed.
    assert rows or question == "failed"


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("view", [*(f"top {name}" for name in QUESTIONS), "rules", "diff"])
def test_no_line_is_wider_than_columns(
    dataset: Path, view: str, columns: int, monkeypatch: pytest.MonkeyPatch,
    dump_named: Callable[[str], Dump],
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(columns))
    name, *words = view.split()
    if name == "diff":
        words += ["--kernel", *(dump_named(n).snapshot.facts.release for n in NAMES)]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["fleet", name, str(dataset), *words, "--limit", "0"]) == 0
    lines = out.getvalue().splitlines()
    assert ": none" in lines[0] or re.search(r": \d+ +rows?", " ".join(lines[:2]))
    assert [line for line in lines if len(line) > columns] == []


def test_kernels_and_findings(dataset: Path) -> None:
    kernels = fleet("top", dataset, "kernels")
    assert [row["release"].rsplit(".", 1)[0] for row in kernels] == ["6.1", "6.12"]
    assert all((row["dumps"], row["with_findings"]) == (1, 1) for row in kernels)
    [leak] = [row for row in fleet("top", dataset, "findings") if row["finding"] == "leak"]
    assert leak["dumps"] == 2


def test_known_causes_are_the_same_when_asked_later(dataset: Path) -> None:
    stored = {row["rule"]: row for row in fleet("top", dataset, "causes", "--limit", 0)}
    later = {row["rule"]: row for row in fleet("rules", dataset, "--limit", 0)}
    assert stored.keys() == later.keys() >= {"leak-of-module", "leak-at-module-load"}
    for name, row in stored.items():
        same = ("level", "dumps", "hosts", "pages", "link")
        assert {key: row[key] for key in same} == {key: later[name][key] for key in same}
    leaks = {row["stack_id"]: row["pages"] for row in fleet("top", dataset, "--limit", 0)}
    assert 0 < stored["leak-of-module"]["pages"] <= sum(leaks.values())
    finding = [row for row in fleet("top", dataset, "findings") if row["finding"] == "known cause"]
    assert [row["dumps"] for row in finding] == [2]


def test_rules_of_ones_own(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.toml").write_text(
        'severity = "note"\nkernel = "<6.2"\ntext = "{n} records"\n'
        'sql = "select snapshot, count(*) as n from records group by all"\n'
    )
    (tmp_path / "one.toml").write_text('severity = "note"\ntext = "x"\nsql = "select 1"\n')
    (tmp_path / "bad.toml").write_text('severity = "note"\ntext = "x"\nsql = "select 1 from x"\n')
    [row] = fleet("rules", dataset, "--rules", tmp_path)
    assert (row["rule"], row["dumps"], row["worst_dump"]) == ("new", 1, "/dumps/linux-6.1/traps")
    lines = capsys.readouterr().err.splitlines()
    assert ["bad.toml: Catalog Error" in line for line in lines] == [True, False]
    assert "one.toml: its query has no column snapshot" in lines[1]
    assert main(["fleet", "rules", str(dataset), "--rules", str(tmp_path / "none")]) == 2


def test_two_kernels_are_compared(
    dataset: Path, dump_named: Callable[[str], Dump], capsys: pytest.CaptureFixture[str]
) -> None:
    releases = [dump_named(name).snapshot.facts.release for name in NAMES]
    rows = fleet("diff", dataset, "--kernel", *releases, "--limit", 0)
    kept = [dump_named(name).snapshot for name in NAMES]
    for place, snapshot in zip(("before", "after"), kept, strict=True):
        pages = snapshot.pages[snapshot["allocated"] & (snapshot.stack >= 0)].sum()
        assert sum(row[f"pages_per_dump_{place}"] for row in rows) == pages
    assert [row["change"] for row in rows] == sorted((r["change"] for r in rows), reverse=True)
    leaking = {row["allocator"] for row in rows if row["leaked_pages_after"]}
    assert any("po_leak" in name for name in leaking)
    stacks = fleet("diff", dataset, "--kernel", *releases, "--by", "stack", "--limit", 5)
    assert all(re.fullmatch("[0-9a-f]{16}", row["stack_id"]) for row in stacks)
    assert main(["fleet", "diff", str(dataset), "--kernel", "1.0", "2.0"]) == 2
    assert "there are no dumps of 1.0" in capsys.readouterr().err


def test_the_report_has_all_of_it(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="report needs jinja2 (the extra report)")
    path = tmp_path / "fleet.html"
    assert main(["fleet", "report", str(dataset), str(path)]) == 0
    text = path.read_text()
    for question in QUESTIONS.values():
        assert f">{question.title}</h2>" in text
    assert "What holds more in 6.12." in text
    assert "drgn-pageowner -c /dumps/linux-6.1/traps report OUT.html" in text
    # The page has no references to other files, except the links of rules.
    without = re.sub(
        r'<a href="https://docs\.kernel\.org/[^"]*" rel="noreferrer">[^<]*</a>', "", text
    )
    assert without != text
    assert not re.search(r"(src|href)=\"(?!#)", without)
    assert "http" not in without


def test_what_is_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["top", str(tmp_path)], ["report", str(tmp_path), str(tmp_path / "x.html")]):
        assert main(["fleet", *words]) == 1
        assert "is no dataset" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("500M", 500 << 20), ("1.5G", 3 << 29), ("8GiB", 8 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert memory_size(text) == size
