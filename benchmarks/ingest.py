# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Test that an ingest loses no dump, with many dumps, some of them bad, and with killed processes.

  python benchmarks/ingest.py DIRECTORY --dumps 200 --kills 20 --restarts 2
  python benchmarks/ingest.py DIRECTORY --dumps 200 --cluster 2      on a scheduler with two workers
  python benchmarks/ingest.py DIRECTORY --rate 8,32 --workers 1,2    dumps a minute, without kills

Each copy of a bundled dump gets its own crash time. Some copies are cut off, some have no symbols,
some are not dumps, and some are duplicates; for some, the process hangs, or uses all memory (by a
sitecustomize.py of this script). While they are ingested, workers are killed at random, and the
ingest itself is killed and started again. In the end every dump has to be in the dataset exactly
once, or among the runs with its reason.

With --rate, good dumps are ingested undisturbed. The time for more dumps less that for few, divided
by their number, is the time for one; the rest of the time is that until the workers have started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "testdata/.cache"
KERNELS = (
    "linux-5.10/kdump", "linux-6.1/kdump", "linux-6.12/kdump", "linux-7.2/kdump",
    "linux-6.12-arm64/kdump", "linux-6.12-i386/traps", "linux-6.12-noowner/kdump",
    "linux-7.2-arm64-16k/kdump",
)  # fmt: skip
SITECUSTOMIZE = """
import sys, time
words = " ".join(sys.orig_argv)
if "--core" in words and "-hangs/" in words:
    time.sleep(3600)
if "--core" in words and "-greedy/" in words:
    hoard = []
    while True:
        hoard.append(bytearray(64 << 20))
        hoard[-1][::4096] = b"x" * len(hoard[-1][::4096])
        time.sleep(0.05)
"""
# Number of dumps of each kind in every 50; the rest are good.
BAD = {"cut": 3, "unknown": 3, "nodump": 2, "same": 2, "hangs": 1, "greedy": 1}
EXPECTED = {
    "good": {"ok"}, "same": {"ok"}, "cut": {"ok", "failed"}, "unknown": {"no symbols"},
    "nodump": {"unreadable"}, "hangs": {"timeout"}, "greedy": {"memory"},
}  # fmt: skip


def kinds(number: int) -> list[str]:
    """Return the kind of defect of each of *number* dumps."""
    fifty = [kind for kind, times in BAD.items() for _ in range(times)]
    fifty += ["good"] * (50 - len(fifty))
    random.shuffle(fifty)
    return [fifty[place % 50] for place in range(number)]


def make(directory: Path, kinds: list[str]) -> dict[str, str]:
    """Write a dump of each of *kinds*; return path -> kind of defect."""
    result: dict[str, str] = {}
    first_good: bytes | None = None
    for place, kind in enumerate(kinds):
        name = KERNELS[place % len(KERNELS)]
        data = (CACHE / name / "vmcore").read_bytes()
        stamp = re.search(rb"CRASHTIME=(\d+)\n", data)
        assert stamp is not None
        length = len(stamp.group(1))
        text = str(int(stamp.group(1)) + 1 + place).zfill(length)[-length:].encode()
        if length < 4:
            # The dump of a virtual machine without a clock has few digits for the time; use all of
            # them.
            text = str(place % 10**length).zfill(length).encode()
        data = data.replace(stamp.group(), b"CRASHTIME=" + text + b"\n")
        if kind == "cut":
            data = data[: len(data) * random.randrange(20, 95) // 100]
        elif kind == "unknown":
            data = re.sub(rb"BUILD-ID=(.)", lambda m: b"BUILD-ID=" + bytes([m[1][0] ^ 1]), data)
        elif kind == "nodump":
            data = random.randbytes(1 << 16)
        elif kind == "same" and first_good is not None:
            data = first_good
        elif kind in ("good", "same") and first_good is None:
            first_good = data
        path = directory / f"{place:04}-{kind}" / "vmcore"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        result[str(path)] = kind
    return result


def workers_of(parents: list[int]) -> list[int]:
    """Return the workers among the children of some processes, without others of dask."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent in parents and b"spawn_main" in command:
            found.append(int(entry.name))
    return found


class Cluster:
    """A scheduler of dask, and workers; each worker has a process that starts it again."""

    def __init__(self, directory: Path, number: int, environment: dict[str, str]) -> None:
        self._directory, self._environment = directory, environment
        self._file = directory / "scheduler.json"
        self._scheduler = self._start("scheduler", "--port", "0")
        while not (self._file.exists() and self._file.stat().st_size):
            time.sleep(0.1)
        self.options = ["--scheduler", json.loads(self._file.read_text())["address"]]
        self._workers = [self._worker(place) for place in range(number)]

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", name, "--no-dashboard", *words]
        return subprocess.Popen(
            [*command, "--scheduler-file", str(self._file)],
            env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _worker(self, place: int) -> subprocess.Popen[bytes]:
        scratch = str(self._directory / f"worker-{place}")
        return self._start("worker", "--nthreads", "1", "--memory-limit", "0",
                           "--local-directory", scratch)  # fmt: skip

    def parents(self) -> list[int]:
        """Return the processes that start workers; those that gave up are replaced."""
        for place, process in enumerate(self._workers):
            # It ends if its worker is killed while it starts.
            if process.poll() is not None:
                self._workers[place] = self._worker(place)
        return [process.pid for process in self._workers]

    def close(self) -> None:
        for process in (*self._workers, self._scheduler):
            process.terminate()
            process.wait()


def rate(directory: Path, sizes: list[int], workers: list[int]) -> int:
    """Print how many good dumps a minute each number of workers ingests."""
    for number in workers:
        seconds = []
        for size in sizes:
            shutil.rmtree(directory, ignore_errors=True)
            make(directory / "dumps", ["good"] * size)
            command, environment = ingest(directory, ["--jobs", str(number)])
            start = time.monotonic()
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            seconds.append(time.monotonic() - start)
            assert json.loads(done.stdout)["statuses"] == {"ok": size}
        each = (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])
        print(f"{number} workers: " + ", ".join(
            f"{size} dumps in {taken:.1f} s" for size, taken in zip(sizes, seconds, strict=True)
        ) + f": {60 / each:.0f} a minute after {seconds[0] - each * sizes[0]:.1f} s")  # fmt: skip
    return 0


def ingest(directory: Path, options: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the command that ingests the dumps in *directory*, and its environment."""
    (directory / "site").mkdir(exist_ok=True)
    (directory / "site/sitecustomize.py").write_text(SITECUSTOMIZE)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(directory / "site"), os.environ.get("PYTHONPATH")))
        ),
        "XDG_CACHE_HOME": str(directory / "cache"),
    }
    command = [
        sys.executable, "-m", "drgn_pageowner", "fleet", "ingest",
        str(directory / "dumps/*/vmcore"), "-o", str(directory / "dataset"),
        "--symbols-store", str(CACHE), "--format", "json", *options,
    ]  # fmt: skip
    return command, environment


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dumps", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20, help="workers to kill")
    parser.add_argument(
        "--every", type=float, default=10, help="a worker is killed every so many seconds"
    )
    parser.add_argument("--restarts", type=int, default=2, help="times to kill the ingest itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", default="", help="more options of fleet ingest")
    parser.add_argument(
        "--cluster", type=int, default=0, metavar="N",
        help="start a scheduler and N workers, and ingest with them",
    )  # fmt: skip
    parser.add_argument("--rate", type=numbers, metavar="FEW,MANY", help="print dumps a minute")
    parser.add_argument("--workers", type=numbers, default=[1, 2], metavar="N,N")
    args = parser.parse_args()
    random.seed(args.seed)
    if args.rate:
        return rate(args.directory, args.rate, args.workers)
    dumps = args.directory / "dumps"
    shutil.rmtree(args.directory, ignore_errors=True)
    made = make(dumps, kinds(args.dumps))
    command, environment = ingest(args.directory, args.options.split())
    if not args.cluster:
        return disturbed(command, environment, args, made)
    with contextlib.closing(Cluster(args.directory, args.cluster, environment)) as cluster:
        return disturbed([*command, *cluster.options], environment, args, made, cluster)


