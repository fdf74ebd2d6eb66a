# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test datasets: writing them, and reading them with other engines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.cli import main
from drgn_pageowner.kernel.read import record_parts
from drgn_pageowner.model import threads
from drgn_pageowner.model.dataset import DATASET
from drgn_pageowner.storage import dataset as storage_dataset
from drgn_pageowner.storage.dataset import Dataset, Partition
from drgn_pageowner.storage.session import SnapshotSession, open_snapshots

pa = pytest.importorskip("pyarrow", reason="datasets need pyarrow (the extra parquet)")
pq = pytest.importorskip("pyarrow.parquet")
duckdb = pytest.importorskip("duckdb", reason="sql needs duckdb (the extra sql)")

NAMES = ("linux-6.12/traps", "linux-5.10/traps")
QUESTION = """select allocator, sum(pages)::bigint pages from {} where allocated
group by all order by all"""


@pytest.fixture(scope="module")
def dataset(
    tmp_path_factory: pytest.TempPathFactory,
    dump_named: Callable[[str], Dump],
    saved: Callable[[Dump], Path],
    live: Any,
) -> Path:
    """Return a dataset of two dumps, one of which was added from its snapshot file."""
    path = tmp_path_factory.mktemp("datasets") / "fleet"
    first, second = map(dump_named, NAMES)
    sessions = (live(first), SnapshotSession(str(saved(second))))
    for session in sessions:
        status, out, err = ask(session, f"save --leaks --dataset {path}")
        assert (status, err) == (0, ""), err
        assert "records" in out
    return path


def sql(*args: object) -> list[dict[str, Any]]:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*map(str, args[:-1]), "sql", "--format", "json", str(args[-1])]) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_table_has_the_documented_columns(dataset: Path) -> None:
    tables = Dataset(str(dataset)).tables()
    assert {name for name, files in tables.items() if files} == set(DATASET) - {"runs", "tags"}
    for name, files in tables.items():
        for file in files:
            assert re.fullmatch(rf"{name}/kernel=[\d.]+/day=[\d-]+/[0-9a-f]{{16}}\.parquet", file)
            schema = pq.read_schema(dataset / file)
            assert schema.names == [field.name for field in DATASET[name]]
            assert schema.metadata[b"drgn_pageowner_dataset"] == b"1"


def test_all_engines_have_the_same_numbers(
    dataset: Path, dump_named: Callable[[str], Dump], live: Any
) -> None:
    ours = [tuple(row.values()) for row in sql("-S", dataset, QUESTION.format("records"))]
    scan = f"read_parquet('{dataset}/records/*/*/*.parquet')"
    assert ours == duckdb.connect().execute(QUESTION.format(scan)).fetchall()
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(dataset / "records")
    told = frame[frame.allocated].groupby("allocator").pages.sum()
    assert {name: pages for name, pages in ours if name is not None} == told.to_dict()
    tops = [json.loads(ask(live(dump_named(name)), "top --format json")[1]) for name in NAMES]
    assert sum(pages for _, pages in ours) == sum(top["total"]["pages"] for top in tops)


def test_the_tables_say_what_the_commands_say(
    dataset: Path, dump_named: Callable[[str], Dump], live: Any
) -> None:
    dump = dump_named(NAMES[0])
    [meta] = sql("-S", dataset, "select * from meta where kernel like '6.12%'")
    where = f"from {{}} where snapshot = '{meta['snapshot']}'"
    leaks = json.loads(ask(live(dump), "leaks --slab --limit 0 --format json")[1])
    query = f"select sum(pages) pages {where.format('leaks')}"
    assert sql("-S", dataset, query)[0]["pages"] == leaks["lost_pages"]
    account = json.loads(ask(live(dump), "account --format json")[1])
    query = f"select class, sum(pages) pages {where.format('pages')} group by all"
    told = {row["class"]: row["pages"] for row in sql("-S", dataset, query)}
    told.pop("absent", None)
    assert told == {row["name"]: row["pages"] for row in account["classes"]}
    assert meta["hostname"] == dump.snapshot.facts.hostname
    verdicts = sql("-S", dataset, f"select area, finding {where.format('verdicts')}")
    assert {"area": "leaks", "finding": "leak"} in verdicts


def test_the_same_dump_is_saved_once(
    dataset: Path, saved: Callable[[Dump], Path], dump_named: Callable[[str], Dump], live: Any
) -> None:
    before = sql("-S", dataset, "select snapshot, count(*) n from records group by all order by 1")
    again = SnapshotSession(str(saved(dump_named(NAMES[1]))))
    assert ask(again, f"save --leaks --dataset {dataset}")[0] == 0
    after = sql("-S", dataset, "select snapshot, count(*) n from records group by all order by 1")
    assert len(before) == 2
    assert before == after


