# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test allocation tags: counters, and the pages, slab objects and per-CPU memory with a tag."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import ask
from conftest import Dump, dump_id, profiling
from damaged import hole

from drgn_pageowner.kernel.dump.bulk import gather
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program
from drgn_pageowner.kernel.linux import alloc_tag
from drgn_pageowner.kernel.read.tags import read_tag_use, read_tags
from drgn_pageowner.model.tags import TagUse, allocation_sizes
from drgn_pageowner.storage.session import open_file

ALLOCINFO = "proc/allocinfo"
# Reading the file allocates and frees: the seq_file, its buffer, the page that is copied to.
_MOVED = 8


@pytest.fixture(scope="module", params=profiling(), ids=dump_id)
def tagged(request: pytest.FixtureRequest) -> Dump:
    """Yield every dump of a kernel with allocation tags."""
    dump: Dump = request.param()
    if not dump.has_truth(ALLOCINFO):
        pytest.skip("profiling was off for good")
    return dump


@pytest.fixture(scope="module")
def use(tagged: Dump) -> TagUse:
    return read_tag_use(tagged.linux)


def found_bytes(use: TagUse) -> np.ndarray[Any, Any]:
    found = use.found
    assert found is not None
    return found.pages * use.page_size + found.object_bytes + found.percpu_bytes


def test_the_text_is_the_kernels(tagged: Dump) -> None:
    ours = tagged.run("allocinfo", "--format", "text", check=True).stdout.encode().splitlines()
    theirs = tagged.truth(ALLOCINFO).splitlines()
    assert len(ours) == len(theirs) > 900
    assert ours[:2] == theirs[:2]
    different = [(one, two) for one, two in zip(ours, theirs, strict=True) if one != two]
    assert len(different) <= _MOVED
    for one, two in different:
        # The same tag with different counters.
        assert one[22:] == two[22:]


def test_a_text_comes_back_byte_for_byte(tagged: Dump) -> None:
    session = open_file(str(tagged.truth_directory / ALLOCINFO))
    status, out, err = ask(session, "allocinfo --format text")
    assert (status, out.encode(), err) == (0, tagged.truth(ALLOCINFO), "")


def test_what_bears_a_tag_is_what_the_kernel_counts(use: TagUse) -> None:
    tags, found = use.tags, use.found
    assert found is not None
    calls = found.page_allocations + found.objects + found.percpu_allocations
    different = (found_bytes(use) != tags.bytes) | (calls != tags.calls)
    # Bytes without calls: this kernel's counter of compaction_alloc() is wrong.
    odd = (tags.bytes != 0) & (tags.calls == 0)
    assert np.flatnonzero(different & tags.listed & ~odd).tolist() == []
    assert np.count_nonzero(odd & tags.listed) <= 1
    assert found.pages.sum() > 20_000
    assert found.objects.sum() > 10_000
    assert found.percpu_bytes.sum() > 0


def test_what_the_module_holds_and_loses_has_its_tags(tagged: Dump, use: TagUse) -> None:
    """Compare with the guest's module, which logs the source line of each of its allocations."""
    functions: dict[str, Counter[str]] = {}
    for fact in tagged.facts():
        if fact.get("name") != "po_owners" or "line" not in fact:
            continue
        counts = functions.setdefault(fact["func"], Counter())
        if fact["what"] in ("leaked", "held"):
            counts["pages"] += 1 << int(fact["order"])
        elif fact["what"] in ("lostobj", "heldobj"):
            counts["objects"] += 1
    found = use.found
    assert found is not None
    compared = 0
    for function, counts in functions.items():
        rows = [n for n, tag in enumerate(use.tags.places) if tag.function == function]
        # Pages allocated by vmalloc() and vmap() have tags of these functions.
        if not rows or function.startswith(("po_lose_v", "po_keep_v")):
            continue
        assert found.pages[rows].sum() >= counts["pages"], function
        assert found.objects[rows].sum() >= counts["objects"], function
        compared += counts["pages"] + counts["objects"]
    assert compared > 100


def test_a_module_that_is_gone_keeps_its_tags(tagged: Dump, use: TagUse) -> None:
    gone = np.flatnonzero(~use.tags.listed)
    assert len(gone) >= 2
    assert (found_bytes(use)[gone] > 0).all()
    lines = {use.tags.places[number].lineno for number in gone.tolist()}
    assert lines
    result = tagged.run("allocinfo", "--sort", "found", "--limit", "0")
    assert "its module is gone" in result.stdout
    assert "are of modules that are gone" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_groups_add_up(tagged: Dump, use: TagUse) -> None:
    for by in ("tag", "module", "file", "function", "module,file"):
        answer = json.loads(tagged.run("allocinfo", "--by", by, "--format", "json").stdout)
        assert answer["by"] == by.split(",")
        assert sum(group["bytes"] for group in answer["groups"]) == answer["bytes"]
        assert answer["bytes"] == int(use.tags.bytes.sum())
        assert answer["found_bytes"] == int(found_bytes(use).sum())
        assert len({tuple(group["key"].values()) for group in answer["groups"]}) == len(
            answer["groups"]
        )


