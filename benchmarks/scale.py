#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What commands cost on dumps of different sizes: CPU time against reading, peak memory, growth.

    benchmarks/scale.py 8G=small.elf:vmlinux 128G=large.elf:vmlinux
    benchmarks/scale.py --commands 'top;account' 128G=large.elf:vmlinux

Each command runs once for each dump, after a run of `top` that warms the page cache. CPU time is
that of the process and its children, user and system. It is compared with a process that opens the
dump and reads all page_ext arrays, or also all memmaps, where the command reads them too. With two
dumps or more, a line through the smallest and the largest says what a machine of 1 or 4 TiB costs.

docs/scale.md has such a table.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

COMMANDS = {
    "top": "page_ext",
    "top --by comm,order": "page_ext",
    "account": "both",
    "frag all": "both",
    "leaks --suspects": "both",
    "list --format json": "both",
    "list --format debugfs": "both",
    "save -o {scratch}": "both",
    "leaks": "both",
    "report -o {scratch}": "both",
}
"""Commands, and what a process must read that is compared with them."""

GIB = 1 << 30


class Dump(NamedTuple):
    """A dump with its symbols."""

    name: str
    core: str
    symbols: str


class Cost(NamedTuple):
    """The cost of one process."""

    cpu: float
    """Seconds of CPU time."""
    peak: int
    """Largest resident set, in bytes."""


def dump_of(text: str) -> Dump:
    """Parse ``NAME=CORE:SYMBOLS``."""
    name, equals, rest = text.partition("=")
    core, colon, symbols = rest.rpartition(":")
    if not (equals and colon and name and core and symbols):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=CORE:SYMBOLS")
    return Dump(name, core, symbols)


def measure(command: list[str]) -> Cost:
    """Run *command*, whose output is thrown away."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"failed: {shlex.join(command)}\n{errors.decode(errors='replace')}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def read(core: str, symbols: str, *, memmap: bool) -> int:
    """
    Read what the commands read, as fast as drgn does.

    :return: Number of pages of the machine.
    """
    import drgn

    from drgn_pageowner.kernel.dump.kernel import Kernel
    from drgn_pageowner.kernel.linux.sections import find_sections, page_ext_stride, pfn_limits

    prog = drgn.Program()
    prog.set_core_dump(core)
    prog.load_debug_info([symbols], main=True)
    kernel = Kernel.of(prog)
    stride, max_pfn = page_ext_stride(kernel), pfn_limits(kernel)[1]
    total = 0
    for section in find_sections(kernel):
        pages = min(section.end_pfn, max_pfn) - section.start_pfn
        if pages <= 0:
            continue
        total += pages
        if section.page_ext:
            prog.read(section.page_ext, pages * stride)
        if memmap:
            prog.read(section.memmap, pages * kernel.struct_page_size)
    return total * kernel.page_size


def line(sizes: list[float], values: list[float], size: float) -> float:
    """Return the value at *size* of the line through the first and the last of the points."""
    slope = (values[-1] - values[0]) / (sizes[-1] - sizes[0])
    return values[0] + slope * (size - sizes[0])


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
    parser.add_argument("--read", choices=("page_ext", "both"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read is not None:
        [dump] = args.dumps
        read(dump.core, dump.symbols, memmap=args.read == "both")
        return
    chosen = args.commands.split(";") if args.commands else list(COMMANDS)
    scratch = Path(os.environ.get("TMPDIR", "/tmp")) / f"scale-{os.getpid()}"
    sizes: list[float] = []
    costs: dict[str, list[tuple[Cost, Cost]]] = {}
    for dump in args.dumps:
        sizes.append(read(dump.core, dump.symbols, memmap=True) / GIB)
        ours = [sys.executable, "-m", "drgn_pageowner", "-q", "-c", dump.core, "-s", dump.symbols]
        measure([*ours, "top"])
        base = {
            what: measure([sys.executable, __file__, "--read", what, "=".join(
                (dump.name, f"{dump.core}:{dump.symbols}"))])
            for what in ("page_ext", "both")
        }  # fmt: skip
        for what, cost in base.items():
            named = "read page_ext" + (" and memmap" if what == "both" else "")
            costs.setdefault(named, []).append((cost, base["both"]))
        for command in chosen:
            cost = measure([*ours, *shlex.split(command.format(scratch=scratch))])
            scratch.unlink(missing_ok=True)
            reading = base[COMMANDS.get(command, "both")]
            costs.setdefault(command.partition(" -o ")[0], []).append((cost, reading))
    print_table([dump.name for dump in args.dumps], sizes, costs)


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
