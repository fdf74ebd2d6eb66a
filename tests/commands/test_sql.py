# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test SQL on a dump and on many snapshots, with the queries of README.md."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from conftest import DUMPS, ROOT, Dump

from drgn_pageowner.analysis.owners.allocator import allocator_name
from drgn_pageowner.analysis.owners.stack_table import StackTable
from drgn_pageowner.cli import main
from drgn_pageowner.kernel.read import record_parts
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.render import relations
from drgn_pageowner.storage.save import save
from drgn_pageowner.storage.session import SnapshotSession, open_snapshots

pytestmark = pytest.mark.once

pytest.importorskip("pyarrow", reason="sql needs pyarrow (the extra sql)")
pytest.importorskip("duckdb", reason="sql needs duckdb (the extra sql)")

Saved = Callable[[Dump], Path]
MACHINES = 10


def sql(session: Any, query: str) -> list[dict[str, Any]]:
    from io import StringIO

    from drgn_pageowner.commands import CommandParser, add_commands, run_command

    parser, out = CommandParser(prog="drgn-pageowner"), StringIO()
    add_commands(parser)
    run_command(parser.parse_args(["sql", query, "--format", "json"]), session, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


class Renamed(SnapshotSession):
    """A snapshot with the name of another machine."""

    def __init__(self, path: str, hostname: str) -> None:
        super().__init__(path)
        self.hostname = hostname

    def facts(self) -> Facts:
        return replace(super().facts(), hostname=self.hostname)


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, dump_named: Callable[[str], Dump], saved: Saved
) -> dict[str, Dump]:
    """Save ten machines, each 14 and 28 seconds after boot; return path -> original dump."""
    directory, result = tmp_path_factory.mktemp("fleet"), {}
    kernels = ("5.10", "6.1", "6.12", "7.2")
    for number in range(MACHINES):
        for when in ("kdump", "traps"):
            dump = dump_named(f"linux-{kernels[number % 4]}/{when}")
            path = str(directory / f"web{number:02}-{when}.parquet")
            save(Renamed(str(saved(dump)), f"web{number:02}"), path)
            result[path] = dump
    return result


@pytest.fixture(scope="module")
def queries() -> list[str]:
    """Return the queries in the README's section on fleets."""
    section = (ROOT / "README.md").read_text().split("## A fleet of machines")[1].split("\n## ")[0]
    return re.findall(r"sql \"(.*?)\"", section, re.DOTALL)


def pages_by_allocator(dump: Dump) -> Counter[str]:
    everything, result = dump.snapshot, Counter[str]()
    kept = everything.select(everything["allocated"])
    pages = kept.pages.tolist()
    for stack, number in zip(kept.stack.tolist(), pages, strict=True):
        result[allocator_name(everything.stack_frames(stack))] += number
    return result


def test_the_readmes_questions_are_answered(fleet: dict[str, Dump], queries: list[str]) -> None:
    assert len(fleet) == 2 * MACHINES
    session = open_snapshots(list(fleet))
    grown, by_module, largest, by_allocator = (sql(session, query) for query in queries)

    held = {dump: pages_by_allocator(dump) for dump in set(fleet.values())}
    growth: Counter[str] = Counter()
    for path, dump in fleet.items():
        for allocator, pages in held[dump].items():
            growth[allocator] += pages if "traps" in path else -pages
    everywhere: Counter[str] = Counter()
    for dump in fleet.values():
        everywhere.update(held[dump])
    assert {row["allocator"]: row["sum(pages)"] for row in by_allocator} == everywhere
    assert [row["grown"] for row in grown] == [pages for _, pages in growth.most_common(5)]
    assert grown[0]["allocator"] == growth.most_common(1)[0][0]
    assert all(row["grown"] == growth[row["allocator"]] for row in grown)

    assert {row["snapshot"] for row in by_module} == {path for path in fleet if "traps" in path}
    assert all(row["pages"] > 400 for row in by_module)

    most: dict[str, int] = defaultdict(int)
    for dump in held:
        snapshot = dump.snapshot.select(dump.snapshot["allocated"])
        sizes: Counter[int] = Counter()
        for stack, pages in zip(snapshot.stack.tolist(), snapshot.pages.tolist(), strict=True):
            sizes[stack] += pages
        release = snapshot.facts.release
        most[release] = max(most[release], max(sizes.values()))
    assert {row["release"]: row["pages"] for row in largest} == most


