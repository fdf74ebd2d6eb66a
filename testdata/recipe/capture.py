#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Prove that a snapshot can be saved on the machine that crashed: in its capture kernel.

    capture.py 7.2
    capture.py --work DIR --crashkernel 160 6.12

Builds the kernel (as recipe.py does; what is in --work is used again), and boots it under QEMU with
a root file system that has this Python and this package. The guest writes the layout pack of its
kernel, saves a redacted snapshot of itself (-k), and crashes. In its capture kernel, `save
--redact-key` reads /proc/vmcore, and then makedumpfile writes a dump of the same crash. The host
saves a snapshot of that dump, with the vmlinux, and compares what the two answer. Prints a line for
every comparison; the exit status is 1 if one fails. Needs what live.py needs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from live_check import Check
from live_image import make_root
from recipe import (
    RECIPE,
    TESTDATA,
    Guest,
    architecture,
    build_kernel,
    fetch_makedumpfile,
    fetch_tools,
    unflatten,
)

MEMORY_MB = 512
# With the AVX that QEMU 7.2 emulates, what NumPy finds is not complete: the cache of 37 slabs was
# unknown, also on the running kernel, and is known without AVX.
CPU = ["-cpu", "max,avx=off,avx2=off"]
KEY = b"the key of this recipe, not of a site"
QUESTIONS = (
    "list --format json", "top --format json", "top --by comm,memcg --format json",
    "account --format json", "frag culprits --format json", "frag buddyinfo", "frag pagetypeinfo",
    "list --freed --format json",
)  # fmt: skip
# What the guest's init has named.
NAMES = (b"busybox-orders", b"checkout.service", b"busybox-bills", b"web01.example.com")


def make_image(version: str, work: Path, build: Path, directory: Path) -> None:
    """Make the root file system, with what a guest needs to crash."""
    arch, tools = architecture(version), fetch_tools(version, work)

    def more(root: Path) -> None:
        shutil.copytree(tools / "kexec", root / "kexec")
        shutil.copytree(fetch_makedumpfile(version, work), root / "makedumpfile")
        shutil.copy(build / arch.image, root / "kernel")
        shutil.copy(RECIPE / "guest/measured.py", root / "live/measured.py")
        (root / "live/key").write_bytes(KEY)
        (root / "live/out").mkdir()

    make_root(
        build,
        directory / "vda",
        init="capture-init",
        busybox=tools / "busybox",
        extra="[parquet]",
        more=more,
    )


def crash(version: str, build: Path, directory: Path, crashkernel: int) -> None:
    """Boot the guest, which crashes; fetch what its capture kernel wrote."""
    arch = architecture(version)
    for disk, size in (("vdb", 1 << 28), ("vdc", 1 << 30)):
        with (directory / disk).open("wb") as file:
            file.truncate(size)
    cpu = CPU if arch.make == "x86_64" else []
    append = f"console={arch.console} panic=-1 root=/dev/vda rw init=/live/init loglevel=4 "
    append += f"page_owner=on log_buf_len=1M crashkernel={crashkernel}M"
    command = [
        *arch.qemu, *cpu, "-smp", "2,sockets=2", "-m", f"{MEMORY_MB}M", "-nographic",
        "-no-reboot", "-nodefaults", "-serial", "stdio",
        "-kernel", str(build / arch.image), "-append", append,
    ]  # fmt: skip
    for name in ("vda", "vdb", "vdc"):
        command += ["-drive", f"file={directory / name},format=raw,if=virtio,cache=unsafe"]
    # Where KASLR puts the kernel in the middle, there is no room for the capture kernel: again.
    for _ in range(5):
        guest = Guest(command, directory)
        done = guest.wait_for("capture: done", 3600)
        guest.end(30)
        if done:
            break
        if "no capture kernel" not in (directory / "console.log").read_text():
            sys.exit(f"the capture kernel did not finish: see {directory / 'console.log'}")
    out = directory / "out"
    shutil.rmtree(out, ignore_errors=True)
    with tarfile.open(directory / "vdb") as tar:
        tar.extractall(out, filter="data")
    unflatten(directory / "vdc", out / "vmcore")


