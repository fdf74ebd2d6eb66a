#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What commands cost on dumps of different sizes: CPU time against reading, peak memory, growth.

    benchmarks/scale.py 8G=small.elf:vmlinux 128G=large.elf:vmlinux
    benchmarks/scale.py --commands 'top;account' 128G=large.elf:vmlinux

Each command runs --runs times for each dump, with one process, after a run of `top` that warms the
page cache; the run with least CPU time, user and system, counts. It is compared with a process that
opens the dump and reads all page_ext arrays, or also all memmaps, where the command reads them too.
With two dumps or more, a line through the two largest says what a machine of 1 or 4 TiB costs.

    benchmarks/scale.py --snapshots 8G=small.elf:vmlinux 128G=large.elf:vmlinux

saves a snapshot of each dump first, with leaks, and runs the commands on these; they are compared
with the same processes, which read the dumps.

    benchmarks/scale.py --jobs 1,2 lzo=large.kdump:vmlinux elf=large.elf:vmlinux

compares numbers of processes: elapsed time, that with the first number divided by that with the
others, and elapsed time against reading. The shortest of --runs runs counts.

    benchmarks/scale.py --cpus 16 8G=small.elf:vmlinux 128G=large.elf:vmlinux

says how much CPU time the main thread takes with two processes, and how much the other threads and
processes, and what a machine of 1 TiB takes on 16 CPUs if only the latter is divided by their
number.

What commands print goes to /dev/null. On a busy machine, run it as
`chrt -r 1 benchmarks/scale.py ...`.

testdata/recipe/large.py makes such dumps. docs/scale.md has such tables.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from processes import Cost, measure, reader_of
from run import ranges_of
from tabulate import tabulate

COMMANDS = {
    "top": "page_ext",
    "top --by comm,order": "page_ext",
    "top --by age": "page_ext",
    "top --by memcg": "both",
    "top --by process": "both",
    "account": "both",
    "frag all": "both",
    "leaks --suspects": "both",
    "list --format json": "both",
    "list --format debugfs": "both",
    "list --limit 10": "both",
    "sql 'select allocator, sum(pages) from records where allocated group by all'": "page_ext",
    "sql 'select class, zone, count(*) from pages group by all'": "both",
    "diff {dump}": "both",
    "save -o {scratch}": "both",
    "save --redact -o {scratch}": "both",
    "save --dataset {scratch}.d": "both",
    "leaks": "both",
    "report --format html -o {scratch}": "both",
    "triage --force {scratch}.d": "both",
}
"""Commands, and what a process must read that is compared with them. ``diff`` compares a dump with
itself."""

PARALLEL = ("top", "list --format debugfs", "account", "frag all", "leaks --suspects")
"""The commands that read most of the time."""

GIB = 1 << 30
TRIAGE_FOUND = (3,)
"""Exit status of a triage that found a problem of the machine."""


class Dump(NamedTuple):
    """A dump with its symbols."""

    name: str
    core: str
    symbols: str
    snapshot: str | None = None
    """A snapshot of it, on which commands are to be run instead."""

    @property
    def file(self) -> str:
        """What commands read."""
        return self.snapshot or self.core

    def command(self) -> list[str]:
        """Return what precedes a command of drgn-pageowner on this dump."""
        program = [sys.executable, "-m", "drgn_pageowner", "-q"]
        if self.snapshot is not None:
            return [*program, "-S", self.snapshot]
        return [*program, "-c", self.core, "-s", self.symbols]


def dump_of(text: str) -> Dump:
    """Parse ``NAME=CORE:SYMBOLS``."""
    name, equals, rest = text.partition("=")
    core, colon, symbols = rest.rpartition(":")
    if not (equals and colon and name and core and symbols):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=CORE:SYMBOLS")
    return Dump(name, core, symbols)


def line(sizes: list[float], values: list[float], size: float) -> float:
    """Return the value at *size* of the line through the last two points, which are the nearest."""
    slope = (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])
    return values[-1] + slope * (size - sizes[-1])


