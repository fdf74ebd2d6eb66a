# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the file format: other programs can read the records; other files are refused in one
line."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import ask
from conftest import Dump, dump_id, traps

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.kernel import Facts, TextFormats, Zone
from drgn_pageowner.storage import container
from drgn_pageowner.storage.plain import as_json, restore
from drgn_pageowner.storage.save import save
from drgn_pageowner.storage.session import SnapshotSession

pq = pytest.importorskip("pyarrow.parquet", reason="snapshots need pyarrow (the extra parquet)")
pa = pytest.importorskip("pyarrow")

Saved = Callable[[Dump], Path]


@pytest.mark.parametrize("get", traps(), ids=dump_id)
def test_any_parquet_reader_sees_the_records(get: Callable[[], Dump], saved: Saved) -> None:
    dump = get()
    table = pq.read_table(saved(dump))
    everything = dump.snapshot
    assert set(table.column_names) == set(everything.columns)
    assert len(table) == len(everything)
    order = np.argsort(table.column("pfn").to_numpy())
    for name in ("pfn", "order", "handle", "allocated", "gfp_mask"):
        assert (table.column(name).to_numpy()[order] == everything[name]).all()
    if "comm" in everything:
        names = table.column("comm").combine_chunks().take(pa.array(order)).to_pylist()
        assert names == everything["comm"].tolist()


def test_the_kernels_facts_are_in_the_files_metadata(one_dump: Dump, saved: Saved) -> None:
    metadata = pq.read_metadata(saved(one_dump)).metadata
    assert metadata[b"drgn_pageowner.version"] == b"1"
    assert b'"release": "6.12.107"' in metadata[b"drgn_pageowner.head"]


def refused(path: Path) -> str:
    with pytest.raises(PageOwnerError) as caught:
        SnapshotSession(str(path)).snapshot(None)
    assert caught.value.exit_status == 1
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_what_is_no_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert "no such file" in refused(path)
    path.write_text("nothing of the kind")
    assert "is not a snapshot" in refused(path)
    path.write_bytes(b"")
    assert "is not a snapshot" in refused(path)
    pq.write_table(pa.table({"pfn": [1]}), path)
    assert "is a Parquet file, but no snapshot" in refused(path)
    assert "is not a snapshot" in refused(tmp_path)


