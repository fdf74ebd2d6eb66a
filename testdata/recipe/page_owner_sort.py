#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Run the kernels' own page_owner_sort on our debugfs text of the bundled dumps.

    page_owner_sort.py [--work DIR]

Builds page_owner_sort from each kernel's source package (tools/mm or tools/vm), runs it over the
text that the kernel printed and over ours, with all its sort and cull options, and compares:
without the records that changed in between, the outputs must be equal. Its output, read with -S,
must have as many records and pages as its input.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from packages import run
from recipe import TESTDATA, fetch_source

from drgn_pageowner.storage.session import open_file

sys.path.insert(0, str(TESTDATA))
from unpack import unpack

OPTIONS: list[list[str]] = [
    [],
    ["-m"],
    ["-t"],
    ["-p"],
    ["-a"],
    ["-s"],
    ["--cull=stacktrace"],
    ["--sort=pid,-alloc_ts"],
    ["--cull=name,allocator"],
    ["--pid", "1"],
    ["--name", "init"],
]


def build(version: str, work: Path) -> Path:
    source = fetch_source(version, work)
    places = [source / "tools" / room / "page_owner_sort.c" for room in ("mm", "vm")]
    code = next(path for path in places if path.exists())
    program = work / f"page_owner_sort-{version}"
    run("gcc", "-O2", "-w", "-o", program, code)
    return program


def records(text: bytes) -> list[bytes]:
    return [record for record in text.split(b"\n\n") if record]


def totals(text: Path) -> tuple[int | None, int]:
    """Return the number of records and pages of a text, as -S reads it."""
    rows = open_file(str(text)).snapshot(None)
    return rows.count(), int(rows.pages.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--work", type=Path, default=Path("testdata-work"))
    work = parser.parse_args().work.resolve()
    failed = False
    for version in ("5.10", "6.1", "6.12", "7.2"):
        directory = unpack(f"linux-{version}/kdump")
        ours = subprocess.run(
            [sys.executable, "-m", "drgn_pageowner", "-c", directory / "vmcore",
             "-s", directory.parent / "vmlinux", "list", "--format", "debugfs"],
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        theirs = (directory / "truth/sys/kernel/debug/page_owner").read_bytes()
        common = set(records(ours)) & set(records(theirs))
        program = build(version, work)
        help_ = subprocess.run([program, "--help"], capture_output=True)
        usage = help_.stdout + help_.stderr
        for options in OPTIONS:
            flag = options[0].split("=")[0].encode() if options else b""
            if flag and not re.search(rb"(^|\s)" + re.escape(flag) + rb"\s", usage):
                continue
            answers = []
            for name, text in (("ours", ours), ("kernel", theirs)):
                kept = work / f"{name}.txt"
                kept.write_bytes(b"".join(r + b"\n\n" for r in records(text) if r in common))
                out = work / f"{name}.sorted"
                result = subprocess.run([program, *options, kept, out], capture_output=True)
                answers.append((result.returncode, result.stdout, out.read_bytes()))
            equal = answers[0] == answers[1] and answers[0][0] == 0 and len(answers[0][2]) > 0
            failed |= not equal
            blocks = len(records(answers[0][2]))
            verdict = "equal" if equal else "DIFFERENT"
            same = totals(work / "kernel.sorted") == totals(work / "kernel.txt")
            failed |= not same
            verdict += ", totals equal" if same else ", totals DIFFERENT"
            print(f"{version} {' '.join(options)}: {verdict}, {blocks} blocks")
    sys.exit(failed)


if __name__ == "__main__":
    main()