def test_a_dump_and_its_snapshot_have_the_same_tables(
    dump_named: Callable[[str], Dump], saved: Saved, live: Any
) -> None:
    dump = dump_named("linux-7.2/traps")
    path = str(saved(dump))
    for table in ("records", "stacks", "pages", "zones", "meta"):
        query = f"select * exclude (snapshot) from {table} order by all limit 500"
        rows = sql(SnapshotSession(path), query)
        assert rows
        assert rows == sql(live(dump), query)
    [total] = sql(SnapshotSession(path), "select sum(pages) p from records where allocated")
    top = json.loads(ask(live(dump), "top --format json")[1])
    assert total["p"] == top["total"]["pages"]
    classes = sql(live(dump), "select class, count(*) pages from pages group by all")
    account = json.loads(ask(live(dump), "account --format json")[1])
    told = {row["class"]: row["pages"] for row in classes if row["class"] != "absent"}
    assert told == {row["name"]: row["pages"] for row in account["classes"]}


@pytest.mark.parametrize("name", ["linux-7.2/traps", "linux-5.10/traps"])
def test_tables_are_made_some_rows_at_a_time(
    dump_named: Callable[[str], Dump], live: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    session = live(dump_named(name))
    query = "select * exclude (snapshot) from {}"
    whole = {table: sql(session, query.format(table)) for table in ("records", "pages")}
    monkeypatch.setattr(record_parts, "_ROWS", 1000)
    monkeypatch.setattr(relations, "_ROWS", 10_000)
    most = 0
    table_of = relations.StackTable.of

    def counted(records: Snapshot, stacks: Any) -> StackTable:
        nonlocal most
        most = max(most, len(records))
        return table_of(records, stacks)

    monkeypatch.setattr(relations.StackTable, "of", counted)
    for table, rows in whole.items():
        assert sql(session, query.format(table)) == rows
    # The records of a section, which has 32,768 pages.
    assert 0 < most <= 1 << 15 < len(whole["records"])


@pytest.mark.thorough
def test_every_kernel_has_the_same_columns(saved: Saved) -> None:
    session = open_snapshots([str(saved(get())) for get in DUMPS])
    for table in ("records", "stacks"):
        rows = sql(session, f"select snapshot, count(*) n from {table} group by all")
        assert len(rows) == len(DUMPS)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("selec", "syntax error"),
        ("select colour from records", "colour"),
        ("select * from nowhere", "nowhere"),
        ("select * from read_csv('/etc/passwd')", "file system operations are disabled"),
        ("copy records to '/tmp/copy'", "only queries"),
        ("attach '/tmp/x.db'", "only queries"),
        ("install httpfs", "only queries"),
        ("set threads = 1", "only queries"),
        ("select 1; select 2", "one statement"),
        ("", "one statement"),
    ],
)
def test_what_is_no_query_is_a_usage_error(
    one_dump: Dump, saved: Saved, capsys: pytest.CaptureFixture[str], query: str, word: str
) -> None:
    assert main(["-S", str(saved(one_dump)), "sql", query]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert word in line


def test_the_answer_as_a_table_and_as_csv(
    one_dump: Dump, saved: Saved, capfd: pytest.CaptureFixture[str]
) -> None:
    query = "select node, zone, present, free_blocks from zones order by node"
    for format_ in ("table", "csv"):
        assert main(["-S", str(saved(one_dump)), "sql", query, "--format", format_]) == 0
    table, _, csv = capfd.readouterr().out.partition("node,zone,present,free_blocks")
    assert "49,055" in table
    assert "0,DMA32,49055,38;23;11;" in csv
