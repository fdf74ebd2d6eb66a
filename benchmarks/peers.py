# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs that our commands are compared with; run.py starts them in separate processes."""

from __future__ import annotations

import argparse
import json
import sys
import time

import drgn

_WHAT = ("count", "marking", "per-page", "read", "snapshot")


def open_dump(core: str, symbols: str) -> drgn.Program:
    prog = drgn.Program()
    prog.set_core_dump(core)
    prog.load_debug_info([symbols], main=True)
    return prog


def per_page(prog: drgn.Program) -> dict[str, float]:
    """Measure reading pages one by one with drgn objects, as scripts do, and all of them in
    bulk."""
    from drgn.helpers.linux.mm import pfn_to_page

    from drgn_pageowner import page_owner, snapshot

    first, pages = int(prog["min_low_pfn"]), 2000
    start = time.perf_counter_ns()
    for pfn in range(first, first + pages):
        owner = page_owner(pfn_to_page(prog, pfn))
        if owner:
            int(owner.order), int(owner.gfp_mask), int(owner.handle), int(owner.pid)
    single = (time.perf_counter_ns() - start) / pages
    start = time.perf_counter_ns()
    columns = ("order", "gfp_mask", "handle", "pid")
    covered = snapshot(prog, columns=columns).coverage["covered"]
    return {"per_page_ns": single, "bulk_ns": (time.perf_counter_ns() - start) / covered}


def marking(prog: drgn.Program) -> dict[str, float]:
    """Measure reading the data for the search for leaks, and the search itself."""
    from drgn_pageowner.analysis.leaks.reach import reach
    from drgn_pageowner.kernel.dump.kernel import Kernel
    from drgn_pageowner.kernel.linux.sections import find_sections
    from drgn_pageowner.kernel.read.heap import HeapReader
    from drgn_pageowner.kernel.read.inventory import InventoryReader

    kernel = Kernel.of(prog)
    start = time.perf_counter()
    inventory = InventoryReader(kernel)
    told = time.perf_counter() - start
    start = time.perf_counter()
    reader = HeapReader(kernel, inventory)
    reach(reader.heap)
    search = time.perf_counter() - start
    pages = reader.heap.inventory.memory.pages
    size = pages.facts.page_size
    start = time.perf_counter()
    for rows in reader.pieces(reader.source_of(slice(None)) != -1):
        prog.read(int(pages.pfns(rows[:1])[0]) * size, len(rows) * size, True)
    struct_page = prog.type("struct page").size
    for section in find_sections(kernel):
        end = min(section.end_pfn, pages.facts.max_pfn)
        prog.read(section.memmap, (end - section.start_pfn) * struct_page)
    return {
        "inventory_s": told,
        "search_s": search,
        "read_s": time.perf_counter() - start,
        "objects": len(reader.heap.slabs),
        "pages": reader.heap.pages_read,
    }


def saved(core: str, symbols: str) -> dict[str, float]:
    """Measure loading all records: from an open dump, from a dump including opening it, and from a
    snapshot."""
    import tempfile
    from pathlib import Path

    from drgn_pageowner import snapshot
    from drgn_pageowner.kernel.session import ProgramSession
    from drgn_pageowner.storage.save import save
    from drgn_pageowner.storage.session import SnapshotSession

    whole, decode, load = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "saved.parquet")
        for _ in range(3):
            start = time.process_time()
            prog = open_dump(core, symbols)
            opened = time.process_time()
            snapshot(prog)
            decode.append(time.process_time() - opened)
            whole.append(time.process_time() - start)
        save(ProgramSession(prog), path)
        for _ in range(20):
            start = time.process_time()
            SnapshotSession(path).snapshot(None)
            load.append(time.process_time() - start)
        size = Path(path).stat().st_size
    return {"size": size, "open_s": min(whole), "decode_s": min(decode), "load_s": min(load)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("core", metavar="CORE")
    parser.add_argument("symbols", metavar="SYMBOLS")
    parser.add_argument("what", metavar="WHAT", choices=_WHAT, help=f"one of {', '.join(_WHAT)}")
    args = parser.parse_args()
    what = args.what
    if what == "snapshot":
        print(json.dumps(saved(args.core, args.symbols)))
        return
    prog = open_dump(args.core, args.symbols)
    if what == "read":
        for address, size in json.load(sys.stdin):
            prog.read(address, size)
    elif what == "count":
        from drgn_pageowner import snapshot

        print(len(snapshot(prog, columns=("pfn",))))
    elif what == "marking":
        print(json.dumps(marking(prog)))
    else:
        print(json.dumps(per_page(prog)))


if __name__ == "__main__":
    main()
