# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test ingesting good and bad dumps: locally, on a scheduler with two workers, and from S3."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Dump

from drgn_pageowner.cli import main
from drgn_pageowner.fleet.ingest import _complete, _local_cluster

# Imported where it is used, which takes a second, and all tests are collected several times.
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        find_spec("distributed") is None or find_spec("duckdb") is None,
        reason="fleet ingest needs dask.distributed (the extra fleet), and sql duckdb",
    ),
]

QUESTION = "select sum(pages)::bigint pages from records where allocated and snapshot = '{}'"


def fleet(*args: object) -> tuple[int, dict[str, Any]]:
    """Run `fleet ingest`; return its exit status and what it prints as JSON."""
    out, words = io.StringIO(), [*map(str, args), "--format", "json"]
    with contextlib.redirect_stdout(out):
        status = main(["fleet", "ingest", *words])
    return status, json.loads(out.getvalue())


def sql(dataset: object, query: str) -> list[dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["-S", str(dataset), "sql", "--format", "json", query]) == 0
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)


@pytest.fixture(scope="module")
def data(dump_named: Callable[[str], Dump]) -> bytes:
    return dump_named("linux-6.12/kdump").vmcore.read_bytes()


@pytest.fixture
def symbols(dump_named: Callable[[str], Dump]) -> Path:
    return dump_named("linux-6.12/kdump").vmlinux.parent


def at(data: bytes, seconds: int) -> bytes:
    """Return *data* with a time of the crash some *seconds* later."""
    return re.sub(
        rb"CRASHTIME=(\d+)", lambda m: b"CRASHTIME=%d" % (int(m[1]) + seconds), data, count=1
    )


@pytest.fixture
def dumps(tmp_path: Path, data: bytes) -> Path:
    folder = tmp_path / "dumps"
    unknown = re.sub(rb"BUILD-ID=.", b"BUILD-ID=f", data, count=1)
    for name, contents in {
        "good": data, "later": at(data, 1), "copy": data, "unknown": unknown,
        "cut": data[: 1 << 20], "text": b"KDUMP    is what this says",
    }.items():  # fmt: skip
        (folder / name).mkdir(parents=True)
        (folder / name / "vmcore").write_bytes(contents)
    (folder / "notes.txt").write_text("no dump")
    return folder


def test_good_and_bad_dumps(
    tmp_path: Path, dumps: Path, data: bytes, symbols: Path, dump_named: Callable[[str], Dump],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    dataset = tmp_path / "fleet"
    arguments = (dumps, "--symbols-store", symbols, "-o", dataset, "--no-leaks")
    status, said = fleet(*arguments)
    err = capsys.readouterr().err
    assert status == 1
    assert said["dumps"] == 6
    assert said["statuses"]["ok"] + said["statuses"].get("present", 0) == 3
    failed = {Path(run["dump"]).parent.name: run for run in said["failed"]}
    assert {name: run["status"] for name, run in failed.items()} == {
        "unknown": "no symbols", "cut": "failed", "text": "no symbols",
    }  # fmt: skip
    assert failed["unknown"]["status"] == "no symbols"
    assert failed["unknown"]["build_id"].startswith("f")
    assert failed["cut"]["attempts"] == 2
    assert all(run["reason"] and run["dump"] in err for run in failed.values())

    rows = sql(dataset, "select snapshot, count(*) n from records group by all")
    assert len(rows) == 2
    whole = dump_named("linux-6.12/kdump").snapshot
    kept = int(whole.pages[whole["allocated"]].sum())
    for row in rows:
        assert sql(dataset, QUESTION.format(row["snapshot"])) == [{"pages": kept}]
    runs = sql(dataset, "select status, count(*) n from runs group by all")
    assert {row["status"]: row["n"] for row in runs}["ok"] == 2

    # Later dumps of the kernel need no vmlinux, because the first one has written the layout pack.
    layouts = {row["symbols"] for row in sql(dataset, "select symbols from runs where attempts")}
    assert [Path(path).parent.name for path in layouts] == ["layouts"]
    newest = tmp_path / "newest"
    newest.write_bytes(at(data, 2))
    assert fleet(newest, "-o", dataset, "--no-leaks")[0] == 0
    assert len(sql(dataset, "select distinct snapshot from records")) == 3

    # Dumps in the dataset are skipped, and failed ones are not tried again.
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("records/**/*.parquet")}
    status, again = fleet(*arguments)
    assert status == 1
    assert again["statuses"]["present"] == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "--retry-failed" in capsys.readouterr().err

    # If an ingest was killed before it wrote the table "runs", the next one adds the row.
    [noted] = [p for p in dataset.glob("runs/*/*/*.parquet") if p.stem == rows[0]["snapshot"]]
    noted.unlink()
    assert fleet(*arguments)[1]["statuses"]["present"] == 3
    assert noted.exists()


