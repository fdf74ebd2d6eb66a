#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Take two dumps of one guest, before and after its module po_drip leaked 1,000 pages, and compare
them.

    pair.py --work DIR           the dumps, and whether `diff` finds the leak and its rate in them
    pair.py --work DIR --pack    the same, and the files of testdata/linux-6.12/drip

All ways to compare them must give the same result: two dumps, the snapshots that `save` makes of
them, and one of each. Needs what recipe.py needs; what is in --work is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from recipe import TESTDATA, Guest, build_kernel, make_initramfs

VERSION = "6.12"
MEMORY_MB = 256
FUNCTION = "po_drip_leak_one"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTDATA.parent)}
TIMES = ("before", "after")
_DRIPPED = re.compile(r"po_drip: dripped allocations=(\d+) pages=(\d+) ns=(\d+)")


def take_pair(work: Path, directory: Path) -> dict[str, Any]:
    """Write DIRECTORY/before and DIRECTORY/after; return the log of the module."""
    build = build_kernel(VERSION, work)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    make_initramfs(VERSION, work, build, directory / "initramfs.gz", kexec=False)
    # Without ACPI, the kernel needs the address of QEMU's fw_cfg as a parameter, for its
    # vmcoreinfo.
    append = "console=ttyS0 panic=-1 page_owner=on qemu_fw_cfg.ioport=12@0x510:0:1:4 po.work=drip"
    guest = Guest(
        [
            "qemu-system-x86_64", "-cpu", "max", "-smp", "2", "-m", f"{MEMORY_MB}M", "-nographic",
            "-no-reboot", "-nodefaults", "-serial", "stdio", "-device", "vmcoreinfo",
            "-kernel", str(build / "arch/x86/boot/bzImage"),
            "-initrd", str(directory / "initramfs.gz"), "-append", append,
        ],
        directory,
    )  # fmt: skip
    for name, text in zip(TIMES, ("PAIR before", "po_drip: finished"), strict=True):
        if not guest.wait_for(text, 600):
            sys.exit(f"the guest did not get to its dump: see {directory / 'console.log'}")
        guest.monitor(
            ("stop", {}),
            ("dump-guest-memory", {"paging": False, "protocol": f"file:{directory / name}"}),
            ("cont", {}),
        )
        guest.answer("\n")
    guest.end(60)
    said = _DRIPPED.findall((directory / "console.log").read_text(errors="replace"))
    return {
        "function": FUNCTION,
        "pages": int(said[-1][1]),
        "dripped": [{"pages": int(pages), "ns": int(ns)} for _, pages, ns in said],
    }


def po(directory: Path, *arguments: object) -> str:
    """Return the output of our command line, with *directory* removed from file names."""
    command = [sys.executable, "-m", "drgn_pageowner", *map(str, arguments)]
    print("+", *command, file=sys.stderr, flush=True)
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=directory, env=ENVIRONMENT
    ).stdout


def check(what: str, right: bool, detail: str) -> bool:
    print(f"{'ok  ' if right else 'FAIL'} {what}: {detail}")
    return right


def prove(directory: Path, symbols: Path, truth: dict[str, Any]) -> bool:
    """Return whether every comparison finds the leak, its size and its rate."""
    for name in TIMES:
        po(directory, "-c", name, "-s", symbols, "save", f"{name}.parquet")
    answers = {}
    for kinds in product(("", ".parquet"), repeat=2):
        files = [name + kind for name, kind in zip(TIMES, kinds, strict=True)]
        words = ["-s", symbols, "diff", *files, "--format", "json", "--limit", "0"]
        answers[" and ".join(files)] = po(directory, *words)
    first = next(iter(answers.values()))
    right = [
        check("one answer", answer == first, f"{name}: {len(answer):,} bytes")
        for name, answer in answers.items()
    ]
    result = json.loads(first)
    found, pages = result["changes"][0], truth["pages"]
    growth, rate, known = found["growth"]["pages"], found["pages_per_hour"], module_rate(truth)
    in_words = f"{growth:,} pages; the module leaked {pages:,}"
    an_hour = f"{rate:,.0f} pages an hour; by the module's clock {known:,.0f}"
    right += [
        check("the leak is first", truth["function"] in str(found["stack"]), found["stack"][3]),
        check("and on the first line", result["leak"] == found, "the same change"),
        check("its growth", growth == pages, in_words),
        check("its rate", abs(rate / known - 1) < 0.1, an_hour),
    ]
    return all(right)


def module_rate(truth: dict[str, Any]) -> float:
    """Return the growth in pages per hour, from the first and last line of the module's log."""
    first, last = truth["dripped"][0], truth["dripped"][-1]
    return (last["pages"] - first["pages"]) * 3600e9 / (last["ns"] - first["ns"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("testdata-work"), help="where to build")
    parser.add_argument("--again", action="store_true", help="use the dumps that are there")
    parser.add_argument("--pack", action="store_true", help="write the files of testdata/")
    args = parser.parse_args()
    work = args.work.resolve()
    directory = work / "guest" / "drip"
    facts = directory / "truth.json"
    if not args.again:
        truth = take_pair(work, directory)
        facts.write_text(json.dumps(truth, indent=1) + "\n")
    right = prove(directory, work / "build" / VERSION / "vmlinux", json.loads(facts.read_text()))
    if args.pack and right:
        out = TESTDATA / f"linux-{VERSION}" / "drip"
        out.mkdir(exist_ok=True)
        for path in (facts, *(directory / f"{name}.parquet" for name in TIMES)):
            shutil.copy(path, out / path.name)
    sys.exit(not right)


if __name__ == "__main__":
    main()