def po(*words: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "drgn_pageowner", *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False, cwd=TESTDATA.parent)


def prove(version: str, work: Path, crashkernel: int) -> Iterator[Check]:
    build = build_kernel(version, work)
    directory = work / "capture" / version
    directory.mkdir(parents=True, exist_ok=True)
    make_image(version, work, build, directory)
    crash(version, build, directory, crashkernel)
    out = directory / "out"
    yield from compare(out, build)
    yield from memory(out)


def compare(out: Path, build: Path) -> Iterator[Check]:
    for name in ("live", "crash"):
        status = (out / f"{name}.status").read_text().strip()
        error = (out / f"{name}.err").read_text(errors="replace").strip()
        size = (out / f"{name}.parquet").stat().st_size
        yield Check(f"save, {name}", status == "0", f"status {status}, {size:,} bytes {error}")
    key = out / "key"
    key.write_bytes(KEY)
    there = out / "host.parquet"
    saved = po("-c", out / "vmcore", "-s", build / "vmlinux", "save", "--redact-key", key, there)
    yield Check("save, of the dump", saved.returncode == 0, saved.stderr.decode().strip())
    for question in QUESTIONS:
        one, other = (po("-S", path, *question.split()) for path in (out / "crash.parquet", there))
        good = one.stdout == other.stdout and one.returncode == other.returncode == 0
        yield Check(question, good and bool(one.stdout), f"{len(one.stdout):,} bytes, equal")
    dump = po("-c", out / "vmcore", "-s", build / "vmlinux", "top", "--by", "comm,memcg",
              "--limit", "0", "--format", "json")  # fmt: skip
    dump_facts = po("-c", out / "vmcore", "-s", build / "vmlinux", "info", "--format", "json")
    named = [name for name in NAMES if name in dump.stdout + dump_facts.stdout]
    yield Check("names in the dump", named == [*NAMES], b", ".join(named).decode())
    for name in ("live", "crash"):
        said = b"".join(
            po("-S", out / f"{name}.parquet", *words.split()).stdout
            for words in ("info --format json", "list --format json", "account --format json",
                          "top --by memcg,comm --format json")
        )  # fmt: skip
        left = [name for name in NAMES if name in said]
        yield Check(f"names in {name}.parquet", not left, f"{len(left)} of {len(NAMES)} left")


def memory(out: Path) -> Iterator[Check]:
    """What it took in the capture kernel; what was available before, and at least meanwhile."""
    for name in ("live", "crash"):
        rows = (out / f"{name}.memory").read_text().split()
        peaks = {rows[0]: int(rows[1]) >> 10, rows[2]: int(rows[3]) >> 10}
        before = dict(
            line.split(":") for line in (out / f"{name}.meminfo").read_text().splitlines()
        )
        available = int(before["MemAvailable"].split()[0]) >> 10
        low = min(
            int(line.split()[1]) >> 10
            for line in (out / f"{name}.available").read_text().splitlines()
        )
        text = f"{peaks['RssAnon']} MB that no file backs ({peaks['VmHWM']} MB with libraries); "
        text += f"{available} MB were available, at least {low} MB meanwhile"
        good = peaks["RssAnon"] <= 128 and (name == "live" or available <= 128 + low)
        yield Check(f"memory, {name}", good, text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kernel", nargs="+", help="kernels of dumps.toml, as 7.2")
    parser.add_argument("--work", type=Path, default=Path("testdata-work"), help="where to build")
    parser.add_argument("--crashkernel", type=int, default=152, help="MB of the capture kernel")
    args = parser.parse_args()
    if find_spec("drgn") is None:
        parser.error("this Python has no drgn: make .venv/installed, and take .venv/bin/python")
    bad = 0
    for version in args.kernel:
        for result in prove(version, args.work.resolve(), args.crashkernel):
            verdict = "ok " if result.good else "BAD"
            print(f"{version} {verdict} {result.name}: {result.text}", flush=True)
            bad += not result.good
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