def run(dump: Dump, command: str, *options: str) -> Cost:
    """
    Run a command of drgn-pageowner.

    :param command: One of :data:`COMMANDS`, or another.
    :param options: What precedes it, besides the dump.
    """
    scratch = _scratch()
    words = shlex.split(command.format(scratch=scratch, dump=dump.file))
    words = [*dump.command(), *options, *words]
    also = TRIAGE_FOUND if command.startswith("triage") else ()
    cost = measure(words, discard=True, also=also)
    scratch.unlink(missing_ok=True)
    shutil.rmtree(f"{scratch}.d", ignore_errors=True)
    return cost


def _scratch(suffix: str = "") -> Path:
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"scale-{os.getpid()}{suffix}"


def compare_jobs(dumps: list[Dump], commands: list[str], jobs: list[int], runs: int) -> str:
    """
    Return a table in Markdown of the elapsed time of *commands* with numbers of processes.

    :param runs: How often each is run.
    """
    headers = ["dump", "command"]
    for number in jobs:
        headers += [f"--jobs {number}: s", "times reading"]
        headers += [] if number == jobs[0] else ["speed-up"]
    rows = []
    for dump in dumps:
        page_ext, memmap, _ = ranges_of(dump.core, dump.symbols)
        reader = [*reader_of(dump.core, dump.symbols), "read"]
        base = {
            what: min(
                measure(reader, given=json.dumps(ranges).encode()).seconds for _ in range(runs + 1)
            )
            for what, ranges in (("page_ext", page_ext), ("both", page_ext + memmap))
        }
        for what, seconds in base.items():
            named = "read page_ext" + (" and memmap" if what == "both" else "")
            rows.append([dump.name, named, f"{seconds:.1f}"])
        for command in commands:
            reading = base[COMMANDS.get(command, "both")]
            row, times = [dump.name, _name(command)], []
            for number in jobs:
                costs = [run(dump, command, "--jobs", str(number)) for _ in range(runs)]
                times.append(min(cost.seconds for cost in costs))
                row += [f"{times[-1]:.1f}", f"{times[-1] / reading:.1f}"]
                row += [] if len(times) == 1 else [f"{times[0] / times[-1]:.2f}"]
            rows.append(row)
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def share_out(dumps: list[Dump], commands: list[str], cpus: int, runs: int) -> str:
    """
    Return a table in Markdown of the CPU time of the main thread, and of all other threads and
    processes.

    :param cpus: Number of CPUs to estimate the time for.
    :param runs: How often each is run; the one with least CPU time counts.
    """
    headers = ["command"]
    for dump in dumps:
        headers += [f"{dump.name}: main thread, s", "others, s"]
    headers += ["1 TiB: main thread, s", "others, s", f"{cpus} CPUs: s"]
    sizes = [ranges_of(dump.core, dump.symbols)[2] / GIB for dump in dumps]
    rows = []
    for command in commands:
        costs = []
        for dump in dumps:
            costs.append(_least(run(dump, command, "--jobs", "2") for _ in range(runs)))
        own, others = [cost.main for cost in costs], [cost.cpu - cost.main for cost in costs]
        both = [line(sizes, values, 1024) for values in (own, others)]
        pairs = [value for pair in zip(own, others, strict=True) for value in pair]
        row = [_name(command), *(f"{value:.1f}" for value in pairs)]
        rows.append([*row, *(f"{value:.0f}" for value in (*both, both[0] + both[1] / cpus))])
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dumps", nargs="+", type=dump_of, metavar="NAME=CORE:SYMBOLS", help="dumps, smallest first"
    )
    parser.add_argument(
        "--commands", help="commands with ; between them (default: " + "; ".join(COMMANDS) + ")"
    )
    parser.add_argument(
        "--jobs", metavar="N,N...", type=lambda text: [int(number) for number in text.split(",")],
        help="compare the elapsed time with these numbers of processes",
    )  # fmt: skip
    parser.add_argument(
        "--runs",
        type=int,
        default=2,
        help="runs of each, of which the shortest counts (default: %(default)s)",
    )
    parser.add_argument(
        "--cpus", type=int, help="estimate what a machine of 1 TiB takes on this number of CPUs"
    )
    parser.add_argument(
        "--snapshots", action="store_true", help="run the commands on snapshots of the dumps"
    )
    args = parser.parse_args()
    if args.cpus and len(args.dumps) < 2:
        parser.error("--cpus needs two dumps")
    default = PARALLEL if args.jobs else COMMANDS
    chosen = args.commands.split(";") if args.commands else list(default)
    dumps = args.dumps
    try:
        if args.snapshots:
            dumps = [_saved(dump, number) for number, dump in enumerate(dumps)]
        if args.cpus:
            print(share_out(dumps, chosen, args.cpus, args.runs))
        elif args.jobs:
            print(compare_jobs(dumps, chosen, args.jobs, args.runs))
        else:
            compare_sizes(dumps, chosen, args.runs)
    finally:
        for dump in dumps:
            if dump.snapshot is not None:
                Path(dump.snapshot).unlink(missing_ok=True)