@pytest.mark.thorough
def test_limits_of_time_and_memory(tmp_path: Path, dumps: Path, symbols: Path) -> None:
    for options, status in ((("--timeout", "0.2"), "timeout"), (("--memory", "20M"), "memory")):
        dataset = tmp_path / status
        arguments = (dumps / "good/vmcore", "--symbols-store", symbols, "-o", dataset)
        code, said = fleet(*arguments, *options)
        assert (code, said["statuses"]) == (1, {status: 1})
        assert said["failed"][0]["attempts"] == 2
        assert "more than" in said["failed"][0]["reason"]
    assert fleet(*arguments, "--retry-failed")[1]["statuses"] == {"ok": 1}


@pytest.mark.thorough
def test_a_worker_that_is_killed_while_it_starts_is_replaced() -> None:
    import distributed

    with _local_cluster(distributed, 1) as cluster, distributed.Client(cluster) as client:
        # dask starts a worker that was killed again, and gives up if that is killed, too.
        for _ in range(600):
            for child in multiprocessing.active_children():
                child.kill()
            if not cluster.workers:
                break
            time.sleep(0.1)
        assert not cluster.workers
        with _complete(cluster, 0.1):
            assert client.submit(len, "four").result(timeout=120) == 4


@contextlib.contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dask", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_scheduler_and_two_workers(tmp_path: Path, dumps: Path, symbols: Path) -> None:
    file = tmp_path / "scheduler.json"
    told = ("--scheduler-file", str(file))
    with running("scheduler", "--port", "0", "--no-dashboard", *told):
        for _ in range(600):
            if file.exists() and file.stat().st_size:
                break
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        worker = ("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", *told)
        local = ("--local-directory", str(tmp_path))
        with running(*worker, *local), running(*worker, *local):
            status, said = fleet(
                dumps / "good/vmcore", dumps / "later/vmcore", "--symbols-store", symbols,
                "-o", tmp_path / "fleet", "--scheduler", address, "--no-leaks",
            )  # fmt: skip
    assert (status, said["statuses"]) == (0, {"ok": 2})
    rows = sql(tmp_path / "fleet", "select worker, count(*) n from runs group by all")
    assert sum(row["n"] for row in rows) == 2


def test_no_scheduler_is_one_line(
    tmp_path: Path, dumps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    import distributed

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr(distributed, "Client", refuse)
    words = ["fleet", "ingest", str(dumps), "-o", str(tmp_path / "x"), "--scheduler", "tcp://x:1"]
    assert main(words) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "no dask scheduler answers at tcp://x:1" in line


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a client of an S3 server on this machine."""
    moto = pytest.importorskip("moto.server", reason="an object store to test with needs moto")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    try:
        yield boto3.client("s3", endpoint_url=url)
    finally:
        server.stop()


def test_dumps_and_dataset_in_an_object_store(
    s3: Any, data: bytes, symbols: Path, dump_named: Callable[[str], Dump], saved: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    s3.create_bucket(Bucket="dumps")
    s3.create_bucket(Bucket="fleet")
    s3.put_object(Bucket="dumps", Key="today/web1/vmcore", Body=data)
    s3.put_object(Bucket="dumps", Key="today/web2/vmcore", Body=at(data, 1))
    s3.put_object(Bucket="dumps", Key="today/notes.txt", Body=b"no dump")
    dataset = "s3://fleet/all"
    arguments = ("s3://dumps/today", "--symbols-store", symbols, "-o", dataset, "--no-leaks")
    status, said = fleet(*arguments)
    assert (status, said["statuses"]) == (0, {"ok": 2}), capsys.readouterr().err
    # A snapshot file can be added to the dataset, too.
    other = saved(dump_named("linux-5.10/kdump"))
    assert main(["-S", str(other), "save", "--dataset", dataset]) == 0
    capsys.readouterr()
    rows = sql(dataset, "select source, release from meta order by source")
    assert [row["release"] for row in rows] == ["5.10.262", "6.12.107", "6.12.107"]
    assert [row["source"] for row in rows[1:]] == [
        f"s3://dumps/today/web{number}/vmcore" for number in (1, 2)
    ]
    whole = dump_named("linux-6.12/kdump").snapshot
    kept = int(whole.pages[whole["allocated"]].sum())
    query = (
        "select sum(pages)::bigint pages from records join meta using (snapshot) "
        "where allocated and source like '%web2%'"
    )
    assert sql(dataset, query) == [{"pages": kept}]
    assert fleet(*arguments)[1]["statuses"] == {"present": 2}
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket="fleet")["Contents"]]
    assert not [key for key in keys if os.path.basename(key).startswith(".")]


def test_an_object_store_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert main(["-S", "s3://fleet/all", "sql", "select 1"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "s3://fleet/all" in line
