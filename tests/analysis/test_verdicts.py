# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test verdicts on hand-made reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from handmade import MOVABLE, NOW, SECOND, UNMOVABLE, Machine, Record, facts, heap

from drgn_pageowner.analysis.report import Report, ReportInputs, report
from drgn_pageowner.analysis.triage import sum_up
from drgn_pageowner.analysis.verdicts import LEVELS, Verdict, judge
from drgn_pageowner.model.crash import Crash, LogLine, Oom
from drgn_pageowner.model.kernel import Facts

LEAK = ["alloc_pages", "leak", "ioctl"]
HEALTHY = Machine(
    "." * 64 + "k" * 64,
    blocks=[MOVABLE] * 16 + [UNMOVABLE] * 16,
    free={8 * i: 3 for i in range(8)},
)
STARVED = replace(HEALTHY, watermarks=(70, 80, 90))


def judged(
    machine: Machine = HEALTHY, *records: Record, held: int | None = None, missing: int = 0
) -> Report:
    """Return a report of *machine*, whose first *held* records (all, by default) are reachable."""
    inventory = machine.inventory(*records, tasks={1: "init"})
    edges = [(-1, i) for i in range(len(records) if held is None else held)]
    graph = heap(inventory, edges, missing=missing)
    return report(
        ReportInputs(
            facts=inventory.memory.pages.facts,
            heap=graph,
            inventory=inventory,
            records=inventory.records,
        )
    )


def found(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.finding for verdict in verdicts if verdict.finding is not None]


def of_area(verdicts: Sequence[Verdict], area: str) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.area == area]


def leaked(number: int, **more: object) -> list[Record]:
    return [Record(64 + 2 * i, LEAK, ts_nsec=SECOND + i, **more) for i in range(number)]  # type: ignore[arg-type]


def test_a_healthy_machine_has_no_finding() -> None:
    verdicts = judge(judged(HEALTHY, *leaked(2)))
    assert found(verdicts) == []
    # Half of this small machine is a driver's.
    assert {v.level for v in verdicts if v.area != "owners"} <= {"note", "good"}
    assert {v.level for v in verdicts} <= set(LEVELS)


@pytest.mark.parametrize(("pages", "level"), [(12, "note"), (13, "warning")])
def test_much_memory_of_drivers_is_a_warning(pages: int, level: str) -> None:
    machine = Machine("k" * pages + "a" * (128 - pages))
    [_, process, _, hidden] = of_area(judge(judged(machine, Record(0, LEAK))), "owners")
    assert process.text.startswith("The process that asked for most is ")
    assert hidden.level == level
    assert "which /proc/meminfo does not show" in hidden.text


@pytest.mark.parametrize(
    ("min_pages", "level", "finding"), [(4, "bad", "leak"), (5, "warning", None)]
)
def test_a_leak_is_found_from_so_many_pages_on(
    min_pages: int, level: str, finding: str | None
) -> None:
    result = judged(HEALTHY, *leaked(4), held=0)
    [leak] = of_area(judge(result, min_pages=min_pages), "leaks")
    assert (leak.level, leak.finding) == (level, finding)
    assert leak.text.startswith("4 pages (16.0 KiB) in 4 allocations are leaked")
    assert leak.detail.startswith("Largest: leak+0x10/0x100, 16.0 KiB in 4 of 4 allocations")


def test_what_is_missing_from_the_dump_is_no_leak_for_sure() -> None:
    verdicts = judge(judged(HEALTHY, *leaked(20), held=0, missing=99))
    [leak] = of_area(verdicts, "leaks")
    assert (leak.level, leak.finding) == ("warning", None)
    assert "20 pages (80.0 KiB) in 20 allocations may be leaked" in leak.text
    assert "99 pages of kernel memory are not in the dump" in leak.detail


def test_no_leak_in_a_dump_with_holes_is_not_good_news() -> None:
    [leak] = of_area(judge(judged(HEALTHY, *leaked(2), missing=99)), "leaks")
    assert leak.level == "note"
    assert "99 pages of kernel memory are not in the dump" in leak.text


def test_pages_of_less_confidence_are_counted_apart() -> None:
    young = [Record(120, ["alloc_pages", "young"], ts_nsec=NOW - 1)]
    [leak] = of_area(judge(judged(HEALTHY, *leaked(20), *young, held=0)), "leaks")
    assert leak.text.startswith("20 pages")
    assert leak.detail.endswith("1 more page may be leaked, with less confidence.")


@pytest.mark.parametrize(("pages", "kinds"), [(7, ["hog"]), (6, [])])
def test_one_suspected_stack_with_5_percent_of_memory_is_a_hog(
    pages: int, kinds: list[str]
) -> None:
    # 128 pages are present; the task of the records has exited.
    records = leaked(pages, pid=7)
    verdicts = judge(judged(HEALTHY, *records))
    assert found(verdicts) == kinds
    if kinds:
        [hog] = [verdict for verdict in verdicts if verdict.finding]
        assert "holds 7 pages, 5.5 % of memory, and looks like a leak" in hog.text
        assert "he tasks that allocated most of it are gone" in hog.detail


