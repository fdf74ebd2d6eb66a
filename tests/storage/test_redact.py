# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test which names `save --redact` replaces, and which it keeps."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.kernel.read import record_parts
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.crash import Crash
from drgn_pageowner.model.heap import FileUse, Inventory, LeakSearch, LostObjects
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.pages import Memory
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.storage.container import Container
from drgn_pageowner.storage.redact import Redactor, redacted
from drgn_pageowner.storage.session import open_file

pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")

_OF_THE_KERNEL = {b"", b"swapper", b"kthreadd", b"kworker", b"kswapd", b"kcompactd", b"ksoftirqd",
                  b"migration", b"cpuhp", b"khugepaged", b"oom_reaper", b"kdevtmpfs", b"rcu_sched",
                  b"rcu_preempt", b"ksmd"}  # fmt: skip


@pytest.fixture(scope="module")
def dump(dump_named: Callable[[str], Dump]) -> Dump:
    return dump_named("linux-7.2/traps")


@pytest.fixture(scope="module")
def file(
    dump: Dump, live: Callable[[Dump], ProgramSession], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the redacted snapshot of a dump, with leaks."""
    folder = tmp_path_factory.mktemp("redact")
    (folder / "key").write_bytes(b"a key of the site")
    path = folder / "redacted.parquet"
    status, _, error = ask(live(dump), f"save --leaks --redact-key {folder / 'key'} -o {path}")
    assert (status, error) == (0, "")
    return path


def everything(path: Path) -> str:
    """Return all texts of a snapshot: names in tables, documents and the head."""
    import pyarrow.parquet as pq

    file = Container(str(path))
    texts: list[Any] = [file.head]
    for name in file.head["parts"]:
        try:
            texts.append(file.document(name))
        except Exception:
            table = file.table(name)
            texts.append({key: column for key, column in table.items()
                          if not isinstance(column, np.ndarray)})  # fmt: skip
    comms = pq.read_table(path, columns=["comm"]).column("comm").unique().to_pylist()
    return json.dumps(texts) + "\n".join(comm.decode() for comm in comms)


def test_no_name_of_the_site_is_left(dump: Dump, file: Path, saved: Any) -> None:
    text, before = everything(file), everything(saved(dump))
    every = {"worker-alpha", "worker-beta", "ld-linux-x86-64", "busybox", "insmod"}
    names = every & set(re.findall(r"[\w-]+", before))
    # Names of tasks that are not parts of names of functions, modules or caches.
    assert len(names) >= 3
    assert not names & set(re.findall(r"[\w-]+", text))
    redacted = open_file(str(file)).inventory()
    assert not redacted.command_lines
    assert redacted.files
    for one in redacted.files:
        assert one.path is None or re.fullmatch(r"file-[0-9a-f]{10}", one.path)
    # Names of cgroups, text of the log, and values of the command line.
    for name in ("/alpha", "/beta", "sysrq: Trigger a crash", "ttyS0", "po.work=traps"):
        assert name in before, name
        assert name not in text, name
    assert "page_owner=on" in text
    assert "crashkernel=96M" in text
    assert open_file(str(file)).crash().log == ()


def test_what_is_counted_stays(dump: Dump, file: Path, saved: Any) -> None:
    ours, theirs = open_file(str(file)), open_file(str(saved(dump)))
    for line in ("account --format json", "frag culprits --format json", "top --by allocator,order",
                 "top --by migratetype --format json"):  # fmt: skip
        assert ask(ours, line) == ask(theirs, line), line
    one, other = (session.snapshot(None, freed=True) for session in (ours, theirs))
    for name in one.columns:
        if name != "comm":
            assert np.array_equal(one[name], other[name]), name
    leaks = [json.loads(ask(session, "leaks --format json")[1]) for session in (ours, theirs)]
    assert leaks[0]["lost_pages"] == leaks[1]["lost_pages"] > 0
    assert [group["pages"] for group in leaks[0]["groups"]] == [
        group["pages"] for group in leaks[1]["groups"]
    ]


def test_equal_names_stay_equal(dump: Dump, file: Path, saved: Any) -> None:
    ours, theirs = (open_file(str(path)).snapshot(None, freed=True) for path in (file, saved(dump)))
    pairs = set(zip(ours["comm"].tolist(), theirs["comm"].tolist(), strict=True))
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})
    assert sum(one.startswith(b"task-") for one, _ in pairs) > 5
    kept = {one for one, other in pairs if one == other}
    assert b"swapper" in kept
    assert {one.rstrip(b"0123456789:/uH") for one in kept} <= _OF_THE_KERNEL
    redactor = Redactor(b"a key of the site")
    for one, other in pairs:
        assert redactor.task(other.decode()).encode() == one
    tasks = open_file(str(file)).inventory().tasks.values()
    assert {redactor.task("worker-alpha"), redactor.task("init")} & set(tasks)


def test_no_field_was_forgotten() -> None:
    """A new field may have names: RedactedSession must replace them before it is listed here."""
    known = {
        Inventory: "memory records record_of_row slabs areas metadata buffers modules tasks "
        "command_lines files counters stacks problems gaps",
        FileUse: "path filesystem inode pages",
        LeakSearch: "inventory records allocation role verdict pages_missing number_chance lost "
        "evidence recorded fingerprint fingerprints",
        LostObjects: "cache size verdict facts fingerprint fingerprints",
        Crash: "crash_time hardware cpus command_line task tainted taints oom log build_id",
        Facts: "release page_size max_page_order pageblock_order version hostname arch min_low_pfn "
        "max_pfn memory_model now_ns live panic_message log_read zones page_owner layout formats "
        "problems",
        Snapshot: "facts names columns stacks symbolizer memcgs coverage problems source_lines "
        "_frames tags",
    }
    for kind, names in known.items():
        assert [field.name for field in fields(kind)] == names.split(), kind


def test_a_key_of_its_own_each_time(dump: Dump, live: Any, tmp_path: Path) -> None:
    names = []
    for number in range(2):
        path = tmp_path / f"{number}.parquet"
        assert ask(live(dump), f"save --redact -o {path}")[0] == 0
        names.append(set(open_file(str(path)).snapshot(None)["comm"].tolist()))
    assert names[0] & names[1]
    assert not any(name.startswith(b"task-") for name in names[0] & names[1])


def test_a_dataset(dump: Dump, live: Any, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("duckdb")
    status, _, error = ask(live(dump), f"save --leaks --redact --dataset {tmp_path / 'set'}")
    assert (status, error) == (0, "")
    texts = []
    for path in (tmp_path / "set").rglob("*.parquet"):
        for row in pq.ParquetFile(path).read().to_pylist():
            texts.append(json.dumps(row, default=str))
    text = "\n".join(texts)
    for name in ("worker-alpha", "/alpha", "insmod", str(dump.vmcore), "ttyS0"):
        assert name not in text
    assert "task-" in text
    assert "(redacted)" in text


def test_a_key_that_is_none(dump: Dump, live: Any, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"secret")
    for path, words, wanted in (
        (short, "at least 16 bytes", 2), (tmp_path / "nothing", "No such file", 1),
    ):  # fmt: skip
        status, _, error = ask(live(dump), f"save --redact-key {path} -o {tmp_path / 'x'}")
        assert status == wanted
        assert words in error
    assert not (tmp_path / "x").exists()


def test_names_that_are_words() -> None:
    redactor = Redactor(b"key")
    one, host = redactor.task("sh"), redactor.host("web01")
    assert redactor.text("sh on web01: web01-old, push, sh.") == (
        f"{one} on {host}: web01-old, push, {one}."
    )
    assert len(one) == 15
    assert redactor.task("kworker/3:1") == "kworker/3:1"
    assert redactor.task("kworker/3:1-secret") != "kworker/3:1-secret"
    assert redactor.cgroup("/system.slice/nginx.service").startswith("/system.slice/cgroup-")
    assert redactor.cache("dentry(12:web)") == f"dentry(12:{redactor.cgroup('web')})"
    assert redactor.cache("kmalloc-64") == "kmalloc-64"
    assert redactor.of_a_task("stack of sh (pid 7)") == f"stack of {one} (pid 7)"
    assert redactor.of_a_task("po_leak") == "po_leak"
    line = redactor.command_line("ro quiet root=UUID=12 page_owner=on")
    assert re.fullmatch(r"ro quiet root=value-[0-9a-f]{10} page_owner=on", line)
    assert redactor.task("") == redactor.host("") == ""
    assert redactor.task("b\udcff") != redactor.task("b")


def test_records_are_redacted_some_at_a_time(
    dump_named: Callable[[str], Dump], live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = redacted(live(dump_named("linux-6.12/traps")), b"key")
    whole = session.snapshot(None, freed=True)
    monkeypatch.setattr(record_parts, "_ROWS", 1000)
    parts = list(session.record_parts(None, freed=True))
    assert len(parts) > 2
    assert np.array_equal(np.concatenate([part["comm"] for part in parts]), whole["comm"])
    paths = {memcg.path for part in parts for memcg in part.memcgs}
    assert paths == {memcg.path for memcg in whole.memcgs}
    last = parts[-1]
    assert (last.facts, last.problems, last.coverage) == (
        whole.facts,
        whole.problems,
        whole.coverage,
    )
    assert all(part.facts is last.facts for part in parts)


def test_what_is_not_used_any_more_is_let_go(dump_named: Callable[[str], Dump], live: Any) -> None:
    session = redacted(live(dump_named("linux-6.12/traps")), b"key")
    memory = session.memory(("flags",))

    def known() -> list[object]:
        return [one for one, _ in session._known.values() if isinstance(one, Memory)]

    assert len(known()) == 1
    del memory
    gc.collect()
    assert not known()
