# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the memory of processes and drivers with the records, the account and the guests'
facts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.analysis.account.holders import Holders, columns_for_holders, holders
from drgn_pageowner.analysis.account.page_class import PageClass, page_classes
from drgn_pageowner.model.heap import AreaKind, record_of_row

DUMPS = ["linux-6.12/traps", "linux-7.2-arm64-16k/kdump"]


@pytest.fixture(scope="module", params=DUMPS)
def found(
    request: pytest.FixtureRequest,
    dump_named: Callable[[str], Dump],
    live: Callable[[Dump], Any],
) -> tuple[Any, Any, dict[str, Holders]]:
    inventory = live(dump_named(request.param)).inventory()
    classes = page_classes(inventory)
    by = {by: holders(inventory.records, inventory, classes, by) for by in ("process", "driver")}
    return inventory, classes, by


def test_every_page_with_a_record_is_counted_once(found: Any) -> None:
    inventory, classes, by = found
    rows = record_of_row(inventory.memory.pages, inventory.records) >= 0
    counts = np.bincount(classes[rows], minlength=len(PageClass))
    for result in by.values():
        assert result.pages == int(rows.sum()) == sum(one.pages for one in result.holders)
        summed: dict[str, int] = {}
        for one in result.holders:
            assert sum(one.classes.values()) == one.pages
            for kind, pages in one.classes.items():
                summed[kind] = summed.get(kind, 0) + pages
        assert summed == {
            PageClass.label_of(kind): int(pages) for kind, pages in enumerate(counts) if pages
        }


def test_a_process_has_what_its_threads_allocated(found: Any) -> None:
    inventory, _, by = found
    records, result = inventory.records, by["process"]
    column = "pid" if result.threads_apart else "tgid"
    assert result.threads_apart == ("tgid" not in records)
    largest = result.holders[0]
    mine = records[column] == largest.key
    # A free page whose record says that it is allocated is not counted.
    assert 0.99 <= largest.pages / int(records.pages[mine].sum()) <= 1
    assert largest.allocations == int(mine.sum())
    for one in result.holders:
        assert one.alive == (one.key in inventory.tasks or one.key == 0)


def test_a_driver_has_the_memory_that_it_lies_in(found: Any) -> None:
    inventory, classes, by = found
    drivers = {one.key: one for one in by["driver"].holders}
    assert drivers.keys() > set(inventory.modules)
    for name in inventory.modules:
        areas = [a for a in inventory.areas if a.kind is AreaKind.MODULE and a.name == name]
        rows = np.concatenate([a.rows[a.rows >= 0] for a in areas])
        own = int((classes[rows] == PageClass.MODULE).sum())
        assert drivers[name].classes.get("modules", 0) == own
        assert drivers[name].alive
    assert drivers[None].alive is None


def test_what_is_charged_to_a_cgroup_is_the_sum_over_everybody(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    session = live(dump_named("linux-6.12/traps"))
    records = session.snapshot(columns_for_holders("process"))
    result = holders(records, None, None, "process")
    known = [one for one in result.holders if one.cgroup is not None]
    assert known
    for one in known:
        number = [group.path for group in records.memcgs].index(one.cgroup)
        assert one.cgroup_pages == int(records.pages[records["memcg"] == number].sum())


def test_json_has_what_the_table_shows(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    session = live(dump_named("linux-6.12/traps"))
    for by in ("process", "driver"):
        status, said, _ = ask(session, f"top --by {by} --format json")
        assert status == 0
        document = json.loads(said)
        status, table, _ = ask(session, f"top --by {by} --limit 0")
        assert status == 0
        # The command line of a process is below it.
        rows = table.partition("\n\n")[2].splitlines()[2:]
        lines = [line for line in rows if not line.startswith("    /")]
        for one, line in zip(document["holders"], lines, strict=True):
            assert line.split()[0] == f"{one['pages']:,}"
        status, csv, _ = ask(session, f"top --by {by} --format csv")
        assert len(csv.splitlines()) == len(document["holders"]) + 1


def test_filters_select_and_other_keys_are_refused(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    session = live(dump_named("linux-6.12/traps"))
    _, said, _ = ask(session, "top --by driver --module po_leak --format json")
    document = json.loads(said)
    # The innermost module counts; po_leak calls functions of po_holder.
    assert {one["key"] for one in document["holders"]} == {"po_leak", "po_holder"}
    status, _, error = ask(session, "top --by process,order")
    assert status == 2
    assert "--by tgid" in error


def test_a_kernel_that_records_no_pid_has_drivers_alone(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    session = live(dump_named("linux-5.10/traps"))
    status, _, error = ask(session, "top --by process")
    assert status == 2
    assert "does not record pid" in error
    status, said, _ = ask(session, "top --by driver")
    assert status == 0
    assert "po_leak" in said


def test_a_process_has_the_program_that_it_runs(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    session = live(dump_named("linux-6.12/traps"))
    _, said, _ = ask(session, "top --by process --format json")
    lines = {one["key"]: one["command_line"] for one in json.loads(said)["holders"]}
    assert lines[1] == "/bin/truth"
    assert lines[2] is None
    _, said, _ = ask(session, "top --by process --limit 1")
    assert "/bin/truth\n" in said
    _, said, _ = ask(session, "top --by driver")
    assert "/bin/" not in said