@pytest.mark.parametrize(
    ("machine", "kinds"),
    [
        # The threshold is the dump's own watermark.
        (STARVED, ["watermark"]),
        (Machine(".k" * 64), ["fragmentation"]),
        # There is too little memory, and the index is below the dump's own threshold.
        (Machine(".k" * 64, watermarks=(61, 62, 63), extfrag_threshold=995), []),
        (HEALTHY, []),
    ],
)  # fmt: skip
def test_the_kernel_s_own_allocations_must_succeed(machine: Machine, kinds: list[str]) -> None:
    assert found(judge(judged(machine))) == kinds


def test_a_zone_that_is_not_well_is_a_warning() -> None:
    machine = Machine("." * 8 + "k..." * 15 + "....", free={0: 3, 68: 2})
    zones = of_area(judge(judged(machine)), "frag")
    assert zones[0] == Verdict(
        "frag",
        "warning",
        "Node 0, zone Normal: 79 % of free memory is in blocks smaller than order 2; "
        "15 movable pageblocks have unmovable pages in them.",
    )


def test_the_most_widespread_owner_is_not_said_to_be_in_most_blocks() -> None:
    records = [Record(64, ["alloc_pages", "one"]), Record(68, ["alloc_pages", "one"])]
    culprit = of_area(judge(judged(HEALTHY, *records)), "frag")[-1]
    assert culprit.text == "16 of 32 pageblocks hold unmovable pages."
    assert culprit.detail == (
        "The most widespread allocator is one+0x10/0x100: 2 pages in 2 of these pageblocks, "
        "alone in none."
    )


def dead(crash: Crash | None = None, **more: object) -> list[Verdict]:
    known: Facts = facts(**more)
    return judge(report(ReportInputs(facts=known, crash=crash)))


@pytest.mark.parametrize(
    ("message", "kinds"),
    [
        ("Kernel panic - not syncing: sysrq triggered crash", []),
        ("Kernel panic - not syncing: Out of memory: compulsory panic_on_oom", ["out of memory"]),
        ("Kernel panic - not syncing: System is deadlocked on memory", []),
        ("Kernel panic - not syncing: system is deadlocked on memory", ["out of memory"]),
    ],
)
def test_a_panic_is_a_finding_if_memory_was_short(message: str, kinds: list[str]) -> None:
    verdicts = dead(panic_message=message)
    assert verdicts[0].level == "bad"
    assert found(verdicts) == kinds


def test_killed_processes_are_a_finding() -> None:
    oom = Oom(2, 0, [LogLine(1, 3, "Killed process 7")])
    [verdict] = of_area(dead(Crash(oom=oom)), "oom")
    assert verdict == Verdict(
        "oom", "bad", "The out-of-memory killer killed 2 processes.", "Killed process 7",
        "out of memory",
    )  # fmt: skip
    [quiet] = of_area(dead(Crash(oom=Oom(0, 0))), "oom")
    assert (quiet.level, quiet.finding) == ("good", None)


def test_a_triage_has_the_same_verdicts_and_their_findings() -> None:
    result = judged(HEALTHY, *leaked(20), held=0)
    triage = sum_up(result, ["one line", "one line"])
    assert triage.all == judge(result)
    assert [finding.kind for finding in triage.findings] == found(triage.all)
    assert triage.leaks is not None
    assert (triage.leaks["pages"], triage.leaks["high_confidence_pages"]) == (20, 20)
    assert triage.leaks["first"]["allocator"] == "leak+0x10/0x100"
    assert triage.unreadable == ["one line"]
    assert triage.answered
    assert not sum_up(None).answered


def test_most_is_said_of_a_majority_alone() -> None:
    def said(machine: Machine) -> list[str]:
        return [verdict.text for verdict in of_area(judge(judged(machine)), "owners")]

    assert any(text.startswith("Most of the 512.0 KiB are: ") for text in said(HEALTHY))
    # The largest four of eight classes have half of it.
    even = Machine("".join(letter * 16 for letter in ".pksafrt"))
    assert any(text.startswith("The largest parts of the 512.0 KiB are: ") for text in said(even))
    assert not any("Most" in text for text in said(even))


@pytest.mark.parametrize(("largest", "start"), [(3, "Most of it: "), (1, "The largest owners: ")])
def test_most_of_the_drivers_memory_is_a_majority(largest: int, start: str) -> None:
    records = [Record(64 + i, ["alloc_pages", "one"]) for i in range(largest)]
    records += [Record(80 + i, ["alloc_pages", f"other_{i}"]) for i in range(6)]
    machine = Machine("." * 64 + "k" * largest + "." * (16 - largest) + "k" * 6 + "." * 42)
    details = [verdict.detail for verdict in of_area(judge(judged(machine, *records)), "owners")]
    assert any(detail.startswith(start) for detail in details if detail)


def test_one_page_is_one_page() -> None:
    [leak] = of_area(judge(judged(HEALTHY, *leaked(1), held=0)), "leaks")
    assert leak.text.startswith("1 page (4.0 KiB) in 1 allocation ")
    one = replace(STARVED, pages="." + "k" * 127, free={})
    texts = [verdict.text for verdict in judge(judged(one))]
    assert any(text.endswith("1 page is free.") for text in texts)
