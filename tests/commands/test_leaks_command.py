# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``leaks`` sums up by, and its filters, against all groups as JSON."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from asking import ask
from conftest import Dump, bundled, dump_id, traps

LOST = ("unreachable", "only reachable from unreachable", "held by nothing but itself")
DUMP = "linux-6.12/traps"
GROUP = dict[str, Any]
# Modules of the guests that were unloaded.
UNLOADED = ("po_leakgone", "po_gone")


@pytest.fixture(scope="module")
def session(dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]) -> Any:
    return live(dump_named(DUMP))


def groups_of(session: Any, options: str = "") -> list[GROUP]:
    status, said, error = ask(session, f"leaks {options} --format json")
    assert status == 0, error
    found: list[GROUP] = json.loads(said)["groups"]
    return found


@functools.cache
def module_of_pfn(name: str) -> dict[int, str]:
    """Return the module that allocated each page, as the modules themselves logged it."""
    return {
        int(fact["pfn"], 0): "(unloaded)" if fact["name"] in UNLOADED else fact["name"]
        for fact in bundled(name).facts()
        if fact["kind"] == "module" and "pfn" in fact
    }


def module(group: GROUP) -> str:
    known = module_of_pfn(DUMP)
    [name] = {known[pfn] for pfn in group["pfns"]}
    return name


def owner(group: GROUP, by: str) -> str:
    if by == "allocator":
        return re.sub(r"\+0x[^ ]*", "", group["allocator"])
    if by == "task":
        first = group["tasks"][0]
        return f"{first['comm']} {first['pid']}"
    if by == "module":
        return module(group)
    return str(group["handle"])


@pytest.mark.parametrize("by", ["allocator", "stack", "task", "module"])
def test_owners_sum_up_all_groups(session: Any, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    expected: Counter[tuple[str, bool]] = Counter()
    for group in groups_of(session):
        expected[owner(group, by), group["verdict"] in LOST] += group["pages"]
    status, said, _ = ask(session, f"leaks --by {by} --limit 0")
    assert status == 0
    rows = [line for line in said.splitlines() if re.match(r" *\d+ ", line) and "lost" not in line]
    assert len(rows) == len(expected)
    pages = [int(row.split()[1].replace(",", "")) for row in rows]
    assert sorted(pages) == sorted(expected.values())
    for (name, _), number in expected.items():
        assert any(name in row and f" {number} " in row for row in rows), name
    noun = "owner" if by == "allocator" else by
    lost = sum(1 for _, is_lost in expected if is_lost)
    assert f"lost, by {lost} {noun}{'s' * (lost != 1)};" in " ".join(said.split())


@pytest.mark.parametrize("get", traps(), ids=dump_id)
def test_all_commands_name_the_same_module(get: Any, live: Callable[[Dump], Any]) -> None:
    """po_leakgone and po_gone lost memory and were unloaded; po_leak took their place."""
    dump: Dump = get()
    of_pfn = {
        int(fact["pfn"], 0): fact["name"] for fact in dump.facts()
        if fact["kind"] == "module" and "pfn" in fact
    }  # fmt: skip
    if not set(UNLOADED) & set(of_pfn.values()):
        pytest.skip("no module was unloaded in this guest")
    session = live(dump)
    groups = groups_of(session, "--limit 0")
    unloaded = [g for g in groups if {of_pfn.get(pfn) for pfn in g["pfns"]} & set(UNLOADED)]
    assert len({pfn for group in unloaded for pfn in group["pfns"]}) == 27
    assert sum(group["pages"] for group in unloaded) == 48
    for group in unloaded:
        assert {of_pfn[pfn] for pfn in group["pfns"]} <= set(UNLOADED)
        assert group["modules"] == {}
        assert "[" not in group["allocator"]
    assert groups_of(session, "--module po_leak --limit 0") == [
        g for g in groups if "po_leak" in {of_pfn.get(pfn) for pfn in g["pfns"]}
    ]
    _, said, _ = ask(session, "leaks --by module --limit 0")
    assert re.search(r"^ *\d+ +48 .*\(unloaded\)", said, re.MULTILINE)
    _, said, _ = ask(session, "leaks --limit 0")
    addresses = {re.sub(r"\+.*", "", group["allocator"]) for group in unloaded}
    assert set(re.findall(r"(0x[0-9a-f]+) \(unloaded\)", said)) == addresses
    # The records, by filter and by group.
    _, said, _ = ask(session, "list --module po_leak --format json")
    records = [json.loads(line) for line in said.splitlines()]
    assert records
    assert not {of_pfn.get(record["pfn"]) for record in records} & set(UNLOADED)
    _, said, _ = ask(session, "top --by module --module po_leak --limit 0 --format json")
    assert json.loads(said)["total"]["pages"] == sum(1 << record["order"] for record in records)


def test_tags_sum_up_all_groups(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    session = live(dump_named("linux-6.12-profiling/records"))
    tags = {group["tag"] for group in groups_of(session)}
    assert len(tags) > 1
    status, said, _ = ask(session, "leaks --by tag --limit 0 --stacks")
    assert status == 0
    for tag in tags - {None}:
        assert f"tag: {tag}" in " ".join(said.split())


FILTERS: dict[str, Callable[[GROUP, int], bool]] = {
    "--module po_l*": lambda g, now: module(g) == "po_leak",
    "--comm insmod --pid 95": lambda g, now: any(task["pid"] == 95 for task in g["tasks"]),
    "--stack-contains leak_ring": lambda g, now: "leak_ring" in str(g["stack"]),
    "--confidence low": lambda g, now: g["confidence"] == "low",
    "--confidence high,medium": lambda g, now: g["confidence"] in ("high", "medium"),
    "--min-age 20s": lambda g, now: now - g["newest_ns"] >= 20 * 10**9,
    "--max-age 20s": lambda g, now: now - g["oldest_ns"] <= 20 * 10**9,
    "--by stack --min-pages 16": lambda g, now: g["pages"] >= 16,
    "--by stack --min-size 64K": lambda g, now: g["bytes"] >= 64 << 10,
}


@pytest.mark.parametrize("options", FILTERS)
def test_a_filter_takes_what_it_says(session: Any, options: str) -> None:
    everything = groups_of(session)
    now = session.facts().now_ns
    expected = [group for group in everything if FILTERS[options](group, now)]
    assert expected
    assert len(expected) < len(everything)
    found = groups_of(session, options)
    if "min-" in options and "age" not in options:
        # Of several verdicts of one stack, the sum counts.
        stacks = {group["handle"] for group in expected}
        assert stacks <= {group["handle"] for group in found}
        assert len(found) < len(everything)
        return
    assert found == expected


def test_a_filter_that_takes_nothing_says_how_many_there_are(session: Any) -> None:
    status, said, _ = ask(session, "leaks --comm nobody")
    assert status == 0
    assert "0 of 14 owners match, with 0 pages" in said
