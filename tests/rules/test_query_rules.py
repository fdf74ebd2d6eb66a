# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules asked about dumps: our own ones where they match and where they must not, and bad ones."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Dump

from drgn_pageowner.analysis.report import report
from drgn_pageowner.analysis.verdicts import KnownCause
from drgn_pageowner.commands.report import read
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.rules import query
from drgn_pageowner.rules.query import Answers, ask_rules
from drgn_pageowner.rules.rule import BUILTIN, read_rules, verdicts_of

pytestmark = pytest.mark.once

# Rules -> the dump that they match in, and whether leaks are needed for it.
FIRES = {
    "leak-of-module": ("linux-6.12/traps", True),
    "leak-of-large-kmalloc": ("linux-6.12/traps", True),
    "leak-at-module-load": ("linux-6.12/traps", True),
    "leak-of-cycle": ("linux-6.12/traps", True),
    "leak-of-root": ("linux-6.12/traps", True),
    "unmovable-in-movable": ("linux-6.12/traps", True),
    "leak-of-vmalloc": ("linux-6.12-profiling/records", True),
    "leak-of-unloaded-module": ("linux-6.12-profiling/records", True),
    "memory-of-unloaded-module": ("linux-6.12-profiling/records", True),
    "leak-of-percpu": ("linux-6.12-profiling/records", True),
    "leak-of-slab-objects": ("linux-6.12-profiling/records", True),
    "no-free-2m-block": ("linux-6.12/kdump", False),
    "node-is-short": ("linux-6.12/kdump", False),
    "free-memory-is-cma": ("linux-6.12/kdump", False),
    "free-memory-in-pcp-lists": ("linux-6.12-profiling/owner-off-tags", False),
    "much-reserved-at-boot": ("linux-5.10/owner-off", False),
    "page-owner-off": ("linux-5.10/owner-off", False),
    "hugetlb-pool": ("linux-7.2-arm64-16k/kdump", False),
}
HEALTHY = ("linux-5.10/noleak", True)
# What the healthy guest's module po_frag did to pageblocks is a known cause there, too.
TOO = {HEALTHY: {"unmovable-in-movable"}}
UNFRAGMENTED = ("linux-5.10/kdump", False)


@pytest.fixture(scope="module")
def asked(dump_named: Callable[[str], Dump]) -> Callable[[str, bool], Callable[..., Answers]]:
    """A function that asks rules about a dump, which is read once."""

    @functools.cache
    def of(name: str, leaks: bool) -> Callable[..., Answers]:
        session = ProgramSession(dump_named(name).prog)
        inputs = read(session, leaks=leaks, slab=leaks)
        found = report(inputs)

        def ask(*where: object) -> Answers:
            rules = read_rules([str(one) for one in where])
            return ask_rules(rules, session, found, inputs.inventory)

        return ask

    return of


@pytest.fixture(scope="module")
def matched(asked: Any) -> Callable[[tuple[str, bool]], dict[str, KnownCause]]:
    """The verdicts of our own rules on a dump, by name of the rule."""
    pytest.importorskip("duckdb", reason="rules in SQL need duckdb (the extra sql)")

    @functools.cache
    def of(case: tuple[str, bool]) -> dict[str, KnownCause]:
        answers = asked(*case)(BUILTIN)
        assert answers.errors == []
        return {str(one.rule): one for one in verdicts_of(answers.matches, 4096)}

    return of


def test_every_rule_of_ours_is_here() -> None:
    assert FIRES.keys() == {rule.name for rule in read_rules([BUILTIN]).rules}


@pytest.mark.parametrize("rule", FIRES)
def test_a_rule_matches_where_it_should(matched: Any, rule: str) -> None:
    found = matched(FIRES[rule])
    assert rule in found
    assert "?" not in found[rule].text
    assert found[rule].area == "rule"
    assert (found[rule].finding == "known cause") is (found[rule].level == "bad")


