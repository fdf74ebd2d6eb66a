# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test a few changed snapshots, the same in every run (run.py tests more), and all faults found
earlier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Dump

pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")

import pyarrow as pa
from snapshots import (
    SnapshotParts,
    _hostile_document,
    _Raw,
    judge_snapshot,
    mutated,
    take_apart,
    write,
)

from drgn_pageowner.storage import container

Saved = Callable[[Dump], Path]


@pytest.fixture(scope="module")
def parts(dump_named: Callable[[str], Dump], saved: Saved) -> SnapshotParts:
    return take_apart(saved(dump_named("linux-6.12/traps")))


def test_a_changed_snapshot_is_answered_or_refused_in_a_line(
    parts: SnapshotParts, tmp_path: Path
) -> None:
    path = tmp_path / "changed.parquet"
    for number in range(8):
        changed, what, questions = mutated(parts, 1, number)
        try:
            write(changed, path)
        except (pa.ArrowException, ValueError, TypeError):
            continue
        for outcome in judge_snapshot(path, questions[:1]):
            assert outcome.kind != "fault", f"{what}: {outcome.question}: {outcome.detail}"


def changed(parts: SnapshotParts, **tables: Any) -> SnapshotParts:
    """Return *parts* with some tables, documents or records replaced."""
    documents = {name: tables.pop(name) for name in list(tables) if name in parts.documents}
    records = tables.pop("rows", parts.records)
    head = tables.pop("head", parts.head)
    return SnapshotParts(
        head, {**parts.documents, **documents}, {**parts.tables, **tables}, records
    )


def asked(parts: SnapshotParts, path: Path, question: str) -> str:
    """Return the outcome of a command: "answered" or "refused"; fail for any other."""
    write(parts, path)
    [outcome] = judge_snapshot(path, (question,))
    assert outcome.kind != "fault", outcome.detail
    assert int(outcome.detail.split(" MiB")[0]) < 1500
    return outcome.kind


def with_column(table: Any, name: str, values: Any) -> Any:
    column = table.column_names.index(name)
    return table.set_column(column, name, values)


def test_columns_of_a_later_version_are_ignored(parts: SnapshotParts, tmp_path: Path) -> None:
    path = tmp_path / "later.parquet"

    def more(table: Any) -> Any:
        return table.append_column("added_later", pa.array(["x"] * len(table)))

    later = changed(
        parts,
        rows=[more(part) for part in parts.records],
        **{name: more(table) for name, table in parts.tables.items()},
    )
    for question in ("info", "list --limit 5", "account", "leaks --slab", "frag", "top --limit 3",
                     "report --format json"):  # fmt: skip
        assert asked(later, path, question) == "answered"


def test_columns_in_another_order_are_the_same(parts: SnapshotParts, tmp_path: Path) -> None:
    turned = {name: table.select(table.column_names[::-1]) for name, table in parts.tables.items()}
    assert asked(changed(parts, **turned), tmp_path / "a.parquet", "top --limit 3") == "answered"


DOCUMENTS: list[tuple[str, Any, str]] = [
    ("memory", [], "frag"),
    ("memory", None, "frag"),
    ("inventory", {"caches": 7}, "account"),
    ("records", {"layout": [], "coverage": {}}, "info"),
    ("names", {"migratetypes": 7}, "list"),
    ("names", {"page_flag_bits": {"locked": 1 << 40}}, "list --format debugfs"),
    ("leaks_of", {"pages_missing": "none"}, "leaks"),
]


@pytest.mark.parametrize("name, document, question", DOCUMENTS)
def test_documents_of_another_type(
    parts: SnapshotParts, tmp_path: Path, name: str, document: Any, question: str
) -> None:
    assert asked(changed(parts, **{name: document}), tmp_path / "a.parquet", question) == "refused"


@pytest.mark.parametrize(
    "change",
    [{"page_size": "4096"}, {"page_size": 0}, {"max_page_order": 10**9}, {"pageblock_order": -1},
     {"max_pfn": 1 << 62}, {"max_pfn": None}, {"zones": [[0]]}, {"now_ns": -1}, {"release": None}],
    ids=str,
)  # fmt: skip
def test_facts_that_no_kernel_has(
    parts: SnapshotParts, tmp_path: Path, change: dict[str, Any]
) -> None:
    head = {**parts.head, "facts": {**parts.head["facts"], **change}}
    assert asked(changed(parts, head=head), tmp_path / "a.parquet", "frag") == "refused"


