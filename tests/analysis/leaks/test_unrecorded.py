# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test leaks of kernels without records: memory that modules lost is found, and held memory is not
reported."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import ask
from conftest import Dump, dump_id, profiling, traps

from drgn_pageowner.analysis.leaks.reach import Reach, reach
from drgn_pageowner.kernel.read.heap import HeapReader
from drgn_pageowner.kernel.read.inventory import InventoryReader
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.heap import LOST, Role
from drgn_pageowner.model.pages import PageState
from drgn_pageowner.storage.session import SnapshotSession

pytestmark = pytest.mark.once

WITHOUT = [get for get in profiling() if "owner-off" in dump_id(get)]


def lost_pages(found: Reach) -> Any:
    """Return which pages are lost: ``bool``, a row per page."""
    number = len(found.heap.records)
    lost = (found.role == Role.CANDIDATE) & np.isin(found.verdict[:number], LOST)
    record = found.heap.inventory.record_of_row
    inside = found.heap.inventory.memory.pages.state != PageState.SLAB
    return np.where(record >= 0, lost[np.maximum(record, 0)], False) & inside


@pytest.mark.parametrize("get", traps(), ids=dump_id)
def test_the_verdicts_are_nearly_those_of_records(get: Callable[[], Dump]) -> None:
    dump = get()
    reader = InventoryReader(dump.linux)
    recorded = lost_pages(reach(HeapReader(dump.linux, reader).heap))
    ignored = InventoryReader(dump.linux)
    nothing = np.full(len(ignored.pages), -1, np.int32)
    ignored.inventory = dataclasses.replace(ignored.inventory, records=None, record_of_row=nothing)
    found = reach(HeapReader(dump.linux, ignored).heap)
    assert not found.heap.recorded
    alone = lost_pages(found)
    both = np.count_nonzero(recorded & alone)
    # On i386, many PFNs equal words by chance, which can only be judged per stack, with records.
    assert both >= (0.85 if "i386" in dump.name else 0.93) * np.count_nonzero(recorded)
    assert np.count_nonzero(alone & ~recorded) <= 8
    truth = [(f["what"], int(f["pfn"], 0)) for f in dump.facts() if "pfn" in f and "what" in f]
    held = reader.pages.rows(np.array([pfn for what, pfn in truth if what == "held"]))
    # Only lost per-CPU memory points to these pages.
    assert np.count_nonzero(alone[held]) <= np.count_nonzero(recorded[held])
    records, row = reader.inventory.records, found.heap.inventory.record_of_row
    assert records is not None
    first = reader.pages.rows(records["pfn"])
    first = first[reader.pages.state[first] != PageState.SLAB]
    mine = row[first]
    order = reader.inventory.records["order"][reader.inventory.record_of_row[first]]
    same = (mine >= 0) & (found.heap.records["order"][mine] == order)
    assert np.count_nonzero(same) >= 0.999 * len(first)


@pytest.mark.parametrize("name", ["linux-5.10/owner-off", "linux-6.12-noowner/kdump"])
def test_where_nothing_is_lost_nobody_is_accused(
    dump_named: Callable[[str], Dump], name: str
) -> None:
    session = dump_named(name).session()
    status, out, err = ask(session, "leaks --format json")
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert [g["verdict"] for g in answer["groups"] if g["verdict"] != "known only by PFN"] == []
    assert answer["reachable_allocations"] > 20
    status, out, _ = ask(session, f"why pfn:{_held_page(session):#x}")
    assert status == 0
    assert "reachable" in out


def _held_page(session: ProgramSession) -> int:
    found = reach(session.heap())
    held = np.flatnonzero((found.role == Role.CANDIDATE) & (found.parent[: len(found.role)] >= 0))
    return int(found.heap.records["pfn"][held[0]])