def test_no_rule_matches_in_a_healthy_guest(matched: Any) -> None:
    assert matched(HEALTHY).keys() == TOO[HEALTHY]
    assert "unmovable-in-movable" not in matched(UNFRAGMENTED)


def test_numbers_are_those_of_the_guest(matched: Any, dump_named: Callable[[str], Dump]) -> None:
    found = matched(("linux-6.12/traps", True))
    lost = [f for f in dump_named("linux-6.12/traps").facts() if f.get("what") == "leaked"]
    # What po_leakgone lost before it was unloaded is another cause.
    mine = [f for f in lost if f.get("name") == "po_leak" and "pfn" in f]
    pages = sum(1 << int(f.get("order", 0)) for f in mine)
    # po_leak says of some pages only that they were held, and loses them nevertheless.
    assert pages <= found["leak-of-module"].pages <= pages * 1.3
    assert "po_leak" in found["leak-of-module"].text
    gone = matched(("linux-6.12-profiling/records", True))["memory-of-unloaded-module"]
    assert "po_gone" in gone.text


def test_bad_rules_are_one_line_and_others_run(asked: Any, tmp_path: Path) -> None:
    pytest.importorskip("duckdb", reason="rules in SQL need duckdb (the extra sql)")
    head = 'severity = "warning"\ntext = "x {{n}}"\nsql = "{}"\n'
    for name, sql in {
        "column": "select nonsense as n from meta", "syntax": "selec 1",
        "write": "create table t (n int)", "two": "select 1 as n; select 2 as n",
        "file": "select count(*) as n from read_text('/etc/passwd')", "field": "select 1 as other",
        "good": "select 1 as n from meta", "none": "select 1 as n from meta where false",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.toml").write_text(head.format(sql))
    (tmp_path / "later.toml").write_text(head.format("select 1 as n") + 'kernel = ">=99"\n')
    answers = asked(*UNFRAGMENTED)(tmp_path)
    assert [match.rule.name for match in answers.matches] == ["good"]
    bad = [Path(line.split(": ")[0]).stem for line in answers.errors]
    assert sorted(bad) == ["column", "field", "file", "syntax", "two", "write"]
    assert all(len(line.splitlines()) == 1 for line in answers.errors)


def test_a_query_that_does_not_end_is_stopped(
    asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb", reason="rules in SQL need duckdb (the extra sql)")
    endless = (
        "with recursive t as (select 1 as n union all select n + 1 from t) select max(n) from t"
    )
    (tmp_path / "a.toml").write_text(f'severity = "bad"\ntext = "x"\nsql = "{endless}"\n')
    (tmp_path / "b.toml").write_text('severity = "bad"\ntext = "x"\nsql = "select 1"\n')
    monkeypatch.setattr(query, "_SECONDS", 0.5)
    before = threading.active_count()
    answers = asked(*UNFRAGMENTED)(tmp_path)
    [line] = answers.errors
    assert line == f"{tmp_path / 'a.toml'}: its query took more than 0.5 s"
    assert threading.active_count() == before
    assert [match.rule.name for match in answers.matches] == ["b"]


def test_stacks_need_no_duckdb(
    asked: Any, dump_named: Callable[[str], Dump], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    (tmp_path / "holder.toml").write_text(
        'severity = "bad"\ntext = "{pages} {stacks} {allocator}"\n[stack]\nmodule = "po_holder"\n'
    )
    answers = asked("linux-6.12/kdump", False)(tmp_path, BUILTIN)
    [match] = answers.matches
    records = dump_named("linux-6.12/kdump").snapshot
    mine = {
        index
        for index in range(len(records.stacks))
        if next((f.module for f in records.stack_frames(index) if f.module), "") == "po_holder"
    }
    rows = [stack in mine for stack in records.stack.tolist()]
    assert match.values["pages"] == int(records.pages[records["allocated"] & rows].sum()) > 0
    [line] = answers.errors
    assert line.endswith("rules are left out: sql needs duckdb: pip install 'drgn-pageowner[sql]'")
