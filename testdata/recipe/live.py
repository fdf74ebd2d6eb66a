#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Test reading a running kernel, from inside the guest and from its host.

    live.py 6.12 7.2
    live.py --work DIR 6.12

Builds each kernel (as recipe.py does; what is in --work is used again) and a root file system with
this Python and this package, boots it under QEMU, runs the commands in it with -k and on the host
with --qemu, and compares their output with the kernel's own files, read just before and after.
Prints a line for every comparison; the exit status is 1 if one fails. Needs what recipe.py needs,
and the package in this Python; no root, no KVM.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import live_check as check
from live_image import make_root
from recipe import TESTDATA, Guest, architecture, build_kernel

MEMORY_MB = 768
OWNER = "/sys/kernel/debug/page_owner"
# 128 pages a second, and pages that come and go.
DRIP = "insmod /modules/po_drip.ko rate=16 order=1 period_ms=250 total=16000 noise=100"
WATCH = "watch --interval 5 --count 2 --format json"


class LiveGuest(Guest):
    """A guest that runs shell commands, and stores their output in files."""

    number = 0

    def do(self, line: str, seconds: float = 3600) -> int:
        """Run a shell command in the guest; return its status."""
        print(f"{time.strftime('%T')} guest: {line}", file=sys.stderr, flush=True)
        self.answer(line + "\n")
        if not self.wait_for("done:", seconds):
            sys.exit(f"the guest did not answer: see {self.log.name}")
        return int(self.line.rpartition(":")[2])

    def po(self, name: str, arguments: str) -> int:
        """Run our command line in the guest, with its output in the files NAME and NAME.err."""
        return self.do(f"po {arguments} > {name} 2> {name}.err")


class Host:
    """Runs our command line on the host, on the running guest."""

    def __init__(self, guest: LiveGuest, build: Path, out: Path) -> None:
        self._options = ["--qemu", guest.monitor_path, "-s", build / "vmlinux"]
        self._out = out

    def po(self, name: str, arguments: str) -> int:
        command = [sys.executable, "-m", "drgn_pageowner", *self._options, *arguments.split()]
        print("+", *command, file=sys.stderr, flush=True)
        with (self._out / name).open("wb") as out, (self._out / f"{name}.err").open("wb") as err:
            return subprocess.run(
                list(map(str, command)), stdout=out, stderr=err, cwd=TESTDATA.parent, check=False
            ).returncode


def boot(version: str, build: Path, directory: Path) -> LiveGuest:
    arch = architecture(version)
    with (directory / "vdb").open("wb") as disk:
        disk.truncate(1 << 30)
    append = f"console={arch.console} panic=-1 {arch.fw_cfg} root=/dev/vda rw init=/live/init "
    append += "page_owner=on cma=32M numa=fake=2U loglevel=4 log_buf_len=1M"
    command = [
        *arch.qemu, "-smp", "2,sockets=2", "-m", f"{MEMORY_MB}M",
        "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-device", "vmcoreinfo",
        "-kernel", str(build / arch.image), "-append", append,
    ]  # fmt: skip
    for name in ("vda", "vdb"):
        command += ["-drive", f"file={directory / name},format=raw,if=virtio,cache=unsafe"]
    guest = LiveGuest(command, directory)
    if not guest.wait_for("live: ready", 300):
        sys.exit(f"the guest did not boot: see {directory / 'console.log'}")
    return guest


def inside(guest: LiveGuest) -> dict[str, tuple[int, int]]:
    """Run the commands in the guest, between two readings of the kernel's files."""
    status: dict[str, tuple[int, int]] = {}

    def between(name: str, path: str, arguments: str) -> None:
        guest.do(f"cat {path} > {name}.before")
        status[name] = guest.po(name, arguments), 0
        guest.do(f"cat {path} > {name}.after")

    guest.do("insmod /modules/po_holder.ko")
    status["info"] = guest.po("info", "info --format json"), 0
    guest.do("clock > clock")
    between("list", OWNER, "list --format debugfs")
    # Leave out the memory of the reader itself, because the kernel's counts are from before its
    # start and after its end.
    guest.do("clock > top-clock")
    until = "--until $(cat top-clock)"
    between("top", f"{OWNER}_stacks/show_stacks", f"top --limit 0 --format json {until}")
    between("buddyinfo", "/proc/buddyinfo", "frag buddyinfo")
    between("pagetypeinfo", "/proc/pagetypeinfo", "frag pagetypeinfo")
    status["account"] = guest.po("account", "account --format json"), 0
    return status


