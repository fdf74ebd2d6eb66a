#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Measure the inference of types on real dumps: coverage, accuracy, and the effect on `leaks`.

    benchmarks/inference.py                          every bundled dump
    benchmarks/inference.py linux-6.12/traps ...     some of them
    benchmarks/inference.py --dumps DIR              those in DIR/*/{vmcore,vmlinux,truth}

Columns: the share of the allocated slab objects, and of their bytes, that have a type; of the
objects of caches whose name tells the type, the share to which the inference without the names
gives a type, and the share of these to which it gives the right one; of what the guest's modules
lost (pages, slab objects, per-CPU memory), the share that `leaks --slab` finds with types and
without (`--no-types`); how much of what they hold it accuses; and the CPU time of `leaks` with and
without types, the best of some runs. Objects and per-CPU memory count where the guest names them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from processes import measure
from tabulate import tabulate

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "testdata"))

LOST = {"unreachable", "only reachable from unreachable", "held by nothing but itself"}
ADDRESSES = {"lostobj": "va", "heldobj": "va", "lostpercpu": "cpu0", "heldpercpu": "cpu0"}


class Run(NamedTuple):
    """A command that was run."""

    answer: Any
    seconds: float
    """CPU time, user and system."""


class Accused(NamedTuple):
    """Numbers of pages and objects that the guest's modules lost or hold, and that `leaks`
    reports."""

    lost: int
    found: int
    held: int
    accused: int


def run(directory: Path, vmlinux: Path, *words: str, runs: int = 1) -> Run:
    """Run a command *runs* times; return its answer and the least CPU time."""
    command = [sys.executable, "-m", "drgn_pageowner", "-c", str(directory / "vmcore"),
               "-s", str(vmlinux), *words, "--format", "json"]  # fmt: skip
    costs = [measure(command, output=True) for _ in range(runs)]
    return Run(json.loads(costs[0].output), min(cost.cpu for cost in costs))


def facts(directory: Path) -> list[dict[str, str]]:
    """Return the facts that the guest's modules logged about lost and held memory."""
    path = directory / "truth/facts"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    found = [dict(w.split("=", 1) for w in line.split()[1:] if "=" in w) for line in lines]
    found = [fact for fact in found if "what" in fact]
    if not any(fact.get("how") == "percpu_alloc" for fact in found):
        # An earlier version of po_leak lost every other per-CPU pointer that it should have kept.
        pages = [f for f in found if (f["what"], f.get("how")) == ("held", "percpu")]
        for fact in pages[1::2]:
            fact["what"] = "leaked"
    return found


def accused(answer: Any, said: list[dict[str, str]]) -> Accused:
    """Compare the output of `leaks --slab` with the facts of the modules."""
    groups = [group for group in answer["groups"] if group["verdict"] in LOST]
    pages = {pfn for group in groups for pfn in group["pfns"]}
    objects = {address for leak in answer["slab"] for address in leak["addresses"]}
    counts = dict.fromkeys(("lost", "found", "held", "accused"), 0)
    for fact in said:
        what = fact["what"]
        if what in ("leaked", "held") and "pfn" in fact:
            size, hit = 1 << int(fact.get("order", "0")), int(fact["pfn"]) in pages
        elif what in ADDRESSES and ADDRESSES[what] in fact:
            size, hit = 1, int(fact[ADDRESSES[what]], 0) in objects
        else:
            continue
        lost = not what.startswith("held")
        counts["lost" if lost else "held"] += size
        counts["found" if lost else "accused"] += size * hit
    return Accused(**counts)


def share(part: float, whole: float, digits: int = 1) -> str:
    """Return a percentage that is not rounded up to 100 %."""
    if not whole:
        return ""
    scale = 10**digits
    return f"{int(100 * scale * part / whole) / scale:.{digits}f} %"


def row(name: str, directory: Path, vmlinux: Path, runs: int) -> list[str]:
    """Measure one dump."""
    types = run(directory, vmlinux, "typegraph", "--check").answer
    checked = types["accuracy"]
    said = facts(directory)
    typed = accused(run(directory, vmlinux, "leaks", "--slab").answer, said)
    plain = accused(run(directory, vmlinux, "leaks", "--slab", "--no-types").answer, said)
    with_types = run(directory, vmlinux, "leaks", runs=runs).seconds
    without = run(directory, vmlinux, "leaks", "--no-types", runs=runs).seconds
    return [
        name,
        share(types["typed_objects"], types["objects"]),
        share(types["typed_bytes"], types["bytes"]),
        share(checked["named_objects"], checked["certain_objects"]),
        share(checked["right_objects"], checked["named_objects"], 3),
        share(typed.found, typed.lost),
        share(plain.found, plain.lost),
        f"{typed.accused} of {typed.held}" if typed.held else "",
        f"{with_types:.1f}",
        f"{without:.1f}",
        f"{with_types / without:.2f}",
    ]


HEADERS = ("dump", "typed objects", "typed bytes", "named", "right", "found",
           "found --no-types", "held accused", "CPU s", "CPU s --no-types", "ratio")  # fmt: skip


def main() -> None:
    """Measure the dumps that were named, and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="DUMP", help="default: all bundled dumps")
    parser.add_argument("--dumps", type=Path, metavar="DIR", help="instead of bundled dumps")
    parser.add_argument("--runs", type=int, default=3, help="of leaks (default: %(default)s)")
    args = parser.parse_args()
    if args.dumps:
        every = [(one.name, one, one / "vmlinux") for one in sorted(args.dumps.iterdir())
                 if (one / "vmcore").exists()]  # fmt: skip
    else:
        from unpack import names, unpack

        chosen = args.names or names()
        every = [(one, unpack(one), unpack(one).parent / "vmlinux") for one in chosen]
    rows = []
    for name, directory, vmlinux in every:
        print(name, file=sys.stderr)
        rows.append(row(name, directory, vmlinux, args.runs))
    print(tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True,
                   colalign=("left", *["right"] * (len(HEADERS) - 1))))  # fmt: skip


if __name__ == "__main__":
    main()
