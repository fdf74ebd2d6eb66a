#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Measure time and memory of our commands, relative to other programs in the same run on the same
dump.

    benchmarks/run.py                               the bundled dump of Linux 6.12
    benchmarks/run.py --core VMCORE --symbols VMLINUX    any other, say of an 8 GiB guest

testdata/README.md says how an 8 GiB guest's unfiltered dump is made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from processes import Cost, measure, reader_of
from tabulate import tabulate

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "testdata"))


def best_of(command: list[str], runs: int, given: bytes = b"") -> Cost:
    """Run *command* *runs* times with the page cache warm; the fastest counts."""
    # The first run warms the page cache.
    measure(command, given=given)
    costs = (measure(command, given=given) for _ in range(runs))
    return min(costs, key=lambda cost: cost.seconds)


Ranges = list[tuple[int, int]]


def ranges_of(core: str, symbols: str) -> tuple[Ranges, Ranges, int]:
    """
    Return ``(address, size)`` of every page_ext array, and of every memmap, and the bytes of memory
    that they are about.
    """
    import drgn

    from drgn_pageowner.kernel.dump.kernel import Kernel
    from drgn_pageowner.kernel.linux.sections import find_sections, page_ext_stride, pfn_limits

    prog = drgn.Program()
    prog.set_core_dump(core)
    prog.load_debug_info([symbols], main=True)
    kernel = Kernel.of(prog)
    stride, max_pfn = page_ext_stride(kernel), pfn_limits(kernel)[1]
    size = prog.type("struct page").size
    page_ext, memmap, memory = [], [], 0
    for section in find_sections(kernel):
        pages = min(section.end_pfn, max_pfn) - section.start_pfn
        if pages > 0:
            memory += pages * kernel.page_size
            memmap.append((section.memmap, pages * size))
            if section.page_ext:
                page_ext.append((section.page_ext, pages * stride))
    return page_ext, memmap, memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--core", type=Path)
    parser.add_argument("--symbols", type=Path)
    parser.add_argument("--runs", type=int, default=5, help="runs of each process (default: 5)")
    args = parser.parse_args()
    if args.core is None:
        from unpack import unpack

        directory = unpack("linux-6.12/kdump")
        args.core, args.symbols = directory / "vmcore", directory.parent / "vmlinux"
    ranges, memmap, _ = ranges_of(str(args.core), str(args.symbols))
    size = sum(length for _, length in ranges)
    print(f"{args.core}: {size:,} bytes of page_ext, {sum(n for _, n in memmap):,} bytes of memmap")

    ours = [sys.executable, "-m", "drgn_pageowner", "-c", str(args.core), "-s", str(args.symbols)]
    peer = reader_of(str(args.core), str(args.symbols))
    base = best_of([*peer, "read"], args.runs, json.dumps(ranges).encode())
    rows = [("drgn opens the dump and reads page_ext", base.seconds, 1.0, base.peak, None)]

    def row(name: str, cost: Cost, records: int | None = None) -> None:
        speed = None if records is None else records / cost.seconds
        rows.append((name, cost.seconds, cost.seconds / base.seconds, cost.peak, speed))

    records = int(
        subprocess.run([*peer, "count"], check=True, capture_output=True, text=True).stdout
    )
    row("top --limit 20", best_of([*ours, "top", "--limit", "20"], args.runs), records)
    row("info", best_of([*ours, "info"], args.runs), records)
    for format_ in ("json", "debugfs", "csv"):
        cost = best_of([*ours, "list", "--format", format_], min(args.runs, 2))
        row(f"list --format {format_}", cost, records)
    both = best_of([*peer, "read"], args.runs, json.dumps(ranges + memmap).encode())
    row("drgn opens the dump and reads page_ext and memmap", both)
    frag = best_of([*ours, "frag", "all", "--order", "9"], args.runs)
    row("frag all", frag)
    print(
        tabulate(
            [
                (name, f"{seconds:.2f}", f"{ratio:.2f}", f"{peak / 2**20:.0f}",
                 f"{(peak - base.peak) / 2**20:+.0f}", f"{speed:,.0f}" if speed else "")
                for name, seconds, ratio, peak, speed in rows
            ],
            ("process", "s", "ratio", "peak MiB", "above", "records/s"),
            disable_numparse=True,
            colalign=("left", "right", "right", "right", "right", "right"),
        )
    )  # fmt: skip
    print(f"frag all takes {frag.seconds / both.seconds:.2f} times what reading its bytes does")
    search = json.loads(
        subprocess.run([*peer, "marking"], check=True, capture_output=True, text=True).stdout
    )
    print(
        f"leaks marks {search['pages']:,} pages and {search['objects']:,} slab objects in "
        f"{search['search_s']:.2f} s: {search['search_s'] / search['read_s']:.1f} times what drgn "
        f"takes to read them (and tells what each page is in {search['inventory_s']:.2f} s)"
    )
    kept = json.loads(
        subprocess.run([*peer, "snapshot"], check=True, capture_output=True, text=True).stdout
    )
    print(
        f"a snapshot of it has {kept['size']:,} bytes, {size / kept['size']:.0f} times less than "
        f"page_ext; it is read in {kept['load_s'] * 1000:.1f} ms, and all records decoded from the "
        f"dump in {kept['decode_s'] * 1000:.0f} ms ({kept['decode_s'] / kept['load_s']:.0f} times) "
        f"once it is open, {kept['open_s'] * 1000:.0f} ms "
        f"({kept['open_s'] / kept['load_s']:.0f} times) with opening it"
    )
    sample = json.loads(
        subprocess.run([*peer, "per-page"], check=True, capture_output=True, text=True).stdout
    )
    ratio = sample["per_page_ns"] / sample["bulk_ns"]
    print(
        f"decoding a page with drgn objects takes {sample['per_page_ns'] / 1000:.0f} us, "
        f"in bulk {sample['bulk_ns'] / 1000:.2f} us: {ratio:,.0f} times less"
    )


if __name__ == "__main__":
    main()