def test_a_file_of_a_later_version(
    one_dump: Dump, live: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Saved
) -> None:
    path = tmp_path / "later.parquet"
    session = SnapshotSession(str(saved(one_dump)))
    monkeypatch.setattr(container, "VERSION", container.VERSION + 1)
    ask(session, f"save {path}")
    monkeypatch.undo()
    assert "later drgn-pageowner (format 2, this one reads up to 1)" in refused(path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_file_cut_off(one_dump: Dump, saved: Saved, tmp_path: Path, share: float) -> None:
    data = saved(one_dump).read_bytes()
    path = tmp_path / "cut.parquet"
    path.write_bytes(data[: int(len(data) * share)])
    assert "is not a snapshot, or a damaged one" in refused(path)


def everything_in(path: Path) -> list[object]:
    """Return all contents of a file, in the order of its parts."""
    file = container.Container(str(path))
    parts = [*file.record_parts(sorted(file.names), freed=True)]
    found: list[object] = [
        np.concatenate([part[name] for part in parts]).tobytes() for name in parts[0]
    ]
    found += [file.names, {k: v for k, v in file.head.items() if k != "parts"}]
    for part in file.head["parts"]:
        if part in (
            "names", "records", "memory", "inventory", "slab_owners_of", "leaks_of", "fingerprints",
        ):  # fmt: skip
            found.append(file.document(part))
        else:
            columns = file.table(part)
            found += [c if isinstance(c, list) else c.tobytes() for c in columns.values()]
    return found


def test_records_in_no_order_are_refused(
    one_dump: Dump, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = container._table

    def backwards(columns: Any) -> Any:
        if "handle" in columns and "gfp_mask" in columns:
            columns = {name: column[::-1] for name, column in columns.items()}
        return table(columns)

    monkeypatch.setattr(container, "_table", backwards)
    path = tmp_path / "backwards.parquet"
    save(ProgramSession(one_dump.prog), str(path))
    status, out, err = ask(SnapshotSession(str(path)), "top")
    assert (status, out) == (1, "")
    assert err == f"{path} is damaged (order of records): save it again"


def test_tables_of_several_batches_are_read_the_same(
    one_dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "batches.parquet"
    monkeypatch.setattr(container, "_BATCH", 40)
    monkeypatch.setattr(container, "_LARGE", 0)
    save(ProgramSession(one_dump.prog), str(path))
    monkeypatch.undo()
    whole = tmp_path / "whole.parquet"
    save(ProgramSession(one_dump.prog), str(whole))
    assert path.read_bytes() != whole.read_bytes()
    assert everything_in(path) == everything_in(whole)
    # All batches together have as many rows as a table may have.
    file = container.Container(str(path))
    assert len(file.table("pageblocks")["migratetype"]) > 64
    file._most_rows = 0
    with pytest.raises(PageOwnerError, match="too many rows"):
        file.table("pageblocks")


def test_the_size_of_all_rows_decides_how_well_a_table_is_compressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []

    def level(size: int) -> int:
        sizes.append(size)
        return 1

    monkeypatch.setattr(container, "_level", level)
    monkeypatch.setattr(container, "_BATCH", 40)
    columns = {"row": np.arange(30, dtype=np.int64), "state": np.zeros(30, np.uint8)}
    many = {name: np.tile(column, 10) for name, column in columns.items()}
    container.packed_tables({"few": columns, "many": many})
    assert sizes == [30 * 9, 300 * 9]


def test_a_damaged_file_is_refused_or_right(one_dump: Dump, saved: Saved, tmp_path: Path) -> None:
    data, path = saved(one_dump).read_bytes(), tmp_path / "damaged.parquet"
    right = everything_in(saved(one_dump))
    chance, refusals = random.Random(1), 0
    # Half of them are in the footer, which has the positions of all parts.
    places = [chance.randrange(len(data)) for _ in range(60)]
    places += [chance.randrange(len(data) - 12_000, len(data)) for _ in range(60)]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        try:
            assert everything_in(path) == right, place
        except PageOwnerError as error:
            refusals += str(path) in str(error)
    assert refusals > 60


def test_a_file_that_cannot_be_written(one_dump: Dump, saved: Saved, tmp_path: Path) -> None:
    session = SnapshotSession(str(saved(one_dump)))
    for path in (tmp_path, tmp_path / "nowhere" / "file"):
        status, _, err = ask(session, f"save {path}")
        assert (status, len(err.splitlines())) == (1, 1)
        assert err.startswith(f"cannot write {path}: ")
    assert not list(tmp_path.iterdir())


def test_dataclasses_come_back_from_json() -> None:
    facts = Facts(
        "6.12",
        page_size=4096,
        max_page_order=10,
        pageblock_order=9,
        zones=(Zone(0, 1, "DMA", 1, 2, 3, 4),),
        layout={"members": ["order"]},
        formats=TextFormats("a", "b", "c", None, "d", True),
        problems=["x"],
    )
    assert as_json(restore(Facts, as_json(facts))) == as_json(facts)
    assert restore(Facts, as_json(facts)).zones == facts.zones
    assert restore(Facts, {**as_json(facts), "added_later": 1}) == restore(Facts, as_json(facts))
    assert restore(dict[int, tuple[int, ...]], {"0": [1, 2]}) == {0: (1, 2)}


def test_arrays_are_those_of_pyarrow() -> None:
    comms = np.array([b"init", b"", b"sixteen bytes...", b"a\0b"], "S16")
    every = {
        "text": ["a", None, "\udcff", "a", ""],
        "none": [None, None],
        "numbers": np.arange(5, dtype=np.int16)[::2],
        "big": np.array([1, 2], ">u4"),
        "flags": np.array([True, False, True] * 5),
        "comm": comms,
        "empty": np.zeros(0, "S16"),
        "nothing": [],
    }
    for name, values in every.items():
        made = container._table({name: values}).column(0).combine_chunks()
        made.validate(full=True)
        if isinstance(values, list):
            wanted = [None if one is None else container.without_surrogates(one) for one in values]
            assert made.type == pa.dictionary(pa.int32(), pa.string())
        else:
            wanted = values.tolist()
        assert made.to_pylist() == wanted, name
        assert made.null_count == wanted.count(None)


def test_a_snapshot_takes_little_memory(one_dump: Dump, tmp_path: Path) -> None:
    # Count only anonymous memory; the rest is libraries, which need not stay in memory.
    code = (
        "import sys\n"
        "from drgn_pageowner.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "assert 'pandas' not in sys.modules\n"
        "text = open('/proc/self/status').read()\n"
        "print(text[text.index('RssAnon'):].split()[1])\n"
        "sys.exit(status)\n"
    )
    pack = tmp_path / "layout.debug"
    assert one_dump.run("layout", pack).returncode == 0
    words = ["-c", one_dump.vmcore, "--main-symbols", "-s", pack, "save", tmp_path / "out.parquet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) < 100 << 10
