#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Whether to map a large file into memory takes less time than to read it.

    benchmarks/mapped.py 128.elf

Looks at one word of each cache line of those parts of a file that are not holes, 2 MiB at a time
(the memmap of a section), at most 4 GiB: read, mapped, and mapped with page tables made at once.
Prints how long each takes compared with reading; the shortest of three runs counts, so the file is
in the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tabulate import tabulate

from drgn_pageowner.kernel.dump.contents import extents

PIECE = 1 << 21
MOST_PIECES = 1 << 11
LINE = 64
RUNS = 3
# Since Linux kernel commit 4ca9b3859dac ("mm/madvise: introduce
# MADV_POPULATE_(READ|WRITE) to prefault page tables") (in v5.14); Python has no name for it.
MADV_POPULATE_READ = 22


def pieces(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of the pieces, which begin at a page."""
    for start, end in zip(*(edges.tolist() for edges in extents(file)), strict=True):
        for first in range(start // mmap.PAGESIZE * mmap.PAGESIZE, end, PIECE):
            yield first, min(first + PIECE, end)


def look_at(data: bytes | mmap.mmap, first: int, end: int) -> int:
    words = np.frombuffer(data, np.uint64, (end - first) // 8, first)
    return int(words[:: LINE // 8].sum())


def read(file: BinaryIO, parts: list[tuple[int, int]]) -> int:
    total = 0
    for first, end in parts:
        total += look_at(os.pread(file.fileno(), end - first, first), 0, end - first)
    return total


def mapped(file: BinaryIO, parts: list[tuple[int, int]], *, populate: bool = False) -> int:
    total = 0
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        for first, end in parts:
            if populate:
                # Older kernels do not know it.
                with contextlib.suppress(OSError):
                    memory.madvise(MADV_POPULATE_READ, first, end - first)
            total += look_at(memory, first, end)
    return total


def populated(file: BinaryIO, parts: list[tuple[int, int]]) -> int:
    return mapped(file, parts, populate=True)


def seconds(
    look: Callable[[BinaryIO, list[tuple[int, int]]], int], path: Path
) -> tuple[float, int]:
    """Return how long the shortest run took, and the sum of the words."""
    times = []
    for _ in range(RUNS):
        with path.open("rb") as file:
            parts = list(pieces(file))[:MOST_PIECES]
            start = time.perf_counter()
            total = look(file, parts)
            times.append(time.perf_counter() - start)
    return min(times), total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="for example an ELF dump")
    path: Path = parser.parse_args().file
    rows, base, expected = [], 0.0, None
    for look in (read, mapped, populated):
        took, total = seconds(look, path)
        base = base or took
        if expected not in (None, total):
            parser.exit(1, f"{look.__name__}: another sum\n")
        expected = total
        rows.append([look.__name__, f"{took:.2f}", f"{took / base:.2f}"])
    print(tabulate(rows, ["", "s", "times reading"], tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
