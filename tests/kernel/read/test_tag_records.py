# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test records with allocation tags, and allocations that are only known by a tag."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from asking import ask
from conftest import Dump, dump_id, profiling

from drgn_pageowner.kernel.read.page import page_report
from drgn_pageowner.kernel.read.records import read_records
from drgn_pageowner.kernel.read.tags import read_tag_use
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.storage.session import open_file


@pytest.fixture(scope="module", params=profiling(), ids=dump_id)
def tagged(request: pytest.FixtureRequest) -> Dump:
    """Yield every dump of a kernel with allocation tags."""
    dump: Dump = request.param()
    if not dump.has_truth("proc/allocinfo"):
        pytest.skip("profiling was off for good")
    return dump


@pytest.fixture(scope="module")
def rows(tagged: Dump) -> Snapshot:
    return read_records(tagged.linux)


def has_page_owner(dump: Dump) -> bool:
    return dump.has_truth("sys/kernel/debug/page_owner")


def test_pages_by_tag_are_the_kernels_count(tagged: Dump, rows: Snapshot) -> None:
    use = read_tag_use(tagged.linux)
    assert rows.tags is not None
    assert use.found is not None
    counts: dict[str, int] = {}
    for number, pages in zip(rows["tag"].tolist(), rows.pages.tolist(), strict=True):
        if number >= 0:
            counts[str(rows.tags.places[number])] = (
                counts.get(str(rows.tags.places[number]), 0) + pages
            )
    expected: dict[str, int] = {}
    for tag, pages in zip(use.tags.places, use.found.pages.tolist(), strict=True):
        expected[str(tag)] = expected.get(str(tag), 0) + pages
    assert counts == {tag: pages for tag, pages in expected.items() if pages}


def test_a_record_and_a_tag_are_one_row(tagged: Dump, rows: Snapshot) -> None:
    if not has_page_owner(tagged):
        pytest.skip("page_owner was off")
    known = rows["tag"] >= 0
    assert known.mean() > 0.85
    assert set(rows.columns) >= {"pid", "ts_nsec", "handle", "tag"}
    # The function of the tag is in the stack, unless the compiler inlined it.
    assert rows.tags is not None
    functions = [tag.function for tag in rows.tags.places]
    pairs = set(zip(rows["tag"][known].tolist(), rows.stack[known].tolist(), strict=True))
    hits = sum(
        any(
            (frame.name or "").split(".")[0] == functions[tag] for frame in rows.stack_frames(stack)
        )
        for tag, stack in pairs
    )
    assert hits > 0.2 * len(pairs)


def test_rows_without_page_owner_come_from_tags(tagged: Dump, rows: Snapshot) -> None:
    if has_page_owner(tagged):
        pytest.skip("page_owner was on")
    assert (rows["tag"] >= 0).all()
    assert not rows.columns.keys() & {"pid", "ts_nsec", "gfp_mask", "comm"}
    assert (rows["pfn"] % rows.pages == 0).all()
    ends = rows["pfn"] + rows.pages
    assert (ends[:-1] <= rows["pfn"][1:]).all()
    # The guest's module logs its allocations and their orders.
    place = {pfn: row for row, pfn in enumerate(rows["pfn"].tolist())}
    checked = 0
    for fact in tagged.facts():
        if fact.get("name") == "po_owners" and fact.get("what") in ("leaked", "held"):
            row = place.get(int(fact["pfn"]))
            if row is not None:
                assert rows["order"][row] == int(fact["order"])
                checked += 1
    assert checked > 50
    session = tagged.session()
    status, out, err = ask(session, "top --by tag --format json --limit 1")
    assert status == 0
    assert "rows are allocations of pages that bear a tag" in err
    assert json.loads(out)["total"]["pages"] == int(rows.pages.sum())
    assert ask(session, "top --by comm")[0] == 2
    stack = json.loads(ask(session, "list --format json --limit 1")[1])["stack"]
    assert len(stack) == 1
    assert " at " in stack[0]
    assert ask(session, "list --format debugfs")[0] == 1


def test_filters_and_groups_by_tag(tagged: Dump, rows: Snapshot) -> None:
    session = tagged.session()
    answer = json.loads(ask(session, "top --by tag --tag *po_owners* --format json --limit 0")[1])
    assert answer["groups"]
    assert all("po_owners" in group["key"]["tag"] for group in answer["groups"])
    assert rows.tags is not None
    mine = [n for n, tag in enumerate(rows.tags.places) if "po_owners" in str(tag)]
    assert answer["total"]["pages"] == int(rows.pages[np.isin(rows["tag"], mine)].sum())
    listed = ask(session, "list --tag *po_lose_block* --format json")[1].splitlines()
    assert listed
    assert all("func:po_lose_block" in json.loads(line)["tag"] for line in listed)


def test_a_snapshot_keeps_the_tags(tagged: Dump, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="a snapshot is saved")
    session = tagged.session()
    path = tmp_path / "tags.parquet"
    assert ask(session, f"save {path}")[0] == 0
    saved = open_file(str(path))
    line = "top --by tag,order --limit 0 --format json"
    assert json.loads(ask(saved, line)[1])["total"] == json.loads(ask(session, line)[1])["total"]
    groups = [json.loads(ask(one, line)[1])["groups"] for one in (saved, session)]
    assert [group["key"] for group in groups[0]] == [group["key"] for group in groups[1]]
    for command in ("account", "page pfn:0x100"):
        assert ask(saved, command)[0] == ask(session, command)[0]


def test_page_names_the_tag_of_a_page_and_of_an_object(tagged: Dump) -> None:
    pages = objects = 0
    for fact in tagged.facts():
        if fact.get("name") != "po_owners" or pages + objects > 40:
            continue
        if fact.get("what") == "leaked" and fact["func"] in ("po_lose_block", "po_lose_compound"):
            # The last page of the allocation: a tail page, or one without a reference count.
            pfn = int(fact["pfn"]) + (1 << int(fact["order"])) - 1
            info = page_report(tagged.linux, f"pfn:{pfn}")
            assert f"func:{fact['func']}" in (info.tag or "")
            pages += 1
        elif fact.get("what") == "lostobj":
            info = page_report(tagged.linux, fact["va"])
            assert info.slab is not None
            assert f"func:{fact['func']}" in info.slab["tag"]
            objects += 1
    assert pages > 5
    assert objects > 5
    text = ask(tagged.session(), "page pfn:0")[1]
    assert "tag " not in text


def test_what_two_dumps_have_by_tag(tagged: Dump) -> None:
    session = tagged.run("diff", tagged.vmcore, tagged.vmcore, "--by", "tag", "--format", "json")
    answer = json.loads(session.stdout)
    assert answer["changes"] == []
    assert answer["states"]["same"] > 50


def test_a_report_has_owners_by_tag(tagged: Dump) -> None:
    out = ask(tagged.session(), "report --no-leaks --format md")[1]
    assert "Owners by allocation tag" in out
