# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compare the search for leaks with the facts of the modules po_leak and po_leakgone and of the
program work (testdata/recipe), which log the state of every page.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from conftest import Dump, dump_id, leak_free, traps

from drgn_pageowner.analysis.leaks.reach import _at_least
from drgn_pageowner.kernel.dump.bulk import word_dtype
from drgn_pageowner.kernel.linux.translate import direct_map

# Pages that are referred to by PFN or physical address.
BY_NUMBER = {"pfn_only", "phys_only", "pfn32"}
LOST = {"unreachable", "only reachable from unreachable", "held by nothing but itself"}


@pytest.fixture(scope="module", params=traps(), ids=dump_id)
def dump(request: pytest.FixtureRequest) -> Dump:
    got: Dump = request.param()
    return got


@pytest.fixture(scope="module")
def answer(dump: Dump) -> Any:
    return json.loads(dump.run("leaks", "--all", "--slab", "--format", "json", check=True).stdout)


@pytest.fixture(scope="module")
def verdicts(answer: Any) -> dict[int, str]:
    """Return head PFN -> verdict, for every record that was judged."""
    return {pfn: group["verdict"] for group in answer["groups"] for pfn in group["pfns"]}


def facts(dump: Dump, what: str) -> dict[str, list[tuple[int, int]]]:
    """Return the way of holding or leaking -> ``(pfn, order)`` of the pages."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for fact in dump.facts():
        if fact.get("what") == what and "pfn" in fact:
            found[fact["how"]].append((int(fact["pfn"]), int(fact.get("order", 0))))
    return found


def drops_pointers(dump: Dump) -> bool:
    """
    Return whether po_leak has no pointers to the per-CPU memory that it allocated.

    An earlier version stored them in a variable that it never read, which gcc optimized away, so
    memory that should be held is lost. Later versions log "percpu_alloc".
    """
    return "percpu_alloc" not in facts(dump, "held")


def held(dump: Dump) -> dict[str, list[tuple[int, int]]]:
    """Return the way of holding -> ``(pfn, order)`` of the held pages."""
    found = facts(dump, "held")
    if drops_pointers(dump):
        # Only every other page is referred to by a per-CPU variable.
        found["percpu"] = found["percpu"][::2]
    return found


def lost(dump: Dump) -> dict[str, list[tuple[int, int]]]:
    """Return the way of leaking -> ``(pfn, order)`` of the lost pages."""
    found = facts(dump, "leaked")
    if drops_pointers(dump):
        found["percpu"] = facts(dump, "held")["percpu"][1::2]
    return found


@pytest.fixture
def wide(dump: Dump) -> Dump:
    if word_dtype(dump.prog).itemsize < 8:
        pytest.skip("of 32 bits, words in what was never written are addresses by chance")
    return dump


@pytest.mark.parametrize("number", range(6))
def test_chances_of_each_are_taken_together(number: int) -> None:
    chances = [0.9, 0.5, 0.02, 0.3, 0.85]
    wanted = 0.0
    for happens in itertools.product((True, False), repeat=len(chances)):
        if sum(happens) >= number:
            wanted += math.prod(c if h else 1 - c for h, c in zip(happens, chances, strict=True))
    assert _at_least(number, np.array(chances)) == pytest.approx(wanted)


@pytest.mark.every_dump
def test_nobody_who_holds_a_page_is_accused(dump: Dump, verdicts: dict[int, str]) -> None:
    ways = held(dump)
    assert len(ways) >= 15
    for how, pages in ways.items():
        for pfn, _ in pages:
            # Pages of processes and files are not judged.
            allowed = {"reachable"} | ({"known only by PFN"} if how in BY_NUMBER else set())
            assert verdicts.get(pfn, "reachable") in allowed, (how, hex(pfn))
    for how in BY_NUMBER:
        # A stale address may point to one of them.
        found = [verdicts[pfn] for pfn, _ in ways[how]]
        assert found.count("known only by PFN") >= len(found) - 1
    for how in ways.keys() - {"pipe", "cache", "socket", "user"}:
        assert all(pfn in verdicts for pfn, _ in ways[how])


def test_what_was_leaked_is_found(dump: Dump, verdicts: dict[int, str]) -> None:
    leaked = lost(dump)
    assert set(leaked) - {"percpu"} == {
        "single", "order", "ring", "tree", "lru_ring", "kmalloc_large", "object", "exact", "gone",
    }  # fmt: skip
    total: Counter[bool] = Counter()
    for pages in leaked.values():
        for pfn, order in pages:
            total[verdicts[pfn] in LOST] += 1 << order
    # In memory of unknown type, stale 32-bit words may equal addresses by chance.
    least = 0.9 if word_dtype(dump.prog).itemsize < 8 else 0.99 if dump.bundled else 0.95
    assert total[True] >= least * (total[True] + total[False])


def test_types_find_more_and_accuse_none_that_is_found_without(
    dump: Dump, answer: Any, verdicts: dict[int, str]
) -> None:
    untyped = json.loads(
        dump.run("leaks", "--all", "--slab", "--no-types", "--format", "json", check=True).stdout
    )
    before = {pfn for g in untyped["groups"] if g["verdict"] in LOST for pfn in g["pfns"]}
    assert before <= {pfn for pfn, verdict in verdicts.items() if verdict in LOST}
    assert {group["by_types"] for group in untyped["groups"]} == {None}
    objects = {a for leak in untyped["slab"] for a in leak["addresses"]}
    assert objects == {a for leak in answer["slab"] for a in leak["addresses"]}
    # Most held memory is reached by pointers whose types are certain.
    held = [group for group in answer["groups"] if group["verdict"] == "reachable"]
    assert sum(group["by_types"] for group in held) > 0
    if word_dtype(dump.prog).itemsize == 4:
        lost = [group for group in answer["groups"] if group["verdict"] in LOST]
        assert any("by their type" in " ".join(group["reasons"]) for group in lost)


def test_every_leaking_function_is_accused(wide: Dump, answer: Any) -> None:
    accused = " ".join(g["allocator"] for g in answer["groups"] if g["verdict"] in LOST)
    for name in ("single", "order", "ring", "tree", "lru_ring", "kmalloc_large", "object", "exact"):
        assert f"po_leak_{name}+" in accused
    # Stacks of an unloaded module have no symbols, or those of a module that is at the address now.
    gone = {pfn for pfn, _ in facts(wide, "leaked")["gone"]}
    for group in answer["groups"]:
        if gone & set(group["pfns"]):
            assert group["verdict"] in LOST
            assert "po_leakgone" not in " ".join(group["stack"])


def test_shapes_are_told_apart(wide: Dump, verdicts: dict[int, str]) -> None:
    leaked = facts(wide, "leaked")
    for how in ("ring", "lru_ring"):
        assert {verdicts[pfn] for pfn, _ in leaked[how]} == {"held by nothing but itself"}
    tree = Counter(verdicts[pfn] for pfn, _ in leaked["tree"])
    assert tree == {"unreachable": 1, "only reachable from unreachable": 24}
    for how, least in (("object", 13), ("single", 23)):
        wanted = "only reachable from unreachable" if how == "object" else "unreachable"
        assert sum(verdicts[pfn] == wanted for pfn, _ in leaked[how]) >= least


def test_nobody_else_is_accused(dump: Dump, answer: Any) -> None:
    """po_gone, another module of the guest, was unloaded without freeing its pages."""
    ours = {pfn for pages in lost(dump).values() for pfn, _ in pages}
    gone = {int(f["pfn"]) for f in dump.facts() if f.get("name") == "po_gone"}
    for group in answer["groups"]:
        if group["verdict"] in LOST:
            assert set(group["pfns"]) <= ours | gone


def test_a_group_says_who_and_when(dump: Dump, answer: Any) -> None:
    [group] = [
        g for g in answer["groups"] if "po_leak_single+" in g["allocator"] and g["verdict"] in LOST
    ]
    assert group["of_stack"] == 24
    assert group["allocations"] == group["pages"] == len(group["pfns"]) >= 23
    assert group["bytes"] == group["pages"] * dump.snapshot.facts.page_size
    assert group["modules"]["po_leak"] is True
    assert group["confidence"] in ("high", "medium")
    if "comm" in dump.snapshot:
        [task] = group["tasks"]
        assert (task["comm"], task["alive"]) == ("insmod", False)
        assert group["oldest_ns"] <= group["newest_ns"] < answer["now_ns"]
    text = dump.run("leaks", check=True).stdout
    assert "po_leak_single" in text
    assert text.startswith(f"{answer['lost_pages']:,} pages ")
    assert f"in {answer['lost_allocations']:,} allocations are lost" in text


def test_slab_objects_that_held_them_are_found(dump: Dump, answer: Any) -> None:
    lost = {address for leak in answer["slab"] for address in leak["addresses"]}
    page = dump.snapshot.facts.page_size
    places = {(address // page, address % page) for address in lost}
    base = direct_map(dump.linux)
    wanted = {
        (base // page + int(f["obj_pfn"]), int(f["offset"]))
        for f in dump.facts()
        if f.get("what") == "lostobj"
    }
    assert len(wanted) == 16
    # The live part of a stack may contain stale words, too.
    assert len(wanted & places) >= 13
    # slub_debug=U,kmalloc-256 records the task and the stack of each allocation.
    randomized = any(leak["cache"].startswith("kmalloc-rnd-") for leak in answer["slab"])
    if randomized or b"slub_debug" not in dump.truth("proc/cmdline"):
        # With CONFIG_RANDOM_KMALLOC_CACHES, there are several caches of this name with different
        # suffixes.
        return
    [tracked] = [leak for leak in answer["slab"] if leak["cache"] == "kmalloc-256"]
    assert any("po_leak_object+" in frame for frame in tracked["stack"])
    assert tracked["pids"]


def test_per_cpu_memory_that_was_lost_is_found_and_none_that_is_held(
    dump: Dump, answer: Any, verdicts: dict[int, str]
) -> None:
    found = [leak for leak in answer["slab"] if leak["cache"] == "per-CPU memory"]
    if not drops_pointers(dump):
        assert found == []
        return
    pages = lost(dump)["percpu"]
    # The only pointer to each of these pages is in a copy of the lost per-CPU memory.
    assert sum(leak["objects"] for leak in found) == len(pages) == 4
    assert {verdicts[pfn] for pfn, _ in pages} == {"only reachable from unreachable"}


def test_suspects_name_the_leaks_without_a_search(dump: Dump) -> None:
    found = json.loads(
        dump.run("leaks", "--suspects", "--limit", "0", "--format", "json", check=True).stdout
    )["suspects"]
    scores = [suspect["score"] for suspect in found]
    assert scores == sorted(scores, reverse=True)
    assert all(suspect["score"] == len(suspect["reasons"]) > 0 for suspect in found)
    if "comm" in dump.snapshot:
        assert any("po_leak_single+" in suspect["allocator"] for suspect in found)


@pytest.mark.parametrize("get", leak_free(), ids=dump_id)
def test_where_nothing_leaks_nobody_is_accused(get: Any) -> None:
    dump = get()
    answer = json.loads(dump.run("leaks", "--format", "json", check=True).stdout)
    assert {"single", "ring", "tree", "exact", "order"} <= held(dump).keys()
    accused = {pfn for g in answer["groups"] if g["verdict"] in LOST for pfn in g["pfns"]}
    assert accused == {pfn for pages in lost(dump).values() for pfn, _ in pages}


@pytest.mark.parametrize("name", ["linux-5.10/owner-off", "linux-6.12-noowner/kdump"])
def test_without_records_nothing_tells_suspects(dump_named: Any, name: str) -> None:
    result = dump_named(name).run("leaks", "--suspects")
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "page_owner=on" in line
