# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that commands print the same for a snapshot as for the dump, byte for byte, without the dump
and without drgn."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import Answer, ask
from conftest import Dump, dump_id, traps

from drgn_pageowner.analysis.owners.group import GROUP_KEYS
from drgn_pageowner.storage import container
from drgn_pageowner.storage.container import Container
from drgn_pageowner.storage.session import SnapshotSession, open_snapshots

pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")

Saved = Callable[[Dump], Path]


@pytest.fixture(scope="session")
def trap_dump(dump_named: Callable[[str], Dump]) -> Dump:
    return dump_named("linux-6.12/traps")


QUESTIONS = (
    "info --format json",
    "info",
    "list --format json",
    "list --format debugfs",
    "list --freed --format csv --order 0 --limit 3000",
    *(f"top --by {key} --limit 0 --format json" for key in GROUP_KEYS if key != "tag"),
    "top --freed --by stack,order --sort=-oldest --limit 0 --format json",
    "top --format folded --by stack,comm --weight allocations",
    "account --format json",
    "account --zones --caches",
    "frag all --order 9 --format json",
    "frag culprits --by allocator --sort only --limit 0 --format json",
    "frag --explain {block} --format json",
    "leaks --suspects --format json",
    "leaks --format json",
    "leaks --all --slab --format json",
    "report --format json",
)


def _named_alike(answer: Answer, text: str) -> Answer:
    """Return *answer* with the file name that is in *text*, because a report contains the name of
    its input."""
    name = re.search(r'^ "dump": .*$', text, re.MULTILINE)
    if name is None:
        return answer
    status, out, err = answer
    return status, re.sub(r'^ "dump": .*$', lambda _: name.group(), out, flags=re.MULTILINE), err


@pytest.mark.parametrize("get", traps(), ids=dump_id)
def test_a_snapshot_answers_as_the_dump_does(
    get: Callable[[], Dump], saved: Saved, live: Any
) -> None:
    dump = get()
    snapshot = SnapshotSession(str(saved(dump)))
    facts = dump.snapshot.facts
    # Memory may begin at another PFN than 0.
    block = (facts.min_low_pfn >> facts.pageblock_order) + 20
    for question in (text.format(block=block) for text in QUESTIONS):
        status, out, err = ask(snapshot, question)
        assert (status, out, err) == _named_alike(ask(live(dump), question), out), question
        # Linux 5.10 has no task names and no times.
        if "ts_nsec" in dump.snapshot or status == 0:
            assert (status, err) == (0, ""), question
        else:
            assert (status, out) == (2, ""), question
            assert "does not record" in err


def test_a_snapshot_saved_again_is_the_same_file(
    trap_dump: Dump, saved: Saved, tmp_path: Path
) -> None:
    again = tmp_path / "again.parquet"
    assert ask(SnapshotSession(str(saved(trap_dump))), f"save --leaks {again}")[0] == 0
    assert again.read_bytes() == saved(trap_dump).read_bytes()