def test_filters_and_sorting(tagged: Dump) -> None:
    session = tagged.session()
    out = ask(session, "allocinfo --module po_* --format csv --sort calls")[1]
    rows = list(csv.DictReader(out.splitlines()))
    assert rows
    assert all("[po_" in row["tag"] for row in rows)
    calls = [int(row["calls"]) for row in rows]
    assert calls == sorted(calls, reverse=True)
    some = ask(session, "allocinfo --file mm/* --function *slab* --format json")[1]
    assert {"alloc_slab_page"} <= {
        group["key"]["tag"].rpartition(":")[2] for group in json.loads(some)["groups"]
    }
    status, _, err = ask(session, "allocinfo --by comm")
    assert status == 2
    assert err.endswith("cannot group tags by 'comm': known are tag, file, module, function")
    assert ask(session, "allocinfo --sort pages")[0] == 2
    everything = json.loads(ask(session, "allocinfo --unused --format json")[1])
    # Two tags with the same source line are one group.
    assert sum(group["tags"] for group in everything["groups"]) == everything["tags"] > 1000


def test_a_snapshot_answers_the_same(tagged: Dump, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="a snapshot is saved")
    session = tagged.session()
    path = tmp_path / "saved.parquet"
    assert ask(session, f"save {path}")[0] == 0
    saved = open_file(str(path))
    for line in ("allocinfo", "allocinfo --format text", "allocinfo --by module --format json"):
        assert ask(saved, line) == ask(session, line)


def test_a_kernel_without_tags_says_so(dump_named: Callable[[str], Dump]) -> None:
    result = dump_named("linux-6.12/kdump").run("allocinfo")
    assert (result.returncode, result.stdout) == (1, "")
    assert "built without CONFIG_MEM_ALLOC_PROFILING" in result.stderr
    old = dump_named("linux-5.10/noleak").run("allocinfo", "--format", "text")
    assert (old.returncode, len(old.stderr.splitlines())) == (1, 1)


def test_profiling_that_was_off_for_good() -> None:
    off = [get() for get in profiling()]
    off = [dump for dump in off if not dump.has_truth(ALLOCINFO)]
    if not off:
        pytest.skip("there is no such dump")
    for dump in off:
        result = dump.run("allocinfo")
        assert (result.returncode, result.stdout) == (1, "")
        assert "boot with sysctl.vm.mem_profiling=1" in result.stderr


def test_torn_counters_and_garbage_references(tagged: Dump) -> None:
    kernel = Kernel.of(tagged.prog)
    table = alloc_tag.read_tag_table(kernel)
    addresses = np.array([16, 0xFFFF_8000_0000_1235, int(table.address[3]) + 1], np.uint64)
    assert alloc_tag.read_tag_counters(kernel, addresses)[0].shape == (3,)
    assert table.number(np.array([0, 1, int(table.address[5])], np.uint64)).tolist() == [-1, -1, 5]
    more = alloc_tag.add_unlisted(kernel, table, addresses)
    assert len(more.address) == len(table.address)
    assert more.problems == [
        *table.problems,
        "3 references to no allocation tag: damaged",
    ]


def test_tags_that_are_not_in_the_dump(tagged: Dump) -> None:
    prog = open_program(ProgramOptions(core=str(tagged.vmcore), symbols=(str(tagged.vmlinux),)))
    start = int(alloc_tag.read_tag_table(Kernel(prog)).address[100])
    hole(prog, start, 4096 - start % 4096)
    tags = read_tags(Kernel(prog))
    assert "some of the allocation tags at" in tags.problems[0]
    assert tags.bytes.sum() > 0


def test_sizes_of_blocks_that_are_not_compound() -> None:
    """A block is a page with a reference count, and the following pages without."""
    # Row 0: single page; 4: order 2; 8: compound page of 4; 12: order 1, because its PFN is only
    # aligned to 2.
    followers = np.zeros(24, bool)
    followers[[5, 6, 7, 15, 16, 17, 18]] = True
    rows = np.array([0, 4, 8, 14], np.int64)
    compound = np.array([0, 0, 4, 0], np.int64)
    assert allocation_sizes(rows, compound, followers, rows + 1024).tolist() == [1, 4, 4, 2]
    assert allocation_sizes(rows[:0], compound[:0], followers, rows[:0]).tolist() == []


def test_gathering_reads_what_is_there(one_dump: Dump) -> None:
    prog = one_dump.prog
    start = int(prog.symbol("__start_rodata").address)
    addresses = np.array([start + 8, 64, start + 100_000, start + 3, start + 8], np.uint64)
    values, there = gather(prog, addresses, np.dtype("<u8"))
    assert there.tolist() == [True, False, True, True, True]
    expected = [int.from_bytes(prog.read(int(a), 8), "little") for a in addresses[there]]
    assert values[there].tolist() == expected
    assert values[1] == 0
    assert gather(prog, addresses[:0], np.dtype("<u8"))[0].shape == (0,)