@pytest.mark.parametrize("get", WITHOUT, ids=dump_id)
def test_what_the_module_lost_is_found(get: Callable[[], Dump]) -> None:
    dump = get()
    session = dump.session()
    answer = json.loads(ask(session, "leaks --slab --format json")[1])
    lost = {group["verdict"] for group in answer["groups"]} - {"known only by PFN"}
    groups = [group for group in answer["groups"] if group["verdict"] in lost]
    accused = {pfn for group in groups for pfn in group["pfns"]}
    objects = {address for leak in answer["slab"] for address in leak["addresses"]}
    pages: Counter[tuple[str, bool]] = Counter()
    for fact in dump.facts():
        what = fact.get("what", "")
        if what in ("leaked", "held"):
            pages[what, int(fact["pfn"]) in accused] += 1
        elif what in ("lostobj", "heldobj"):
            pages[what, int(fact["va"], 0) in objects] += 1
        elif what in ("lostpercpu", "heldpercpu"):
            pages[what, int(fact["cpu0"], 0) in objects] += 1
    for what in ("leaked", "lostobj", "lostpercpu"):
        number = pages[what, True] + pages[what, False]
        assert number, what
        assert pages[what, True] >= 0.95 * number, what
    for what in ("held", "heldobj", "heldpercpu"):
        assert pages[what, False], what
        assert not pages[what, True], what
    # Memory that the kernel itself seems to have lost.
    module = {int(fact["pfn"]) for fact in dump.facts() if "pfn" in fact}
    assert sum(not module & {*group["pfns"]} for group in groups) <= 2
    if dump.has_truth("proc/allocinfo"):
        named = {group["tag"].rpartition("func:")[2] for group in groups if group["tag"]}
        ways = {f["func"] for f in dump.facts() if f.get("what") == "leaked"}
        assert {way for way in ways if "gone" not in way} <= named
    else:
        texts = " ".join(group["fingerprint"]["text"] for group in groups)
        assert '"GET /po_owners/" at +0x0' in texts
        said = [leak["fingerprint"]["text"] for leak in answer["slab"]]
        assert sum("[po_owners]" in text for text in said) >= 5


def test_a_snapshot_has_leaks_and_owners_without_records(
    dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="snapshots need pyarrow (the extra parquet)")
    for name in ("linux-7.2-profiling/owner-off-tags", "linux-5.10/owner-off"):
        session = dump_named(name).session()
        path = tmp_path / "saved.parquet"
        assert ask(session, f"save --leaks {path}")[0] == 0
        saved = SnapshotSession(str(path))
        for question in ("leaks --slab --format json", "top --slab --format json"):
            assert ask(session, question)[:2] == ask(saved, question)[:2], (name, question)
        status = ask(saved, "list --limit 3")[0]
        assert status == (0 if "tags" in name else 1)
        twice = tmp_path / "again.parquet"
        assert ask(saved, f"save --leaks {twice}")[0] == 0
        saved = SnapshotSession(str(twice))
        assert ask(saved, "leaks --slab --format json") == ask(
            SnapshotSession(str(path)), "leaks --slab --format json"
        )


def test_objects_are_charged_to_the_cgroup_that_the_module_ran_in(
    dump_named: Callable[[str], Dump],
) -> None:
    dump = dump_named("linux-7.2-profiling/owner-off-tags")
    answer = json.loads(ask(dump.session(), "leaks --slab --format json")[1])
    charged = [
        leak for leak in answer["slab"] if (leak["tag"] or "").endswith("func:po_lose_account")
    ] or [leak for leak in answer["slab"] if leak["cache"].startswith("kmalloc-cg-512")]
    assert charged
    assert all(leak["memcgs"] == {"/alpha": leak["objects"]} for leak in charged)


def test_why_says_what_is_in_lost_memory(dump_named: Callable[[str], Dump]) -> None:
    dump = dump_named("linux-7.2-profiling/owner-off-compressed")
    session = dump.session()
    [pfn, *_] = [f["pfn"] for f in dump.facts() if f.get("how") == "text_page"]
    [item, *_] = [f["va"] for f in dump.facts() if f.get("how") == "item"]
    page = json.loads(ask(session, f"why pfn:{pfn} --format json")[1])
    assert page["verdict"] == "unreachable"
    assert page["fingerprint"]["clues"][0] == {
        "offset": 0, "kind": "text", "text": "GET /po_owners/",
    }  # fmt: skip
    assert bytes.fromhex(page["fingerprint"]["bytes"]).startswith(b"GET /po_owners/")
    text = ask(session, f"why {item}")[1]
    assert "address of po_owners_ops [po_owners] at +0x10" in text
    assert "POWo" in text or "OPWo" in text