def _saved(dump: Dump, number: int) -> Dump:
    """Save a snapshot of *dump*, with leaks."""
    path = str(_scratch(f"-{number}.parquet"))
    measure([*dump.command(), "save", "--leaks", path], discard=True)
    return dump._replace(snapshot=path)


def compare_sizes(dumps: list[Dump], commands: list[str], runs: int) -> None:
    """Print a table in Markdown of the cost of *commands*."""
    sizes: list[float] = []
    costs: dict[str, list[tuple[Cost, Cost]]] = {}
    for dump in dumps:
        page_ext, memmap, memory = ranges_of(dump.core, dump.symbols)
        sizes.append(memory / GIB)
        measure([*dump.command(), "top"])
        reader = [*reader_of(dump.core, dump.symbols), "read"]
        base = {
            what: _least(measure(reader, given=json.dumps(ranges).encode()) for _ in range(runs))
            for what, ranges in (("page_ext", page_ext), ("both", page_ext + memmap))
        }
        for what, cost in base.items():
            named = "read page_ext" + (" and memmap" if what == "both" else "")
            costs.setdefault(named, []).append((cost, base["both"]))
        for command in commands:
            cost = _least(run(dump, command, "--jobs", "1") for _ in range(runs))
            reading = base[COMMANDS.get(command, "both")]
            costs.setdefault(_name(command), []).append((cost, reading))
    print_table([dump.name for dump in dumps], sizes, costs)


def _least(costs: Iterable[Cost]) -> Cost:
    """Return the cost of the run that took least CPU time."""
    return min(costs, key=lambda cost: cost.cpu)


def _name(command: str) -> str:
    """Return *command* without the names of files."""
    return " ".join(word for word in command.split() if "{" not in word and word != "-o")


def print_table(
    names: list[str], sizes: list[float], costs: dict[str, list[tuple[Cost, Cost]]]
) -> None:
    """
    Print a table in Markdown.

    :param names: Names of the dumps.
    :param sizes: GiB of memory of each machine.
    :param costs: Command -> its cost, and that of reading, for each dump.
    """
    headers = ["command"]
    for name in names:
        headers += [f"{name}: CPU s", "times reading", "peak GB"]
    several = len(sizes) > 1
    if several:
        headers += ["growth", "1 TiB: s", "GB", "4 TiB: s", "GB"]
    rows = []
    for command, found in costs.items():
        row = [command]
        for cost, reading in found:
            row += [f"{cost.cpu:.1f}", f"{cost.cpu / reading.cpu:.1f}", f"{cost.peak / 1e9:.2f}"]
        if several:
            cpu = [cost.cpu for cost, _ in found]
            peak = [cost.peak / 1e9 for cost, _ in found]
            growth = math.log(cpu[-1] / cpu[0]) / math.log(sizes[-1] / sizes[0])
            row.append(f"{growth:.2f}")
            for size in (1024, 4096):
                row += [f"{line(sizes, cpu, size):.0f}", f"{line(sizes, peak, size):.1f}"]
        rows.append(row)
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