def disturbed(
    command: list[str],
    environment: dict[str, str],
    args: argparse.Namespace,
    made: dict[str, str],
    cluster: Cluster | None = None,
) -> int:
    """Ingest while processes are killed, and check the dataset; return the exit status."""
    dataset = args.directory / "dataset"
    start, killed, status = time.monotonic(), 0, None
    for turn in range(args.restarts + 1):
        last = turn == args.restarts
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            goal = args.dumps * (turn + 1) // (args.restarts + 1)
            while (status := process.poll()) is None:
                time.sleep(random.uniform(0.2, 1.8) * args.every)
                parents = cluster.parents() if cluster is not None else [process.pid]
                if killed < args.kills and (pids := workers_of(parents)):
                    os.kill(random.choice(pids), signal.SIGKILL)
                    killed += 1
                there = len(list(dataset.glob("runs/*/*/*.parquet")))
                if not last and there >= goal:
                    process.kill()
                    process.wait()
                    print(f"killed the ingest after {there} dumps, and {killed} workers so far")
            output = process.stdout.read() if process.stdout is not None else b""
    print(f"{args.dumps} dumps, {killed} workers killed, {time.monotonic() - start:.0f} s")
    summary = json.loads(output)
    print({name: value for name, value in summary.items() if name != "failed"})

    wrong = check(dataset, made)
    print("\n".join(wrong) if wrong else "every dump is there exactly once, or failed for a reason")
    return 1 if wrong or status not in (0, 1) else 0


def check(dataset: Path, made: dict[str, str]) -> list[str]:
    """Compare the dataset with the expected outcome of each dump in *made*."""
    import duckdb

    rows = duckdb.sql(f"select dump, status, reason from '{dataset}/runs/*/*/*.parquet'").fetchall()
    told = {dump: (state, reason) for dump, state, reason in rows}
    wrong = [f"{d} is told of twice" for d, n in Counter(d for d, *_ in rows).items() if n > 1]
    done: Counter[str] = Counter()
    for dump, kind in made.items():
        state, reason = told.get(dump, ("missing", None))
        done[f"{kind}: {state}"] += 1
        # Only one of several equal dumps is listed.
        if state == "missing" and kind in ("same", "good"):
            continue
        if state not in EXPECTED[kind] or (state != "ok" and not reason):
            wrong.append(f"{dump}: {state} ({reason})")
    same = [kind for kind in made.values() if kind in ("good", "same")]
    if len(made) - len(told) != same.count("same") - (same[0] == "same"):
        wrong.append(f"{len(made) - len(told)} dumps are not told of")
    ok = sum(state == "ok" for state, _ in told.values())
    for table in ("meta", "records", "pages"):
        files = duckdb.sql(
            f"select snapshot, count(distinct filename) n from "
            f"read_parquet('{dataset}/{table}/*/*/*.parquet', filename = true) group by all"
        ).fetchall()
        few = len(files) != ok if table == "meta" else len(files) > ok
        if few or any(number != 1 for _, number in files):
            wrong.append(f"{table} has {len(files)} snapshots, and {ok} dumps were read")
    print(dict(sorted(done.items())))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