def changing(guest: LiveGuest) -> dict[str, tuple[int, int]]:
    """Run the commands while the guest is busy, and as an unprivileged user."""
    status: dict[str, tuple[int, int]] = {}
    guest.do("(while usleep 20000; do ls -l /python/lib/*; done > /dev/null 2>&1) & churn=$!")
    for command in ("info", "list --format json", "account", "frag culprits", "leaks"):
        name = "busy-" + command.replace(" ", "")
        status[name] = guest.po(name, command), 0
    guest.do("kill $churn")
    command = "python3 -m drgn_pageowner -k -s /live/vmlinux"
    status["interrupted"] = (
        guest.do(
            f"timeout -s INT 60 {command} watch --interval 1 > interrupted 2> interrupted.err"
        ),
        0,
    )
    user = f"import os; os.setuid(65534); os.execvp('python3', '{command} info'.split())"
    status["nobody"] = guest.do(f'python3 -c "{user}" > nobody 2> nobody.err'), 1
    return status


def from_host(guest: LiveGuest, host: Host) -> dict[str, tuple[int, int]]:
    """Run the commands on the host, on the running guest."""
    status: dict[str, tuple[int, int]] = {}
    guest.do("clock > host-clock")
    guest.do(f"cat {OWNER} > host-list.before")
    status["host-list"] = host.po("host-list", "list --format debugfs"), 0
    guest.do(f"cat {OWNER} > host-list.after")
    guest.do(DRIP)
    # The guest is emulated on a busy machine, so its clock may be slow.
    status["host-watch"] = host.po("host-watch", WATCH.replace("5", "20")), 0
    guest.do("rmmod po_drip")
    for command in ("info", "top --by allocator", "frag summary", "account --format json"):
        name = "host-" + command.split()[0]
        status[name] = host.po(name, command), 0
    return status


def prove(version: str, work: Path) -> Iterator[check.Check]:
    build = build_kernel(version, work)
    directory = work / "live" / version
    out = directory / "out"
    out.mkdir(parents=True, exist_ok=True)
    make_root(build, directory / "vda")
    guest = boot(version, build, directory)
    try:
        steady = inside(guest)
        guest.do(DRIP)
        steady["watch"] = guest.po("watch", WATCH), 0
        guest.do("rmmod po_drip")
        hosted = from_host(guest, Host(guest, build, out))
        guest.do("dmesg > dmesg")
        fetch(guest, directory / "vdb", out)
        yield from compare(out, steady, hosted)
        # With many records, their texts fill the guest's disk.
        guest.do("rm -f *")
        busy = changing(guest)
        fetch(guest, directory / "vdb", out)
        yield check.answers("while it is busy, status", out, busy)
    finally:
        guest.process.kill()
        guest.end(10)


def fetch(guest: LiveGuest, disk: Path, out: Path) -> None:
    """Get the files that the guest has written so far."""
    guest.do("tar -cf /dev/vdb . && sync")
    with tarfile.open(disk) as tar:
        tar.extractall(out, filter="data")


def compare(
    out: Path, steady: dict[str, tuple[int, int]], hosted: dict[str, tuple[int, int]]
) -> Iterator[check.Check]:
    def text(name: str) -> str:
        return (out / name).read_text(errors="replace")

    def three(name: str) -> tuple[str, str, str]:
        return text(f"{name}.before"), text(name), text(f"{name}.after")

    def owner(name: str, clock: str) -> check.Check:
        before, ours, after = (
            (out / (name + end)).read_bytes() for end in (".before", "", ".after")
        )
        return check.owner_texts(name, before, ours, after, float(text(clock)))

    # Allow 64 MB for the reader: its memory (70 to 90 MiB including shared memory, according to the
    # benchmarks), and the files that it loads.
    slack = 16384
    yield check.answers("in the guest, status", out, steady)
    yield owner("list", "clock")
    yield check.top_stacks(*three("top"))
    yield check.counters("frag buddyinfo", *three("buddyinfo"), slack)
    yield check.counters("frag pagetypeinfo", *three("pagetypeinfo"), slack)
    yield check.account(text("account"), slack)
    yield check.watch("watch", text("watch"), text("dmesg"))
    yield check.answers("from the host, status", out, hosted)
    yield owner("host-list", "host-clock")
    yield check.watch("host-watch", text("host-watch"), text("dmesg"))
    yield check.account(text("host-account"), slack)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kernel", nargs="+", help="kernels of dumps.toml, as 6.12")
    parser.add_argument("--work", type=Path, default=Path("testdata-work"), help="where to build")
    args = parser.parse_args()
    if find_spec("drgn") is None:
        parser.error("this Python has no drgn: make .venv/installed, and take .venv/bin/python")
    bad = 0
    for version in args.kernel:
        started = time.monotonic()
        for result in prove(version, args.work.resolve()):
            verdict = "ok " if result.good else "BAD"
            print(f"{version} {verdict} {result.name}: {result.text}", flush=True)
            bad += not result.good
        print(
            f"{version} took {time.monotonic() - started:.0f} s on {os.cpu_count()} CPUs",
            flush=True,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