@pytest.mark.parametrize("number_of_threads", [1, 2])
def test_records_are_written_some_at_a_time(
    dataset: Path, dump_named: Callable[[str], Dump], live: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, number_of_threads: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(threads, "_allowed", number_of_threads)
    monkeypatch.setattr(record_parts, "_ROWS", 1000)
    monkeypatch.setattr(storage_dataset, "_ROWS", 10_000)
    sizes: list[int] = []
    row_groups = storage_dataset._row_groups

    def noted(arrow: Any, parts: Iterable[Any]) -> Iterator[Any]:
        def counted() -> Iterator[Any]:
            for part in parts:
                sizes.append(len(part))
                yield part

        return row_groups(arrow, counted())

    monkeypatch.setattr(storage_dataset, "_row_groups", noted)
    path, session = tmp_path / "fleet", live(dump_named(NAMES[0]))
    assert ask(session, f"save --leaks --dataset {path}")[0] == 0
    # What the report was made of is not in memory while the records are written.
    assert session._inventory is session._heap is None
    # No more than the records of a section, which has 32,768 pages.
    assert max(sizes) <= 1 << 15
    [file] = Dataset(str(path)).tables()["records"]
    about = pq.ParquetFile(path / file).metadata
    groups = [about.row_group(number).num_rows for number in range(about.num_row_groups)]
    assert set(groups[:-1]) == {10_000}
    for name, files in Dataset(str(path)).tables().items():
        for relative in files:
            expected = pq.read_table(dataset / relative, partitioning=None)
            assert pq.read_table(path / relative, partitioning=None).equals(expected), name


def test_a_mix_of_a_dataset_and_snapshots(
    dataset: Path, saved: Callable[[Dump], Path], dump_named: Callable[[str], Dump]
) -> None:
    snapshot = saved(dump_named(NAMES[0]))
    query = "select sum(pages) pages from records where allocated and snapshot is not null"
    [alone], [of_file] = sql("-S", dataset, query), sql("-S", snapshot, query)
    [mixed] = sql("-S", dataset, "-S", snapshot, query)
    assert mixed["pages"] == alone["pages"] + of_file["pages"]
    query = "select count(distinct snapshot) n, sum(pages) pages from pages where class = 'slab'"
    [mixed], [alone] = sql("-S", dataset, "-S", snapshot, query), sql("-S", dataset, query)
    assert mixed["n"] == alone["n"] + 1


def test_stacks_have_the_same_id_in_every_boot(
    saved: Callable[[Dump], Path], dump_named: Callable[[str], Dump]
) -> None:
    paths = [str(saved(dump_named(f"linux-6.12/{name}"))) for name in ("kdump", "traps")]
    ids = [
        {row["stack_id"]: row["functions"] for row in sql("-S", path, "select * from stacks")}
        for path in paths
    ]
    common = ids[0].keys() & ids[1].keys()
    # Only one of the two kernels was relocated by KASLR; most stacks of the boot are in both.
    assert len(common) > 200
    assert all(ids[0][one] == ids[1][one] for one in common)
    assert len({tuple(names) for names in ids[0].values()}) >= len(ids[0]) - 5


def test_files_of_an_older_version_lack_columns(dataset: Path, tmp_path: Path) -> None:
    import shutil

    older = tmp_path / "older"
    shutil.copytree(dataset, older)
    file = sorted((older / "meta").rglob("*.parquet"))[0]
    pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["cpus"]), file)
    rows = sql("-S", older, "select cpus, hostname from meta order by cpus nulls first")
    assert [row["cpus"] for row in rows] == [None, 2]


def test_a_later_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dataset.json").write_text('{"drgn_pageowner_dataset": 99}')
    assert main(["-S", str(tmp_path), "sql", "select 1"]) == 1
    assert "later drgn-pageowner" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"drgn_pageowner_dataset": "1"}', "\0"])
def test_a_damaged_marker_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "dataset.json").write_text(text)
    assert main(["-S", str(tmp_path), "sql", "select 1"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "damaged" in line


def test_a_directory_of_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], saved: Any, dump_named: Any
) -> None:
    (tmp_path / "thesis.txt").write_text("do not mix")
    path = str(saved(dump_named(NAMES[1])))
    assert main(["-S", path, "save", "--dataset", str(tmp_path)]) == 1
    assert main(["-S", str(tmp_path), "sql", "select 1"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "thesis.txt" in first
    assert "no dataset" in second


def test_other_commands_do_not_read_a_dataset(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-S", str(dataset), "top"]) == 2
    assert "only sql and fleet" in capsys.readouterr().err


def test_a_query_reads_only_the_dataset(
    dataset: Path, saved: Any, dump_named: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = saved(dump_named(NAMES[1]))
    assert main(["-S", str(dataset), "sql", f"select * from '{other}'"]) == 2
    assert "disabled" in capsys.readouterr().err


def test_partitions_have_names_that_file_systems_take() -> None:
    assert Partition("5.14.0-427.el9.x86_64+debug", None).path == (
        "kernel=5.14.0-427.el9.x86_64%2Bdebug/day=__HIVE_DEFAULT_PARTITION__"
    )
    assert Partition("../../x", "2026-01-31").path == "kernel=..%2F..%2Fx/day=2026-01-31"


def test_a_dataset_is_opened_with_others(dataset: Path) -> None:
    session = open_snapshots([str(dataset), str(dataset)])
    assert list(session.members()) in ([str(dataset)], ["running kernel"])