@pytest.mark.parametrize("name", ["members", "stack_depot", "record"])
def test_a_layout_that_lacks_a_part(parts: SnapshotParts, tmp_path: Path, name: str) -> None:
    records = parts.documents["records"]
    layout = {key: value for key, value in records["layout"].items() if key != name}
    hostile = changed(parts, records={**records, "layout": layout})
    assert asked(hostile, tmp_path / "a.parquet", "info") == "refused"


def test_a_small_document_that_is_large(parts: SnapshotParts, tmp_path: Path) -> None:
    # About 40 KB of zstd become 90 MB of JSON and 3 GB of lists.
    text = b'{"x": [' + b"[]," * 30_000_000 + b"0]}"
    packed = container._compressed(text)
    assert len(packed) < 50_000
    hostile = changed(parts, memory=_Raw(packed))
    assert asked(hostile, tmp_path / "a.parquet", "frag") == "refused"


@pytest.mark.parametrize("kind", range(5))
def test_documents_that_are_made_to_harm(parts: SnapshotParts, tmp_path: Path, kind: int) -> None:
    class Chosen:
        def integers(self, *_: int) -> int:
            return kind

    hostile = changed(parts, memory=_hostile_document(Chosen()))  # type: ignore[arg-type]
    assert asked(hostile, tmp_path / "a.parquet", "frag") == "refused"


def test_a_small_table_that_is_large(parts: SnapshotParts, tmp_path: Path) -> None:
    rows = 200_000_000
    table = pa.table({"migratetype": pa.nulls(rows, pa.int8()).fill_null(0)})
    hostile = changed(parts, pageblocks=table)
    assert asked(hostile, tmp_path / "a.parquet", "frag") == "refused"
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 20


@pytest.mark.parametrize(
    "table, column, number, question",
    [
        ("stack_frames", "frame", 1 << 30, "top"),
        ("stack_frames", "frame", -1, "top"),
        ("stacks", "depth", 1 << 30, "top"),
        ("stacks", "depth", -1, "top"),
        ("page_ranges", "pages", 1 << 62, "frag"),
        ("page_ranges", "start_pfn", -5, "frag"),
        ("pages", "state", 250, "account"),
        ("pages", "head", 1 << 40, "account"),
        ("free_blocks", "row", 1 << 40, "frag"),
        ("free_blocks", "order", 99, "frag"),
        ("free_blocks", "zone", 200, "frag"),
        ("pageblocks", "migratetype", 100, "frag"),
        ("slabs", "cache", 1 << 30, "account --caches"),
        ("slabs", "objects", 1 << 40, "account"),
        ("area_pages", "row", 1 << 40, "account"),
        ("areas", "pages", -1, "account"),
        ("leaks", "distance", -(1 << 31), "leaks"),
        ("leaks", "verdict", 77, "leaks"),
        ("lost_objects", "stack", 1 << 30, "leaks --slab"),
    ],
)
def test_numbers_that_lead_nowhere(
    parts: SnapshotParts, tmp_path: Path, table: str, column: str, number: int, question: str
) -> None:
    before = parts.tables[table]
    values = before.column(column).to_numpy().copy()
    values[len(values) // 2] = number
    hostile = changed(parts, **{table: with_column(before, column, pa.array(values))})
    assert asked(hostile, tmp_path / "a.parquet", question) == "refused"


def test_records_of_other_types(parts: SnapshotParts, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    def of(name: str, make: Callable[[int], Any]) -> SnapshotParts:
        return changed(
            parts, rows=[with_column(part, name, make(len(part))) for part in parts.records]
        )

    # As fixed-width text, every record would need as many bytes as the longest name.
    long = of("comm", lambda n: pa.array([b"x" * 300] * n).dictionary_encode())
    assert asked(long, path, "list") == "refused"
    times = of("comm", lambda n: pa.array([0] * n, pa.timestamp("ns")))
    assert asked(times, path, "top --by comm") == "refused"
    assert asked(of("order", lambda n: pa.array([63] * n, pa.uint8())), path, "top") == "refused"
    assert asked(of("pfn", lambda n: pa.array(["x"] * n)), path, "top") == "refused"
    assert asked(of("pid", lambda n: pa.array([[1]] * n)), path, "list") == "refused"
    whole = [part.drop_columns(["order"]) for part in parts.records]
    assert asked(changed(parts, rows=whole), path, "top") == "refused"


def test_what_the_fuzzer_takes_apart_it_puts_together(
    parts: SnapshotParts, tmp_path: Path, saved: Saved, dump_named: Callable[[str], Dump]
) -> None:
    path = tmp_path / "same.parquet"
    write(parts, path)
    again = take_apart(path)
    assert json.dumps(again.documents) == json.dumps(parts.documents)
    assert again.tables == parts.tables
    assert asked(parts, path, "leaks --slab --format json") == "answered"
