# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the owners of slab objects: tags, and the stacks that slab debugging records."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from asking import ask
from conftest import Dump, dump_id, profiling
from drgn import Object

from drgn_pageowner.analysis.owners.slab import top_slab
from drgn_pageowner.kernel.linux.slab_track import readable_caches, track_offset
from drgn_pageowner.kernel.read.heap import HeapReader
from drgn_pageowner.kernel.read.inventory import InventoryReader
from drgn_pageowner.kernel.read.object_owners import read_object_facts, read_object_owners
from drgn_pageowner.kernel.session import ProgramSession


@pytest.fixture(scope="module", params=profiling(), ids=dump_id)
def tagged(request: pytest.FixtureRequest) -> Dump:
    """Yield every dump of a kernel with allocation tags."""
    dump: Dump = request.param()
    if not dump.has_truth("proc/allocinfo"):
        pytest.skip("profiling was off for good")
    return dump


def test_free_objects_are_those_that_a_search_finds(dump_named: Callable[[str], Dump]) -> None:
    kernel = dump_named("linux-6.12/kdump").linux
    owners = read_object_owners(kernel)
    reader = InventoryReader(kernel)
    HeapReader(kernel, reader)
    assert np.array_equal(owners.slabs.allocated, reader.inventory.slabs.allocated)


def test_facts_of_some_objects_are_those_of_all(dump_named: Callable[[str], Dump]) -> None:
    # The track contains the stack before Linux kernel commit 5cf909c553e9 ("mm/slub: use stackdepot
    # to save stack trace in objects") (in v5.19), and a handle since then.
    for name in ("linux-5.10/traps", "linux-6.12/traps"):
        kernel = dump_named(name).linux
        owners = read_object_owners(kernel)
        tracked = np.flatnonzero((owners.handle > 0) & owners.slabs.allocated)
        assert len(tracked) > 50, name
        pages = InventoryReader(kernel).pages
        chosen = np.append(tracked[:: max(len(tracked) // 40, 1)], tracked[-1] + 1)
        facts = read_object_facts(kernel, pages, owners.slabs, chosen, [])
        for place, number in enumerate(chosen[:-1].tolist()):
            frames = owners.frames(int(owners.handle[number]))
            assert facts.stacks[facts.stack[place]] == frames
            assert int(owners.pid[number]) == facts.pid[place]
            offset = track_offset(kernel, readable_caches(kernel)["kmalloc-256"])
            track = Object(kernel.prog, "struct track", address=int(facts.address[place]) + offset)
            assert int(track.pid) == facts.pid[place]


def test_objects_that_the_module_has_are_its(tagged: Dump) -> None:
    owners = read_object_owners(tagged.linux)
    result = top_slab(owners)
    assert result.with_owner > 0.9 * result.objects
    assert sum(group.objects for group in result.groups) == result.objects
    assert sum(group.bytes for group in result.groups) == result.bytes
    ours: Counter[str] = Counter()
    for group in result.groups:
        if group.tag is not None and "[po_owners]" in group.tag:
            ours[group.tag.rpartition("func:")[2]] += group.objects
    expected: Counter[str] = Counter()
    for fact in tagged.facts():
        if fact.get("name") == "po_owners" and fact.get("what") in ("lostobj", "heldobj"):
            expected[fact["func"]] += 1
    assert expected
    for function, number in expected.items():
        assert ours[function] >= number, function


def test_top_and_account_print_slab_owners(tagged: Dump) -> None:
    session = tagged.session()
    whole = json.loads(ask(session, "top --slab --format json")[1])
    assert whole["number_of_groups"] == len(whole["groups"]) > 100
    table = ask(session, "top --slab --limit 3")[1]
    assert f"3 of {whole['number_of_groups']:,} groups shown" in table
    rows = list(csv.DictReader(ask(session, "top --slab --format csv")[1].splitlines()))
    assert sum(int(row["bytes"]) for row in rows) == whole["bytes"]
    answer = json.loads(ask(session, "account --slab --format json")[1])
    assert answer["owners"]["bytes"] == answer["caches"]["bytes"] == whole["bytes"]
    assert "caches shown" in ask(session, "account --slab --limit 2")[1]
    for line in ("top --slab --by comm", "top --slab --order 1", "top --slab --format folded"):
        assert ask(session, line)[0] == 2


def test_a_kernel_that_keeps_no_owners(dump_named: Callable[[str], Dump]) -> None:
    result = dump_named("linux-6.12-noowner/kdump").run("top", "--slab", "--limit", "2")
    assert result.returncode == 0
    assert "0 of which have an owner" in " ".join(result.stdout.split())
    # A column without any value is left out.
    assert "owner" not in result.stdout.split("\n\n")[1]


def test_lost_objects_are_grouped_by_tag(tagged: Dump) -> None:
    if not tagged.has_truth("sys/kernel/debug/page_owner"):
        pytest.skip("page_owner was off")
    groups = json.loads(ask(tagged.session(), "leaks --slab --format json")[1])["slab"]
    mine = [group for group in groups if "po_owners" in (group["tag"] or "")]
    assert len(mine) > 5
    keys = [(group["cache"], group["verdict"], group["tag"]) for group in mine]
    assert len(set(keys)) == len(keys)
    lost = {
        fact["va"]
        for fact in tagged.facts()
        if fact.get("name") == "po_owners" and fact.get("what") == "lostobj"
    }
    found = {f"{address:#x}" for group in mine for address in group["addresses"]}
    assert len(found & lost) > 0.8 * len(lost)


def test_what_blocks_pageblocks_by_tag(tagged: Dump) -> None:
    session = tagged.session()
    answer = json.loads(ask(session, "frag culprits --by tag --format json --limit 0")[1])
    owners = [one["allocator"] for one in answer["blocking"]]
    assert any("func:alloc_slab_page" in owner for owner in owners)


def test_what_a_kernel_can_tell_owners_by(tagged: Dump) -> None:
    answer = json.loads(ask(tagged.session(), "info --format json")[1])
    sources = {source["name"]: source for source in answer["sources"]}
    assert set(sources) == {"page_owner", "allocation tags", "SLUB user tracking", "KASAN"}
    assert sources["allocation tags"]["on"]
    on = tagged.has_truth("sys/kernel/debug/page_owner")
    assert sources["page_owner"]["on"] == on
    assert all(bool(source["answers"]) == source["on"] for source in sources.values())


def test_tags_are_a_table_of_sql(tagged: Dump) -> None:
    pytest.importorskip("duckdb", reason="sql needs duckdb (the extra sql)")
    query = "select sum(bytes) as b, count(*) as n from tags where listed"
    status, out, _ = ask_sql(tagged.session(), query)
    assert status == 0
    assert json.loads(out)["n"] > 900


def ask_sql(session: ProgramSession, query: str) -> tuple[int, str, str]:
    import io

    from drgn_pageowner.commands import CommandParser, add_commands, run_command

    parser, out = CommandParser(prog="drgn-pageowner"), io.StringIO()
    add_commands(parser)
    args = parser.parse_args(["sql", query, "--format", "json"])
    return run_command(args, session, out), out.getvalue(), ""