@pytest.fixture
def many_groups(
    trap_dump: Dump, live: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a snapshot whose tables and records are in many pieces, as those of large machines
    are."""
    monkeypatch.setattr(container, "_ROWS", 2000)
    monkeypatch.setattr(container, "_LEAST_ROWS", 1000)
    monkeypatch.setattr(container, "_BATCH", 10_000)
    monkeypatch.setattr(container, "_LARGE", 0)
    path = tmp_path / "many.parquet"
    assert ask(live(trap_dump), f"save --leaks {path}")[::2] == (0, "")
    return path


def test_a_snapshot_in_many_pieces_answers_the_same(
    trap_dump: Dump, saved: Saved, many_groups: Path
) -> None:
    whole, pieces = SnapshotSession(str(saved(trap_dump))), SnapshotSession(str(many_groups))
    parts = [*pieces.record_parts(None, freed=True)]
    assert len(parts) > 10
    pfn, allocated = (
        np.concatenate([part[name] for part in parts]) for name in ("pfn", "allocated")
    )
    # Records of freed pages are in their places among the others.
    assert (np.diff(pfn) >= 0).all()
    assert np.count_nonzero(np.diff(allocated.astype(np.int8))) > 100
    questions = (*QUESTIONS, "top --slab", "account --slab", "list --limit 5", "leaks --slab")
    for question in (text.format(block=20) for text in questions):
        status, out, err = ask(whole, question)
        assert (status, out, err) == _named_alike(ask(pieces, question), out), question
    row = int(np.flatnonzero(~allocated)[0])
    for page in (*pfn[:: len(pfn) // 20].tolist(), int(pfn[row]), int(pfn[row]) + 1):
        assert ask(pieces, f"page pfn:{page}") == ask(whole, f"page pfn:{page}")


def test_a_page_of_a_snapshot_is_found_without_reading_all_records(
    many_groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = SnapshotSession(str(many_groups))
    every = sum(map(len, session.record_parts(("pfn",), freed=True)))
    read: list[int] = []
    record_columns = container.record_columns

    def counted(columns: Mapping[str, Any]) -> Mapping[str, Any]:
        read.append(len(columns["pfn"]))
        return record_columns(columns)

    monkeypatch.setattr(container, "record_columns", counted)
    assert ask(session, "page --quick pfn:0x3000")[0] == 0
    assert 0 < sum(read) < every / 3


def test_a_triage_of_a_snapshot_reads_it_once(
    many_groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: Counter[str] = Counter()
    pieces, record_parts = Container.pieces, Container.record_parts

    def counted(self: Container, name: str, columns: Any = None) -> Any:
        tables[name] += 1
        return pieces(self, name, columns)

    def counted_parts(self: Container, names: Any, **more: Any) -> Any:
        tables["records"] += 1
        return record_parts(self, names, **more)

    monkeypatch.setattr(Container, "pieces", counted)
    monkeypatch.setattr(Container, "record_parts", counted_parts)
    directory = tmp_path / "triage"
    assert ask(SnapshotSession(str(many_groups)), f"triage {directory}")[0] == 3
    # All parts share what one of them read; the snapshot and info need other columns.
    assert tables["page_uses"] == tables["leaks"] == 1
    assert tables["pages"] <= 3
    assert tables["records"] <= 4


def test_what_a_summary_does_not_need_is_not_read(
    many_groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: set[str] = set()
    pieces = Container.pieces

    def noted(self: Container, name: str, columns: Any = None) -> Any:
        tables.add(name)
        return pieces(self, name, columns)

    monkeypatch.setattr(Container, "pieces", noted)
    session = SnapshotSession(str(many_groups))
    for question in ("top", "list --limit 3 --format json", "info"):
        assert ask(session, question)[0] == 0
    assert not tables & {"pages", "page_uses", "leaks", "slab_objects"}
    assert ask(session, "top --slab")[0] == 0
    assert "pages" not in tables


@pytest.mark.one_of_a_kernel
def test_a_snapshot_is_small(dump: Dump, saved: Saved) -> None:
    size = dump.snapshot.facts.layout["page_ext_size"] * dump.snapshot.coverage["covered"]
    # With few pages, the fixed size of the file is a larger share.
    assert saved(dump).stat().st_size * (10 if dump.bundled else 5) <= size


@pytest.mark.parametrize(
    "name, state", [("linux-6.12-noowner/kdump", "absent"), ("linux-5.10/owner-off", "off")]
)
def test_what_a_kernel_without_records_has_is_saved(
    dump_named: Callable[[str], Dump], live: Any, tmp_path: Path, name: str, state: str
) -> None:
    dump, path = dump_named(name), tmp_path / "saved.parquet"
    status, _, problems = ask(live(dump), f"save {path}")
    assert status == 0
    assert "records could not be saved: " in problems
    snapshot = SnapshotSession(str(path))
    assert snapshot.facts().page_owner == state
    for question in ("info --format json", "account --format json", "frag all --order 3", "top"):
        assert ask(snapshot, question) == ask(live(dump), question), question


def test_drgn_is_not_needed(trap_dump: Dump, saved: Saved, tmp_path: Path) -> None:
    path = saved(trap_dump)
    code = "import sys\nsys.modules['drgn'] = None\nfrom drgn_pageowner.cli import main\n"
    for number, command in enumerate(
        (["top", "--format", "json"], ["account"], ["leaks"], ["frag"], ["page", "pfn:0x2000"])
    ):
        code += f"assert main(['-S', {str(path)!r}, *{command}]) == 0, {number}\n"
    code += f"assert main(['-c', {str(path)!r}, 'top']) == 1\n"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(trap_dump.run("top", "--format", "json", check=True).stdout)
    [line] = result.stderr.splitlines()
    assert "drgn is not installed: only a snapshot (-S) can be read" in line


@pytest.mark.parametrize("command", ["why pfn:0x2000", "refs pfn:0x2000", "top --source"])
def test_what_only_memory_knows_is_said_in_one_line(
    trap_dump: Dump, saved: Saved, command: str
) -> None:
    status, out, err = ask(SnapshotSession(str(saved(trap_dump))), command)
    assert (status, out) == (1, "")
    [line] = err.splitlines()
    assert str(saved(trap_dump)) in line


def test_leaks_and_source_lines_are_saved_on_demand(
    one_dump: Dump, live: Any, tmp_path: Path
) -> None:
    path = tmp_path / "source.parquet"
    assert ask(live(one_dump), f"save --source {path}")[0] == 0
    snapshot = SnapshotSession(str(path))
    question = "top --limit 3 --source --format json"
    answer = ask(snapshot, question)
    assert answer == ask(live(one_dump), question)
    assert ".c:" in answer[1]
    status, _, err = ask(snapshot, "leaks")
    assert status == 1
    assert "save it with --leaks" in err


def test_a_saved_search_is_not_done_again_without_types(trap_dump: Dump, saved: Saved) -> None:
    snapshot = SnapshotSession(str(saved(trap_dump)))
    status, out, err = ask(snapshot, "leaks --no-types")
    assert (status, out) == ask(snapshot, "leaks")[:2]
    assert "without" in err
    assert "without" not in ask(snapshot, "leaks")[2]


def test_several_snapshots_are_for_commands_that_read_several(
    trap_dump: Dump, dump_named: Callable[[str], Dump], saved: Saved
) -> None:
    paths = [saved(trap_dump), saved(dump_named("linux-5.10/kdump"))]
    several = open_snapshots([str(path) for path in paths])
    assert list(several.members()) == [str(path) for path in paths]
    status, _, err = ask(several, "top")
    assert status == 2
    assert "2 snapshots: this command reads one at a time" in err
    pattern = str(paths[0].parent / "linux-*.parquet")
    assert set(open_snapshots([pattern]).members()) >= {str(path) for path in paths}


def test_a_page_is_described_as_far_as_it_is_known(
    trap_dump: Dump, saved: Saved, live: Any
) -> None:
    snapshot, everything = SnapshotSession(str(saved(trap_dump))), trap_dump.snapshot
    chosen = np.flatnonzero(everything["allocated"])[::1500]
    pfns = [f"pfn:{pfn}" for pfn in (everything["pfn"] + everything.pages - 1)[chosen].tolist()]
    line = f"page --format json {' '.join(pfns)}"
    here, there = (ask(session, line)[1].splitlines() for session in (snapshot, live(trap_dump)))
    known = ("what", "kind", "pfn", "phys", "node", "zone", "pageblock", "pageblock_migratetype",
             "refcount", "head_pfn", "record", "no_record")  # fmt: skip
    assert len(here) == len(there) == len(chosen)
    for ours, theirs in zip(map(json.loads, here), map(json.loads, there), strict=True):
        assert [ours[name] for name in known] == [theirs[name] for name in known]
        assert "the dump alone" in ours["problems"][0]
    assert ask(snapshot, "page pfn:0x7fffffff")[0] == 1
    assert ask(snapshot, "page 0xffff888000000000")[0] == 2
