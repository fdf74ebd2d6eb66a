# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test ``frag`` on the command line, as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Dump

VIEWS = ("summary", "buddyinfo", "pagetypeinfo", "extfrag", "contiguity", "culprits", "cma", "map")


def answer(dump: Dump, *args: str) -> Any:
    return json.loads(dump.run("frag", *args, "--format", "json", check=True).stdout)


def test_every_view_is_text_and_json(dump: Dump) -> None:
    whole = answer(dump, "all", "--order", "4")
    assert set(whole) == {*VIEWS, "why"}
    text = dump.run("frag", "all", "--order", "4", check=True)
    assert text.stderr == ""
    for view in VIEWS:
        assert f"=== {view} ===\n" in text.stdout


def test_one_view_is_what_all_has_of_it(one_dump: Dump) -> None:
    whole = answer(one_dump, "all")
    for view in VIEWS:
        assert answer(one_dump, view) == whole[view]


def test_the_map_has_every_page_once(dump: Dump) -> None:
    zones = answer(dump, "map")["zones"]
    pages = sum(
        cell[kind]
        for zone in zones
        for cell in zone["cells"]
        for kind in ("free", "movable", "reclaimable", "unmovable")
    )
    assert pages == sum(zone.present for zone in dump.snapshot.facts.zones)


def test_the_map_is_plain_where_there_is_no_terminal(one_dump: Dump) -> None:
    text = one_dump.run("frag", "map", check=True).stdout
    assert "\033" not in text
    assert "all free" in text


def test_a_block_is_explained_page_by_page(dump: Dump) -> None:
    pfn = int(dump.snapshot["pfn"][dump.snapshot["allocated"]][5000])
    order = dump.snapshot.facts.pageblock_order
    by_pfn = answer(dump, "--explain", f"pfn:{pfn:#x}")
    assert by_pfn["pageblock"] == pfn >> order
    assert sum(run["pages"] for run in by_pfn["runs"]) == 1 << order
    assert answer(dump, "--explain", str(pfn >> order)) == by_pfn
    runs = {run["pfn"]: run for run in by_pfn["runs"]}
    assert runs[pfn]["handle"] == int(dump.snapshot["handle"][dump.snapshot["pfn"] == pfn][-1])


def test_an_allocation_that_fits_succeeds(dump: Dump) -> None:
    assert answer(dump, "why", "--order", "0")["verdict"] == "succeeds"
    text = dump.run("frag", "why", "--order", "0", check=True).stdout
    assert text.startswith("order 0, GFP_KERNEL (Unmovable): would succeed\n")


def test_node_and_flags_choose_the_zones(dump_named: Callable[[str], Dump]) -> None:
    dump = dump_named("linux-6.12/kdump")
    first = answer(dump, "why", "--order", "3", "--node", "1")["zones"]
    assert [zone["node"] for zone in first] == [1, 0]
    only = answer(dump, "why", "--order", "3", "--node", "1", "--gfp", "GFP_KERNEL|__GFP_THISNODE")
    assert [zone["node"] for zone in only["zones"]] == [1]
    movable = answer(dump, "why", "--order", "3", "--gfp", "GFP_HIGHUSER_MOVABLE")
    # Only movable allocations may use CMA memory.
    assert movable["zones"][1]["usable"] > answer(dump, "why", "--order", "3")["zones"][1]["usable"]


def test_culprits_are_ranked_as_asked(one_dump: Dump) -> None:
    for sort, key in (("blocks", "blocks"), ("only", "only_blocker"), ("pages", "pages")):
        found = answer(one_dump, "culprits", "--sort", sort, "--limit", "0")["blocking"]
        values = [culprit[key] for culprit in found]
        assert values == sorted(values, reverse=True)
        assert all(c["only_blocker"] <= c["blocks"] <= c["pages"] for c in found)


def test_contiguity_adds_up(dump: Dump) -> None:
    for size in answer(dump, "contiguity")["sizes"]:
        parts = ("free", "movable", "blocked", "unknown")
        assert sum(size[part] for part in parts) == size["blocks"]
        assert sum(size["blocked_by"]) == size["blocked"]
        assert size["for_half"] <= size["in_the_way"]


@pytest.mark.parametrize("name", ["linux-5.10/owner-off", "linux-6.12-noowner/kdump"])
def test_without_records_everything_else_works(
    dump_named: Callable[[str], Dump], name: str
) -> None:
    dump = dump_named(name)
    result = dump.run("frag", "all", "--order", "9")
    assert result.returncode == 0
    [line] = result.stderr.splitlines()
    assert "no page_owner records, so owners cannot be named" in line
    assert "page_owner=on" in line
    truth = dump.truth("proc/buddyinfo").decode()
    ours = dump.run("frag", "buddyinfo", check=True)
    assert ours.stdout.split()[:4] == truth.split()[:4]
    assert "mixed" not in dump.run("frag", "pagetypeinfo").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["sideways"], 2, "sideways"),
        (["why"], 2, "--order"),
        (["why", "--order", "77"], 2, "77"),
        (["why", "--order", "1", "--gfp", "GFP_NONSENSE"], 2, "GFP_NONSENSE"),
        (["why", "--order", "1", "--node", "9"], 2, "node 9"),
        (["--explain", "middle"], 2, "middle"),
        (["--explain", "99999999"], 1, "beyond memory"),
    ],
)
def test_wrong_questions(one_dump: Dump, arguments: list[str], status: int, word: str) -> None:
    result = one_dump.run("frag", *arguments)
    assert result.returncode == status
    [line] = result.stderr.splitlines()
    assert word in line
