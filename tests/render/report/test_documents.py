# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that tables, JSON and Markdown of a report of a hand-made machine agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
from handmade import MOVABLE, SECOND, UNMOVABLE, Machine, Record, heap

from drgn_pageowner.analysis.compare.diff import diff
from drgn_pageowner.analysis.compare.kinship import Relation
from drgn_pageowner.analysis.report import Report, ReportInputs, report
from drgn_pageowner.model.crash import Crash, LogLine, Oom, Taint
from drgn_pageowner.render.report.html import tiles
from drgn_pageowner.render.report.json import report_object
from drgn_pageowner.render.report.machine import crash_rows, log_text, machine_rows
from drgn_pageowner.render.report.tables import tables

MACHINE = Machine("." * 16 + "k" * 16, blocks=[MOVABLE] * 4 + [UNMOVABLE] * 4, free={0: 3, 8: 3})
CRASH = Crash(
    crash_time=1_700_000_000,
    cpus=2,
    task=(7, "cat"),
    tainted=4096,
    taints=(Taint("O", "externally-built module"),),
    oom=Oom(1, 0, [LogLine(SECOND, 3, "Killed process 7 (cat)")]),
    log=[LogLine(2 * SECOND, 0, "Kernel panic")],
)


@pytest.fixture(scope="module")
def result() -> Report:
    inventory = MACHINE.inventory(
        Record(16, ["alloc_pages", "lost"], order=1, pid=9),
        Record(20, ["alloc_pages", "held [mod]"], comm=b"cat"),
        tasks={1: "init"},
    )
    graph = heap(inventory, [(-1, 1)])
    known = inventory.memory.pages.facts
    return report(
        ReportInputs(
            facts=known,
            crash=CRASH,
            modules=["mod"],
            heap=graph,
            inventory=inventory,
            records=inventory.records,
        )
    )


def test_every_table_counts_the_same_pages(result: Report) -> None:
    found = tables(result)
    classes = found["classes"].rows
    assert sum(int(row.cells[1].value or 0) for row in classes) == 32
    [leak] = found["leaks"].rows
    assert [cell.text for cell in leak.cells[:4]] == ["lost", "2", "8.0 KiB", "1"]
    assert [row.cells[0].text for row in found["module"].rows] == ["(no module)", "mod"]
    assert found["culprits"].rows[0].cells[0].text == "(kernel, no record)"
    assert sum(int(cell.value or 0) for cell in found["map"].rows[0].cells[3:]) == 8


def test_json_has_the_verdicts_and_the_owners_of_cells(result: Report) -> None:
    whole = report_object(result)
    assert whole["account"]["accounted"] == 32
    assert whole["leaks"]["groups"][0]["pages"] == 2
    assert {"area", "level", "text", "detail", "finding"} == whole["verdicts"][0].keys()
    cells = whole["frag"]["map"]["zones"][0]["cells"]
    assert cells[4]["owners"] == [["lost", 2], ["(driver or other kernel, no record)", 2]]
    assert "checks" not in whole["frag"]


def test_the_crash_is_a_fact_a_row(result: Report) -> None:
    rows = dict(crash_rows(result))
    assert rows["crashed at"] == "2023-11-14 22:13:20 UTC"
    assert rows["by task"] == "cat (pid 7)"
    assert rows["tainted"] == "4096 (O: externally-built module)"
    assert rows["killed for memory"] == "1 process since boot, 0 at that moment"
    assert dict(machine_rows(result))["modules"] == "mod"
    assert log_text(result, oom=True) == "[    1.000000] Killed process 7 (cat)\n"


def test_markdown_has_every_verdict(result: Report) -> None:
    pytest.importorskip("jinja2", reason="the extra report is not installed")
    pytest.importorskip("plotly", reason="the extra report is not installed")
    from drgn_pageowner.render.report.markdown import MarkdownRenderer

    text = "".join(MarkdownRenderer()(result))
    assert text.startswith("# Memory of host\n")
    assert text.count("- **") == len(report_object(result)["verdicts"])
    assert "**Problem:** The out-of-memory killer killed 1 process. Killed process 7 (cat)" in text


def test_tags_are_not_said_to_be_of_page_owner(result: Report) -> None:
    tagged = replace(result, facts=replace(result.facts, page_owner="off"))
    found = {title: remark for title, _, remark in tiles(tagged)}
    assert found["Bears allocation tags"] == "2 allocations, 2 tags"
    assert "Recorded by page_owner" not in found
    assert "Recorded by page_owner" in {title for title, _, _ in tiles(result)}


@pytest.mark.parametrize("elapsed", [None, 60 * SECOND])
def test_two_boots_have_no_column_of_rates(result: Report, elapsed: int | None) -> None:
    before = MACHINE.inventory(Record(20, ["alloc_pages", "held [mod]"])).records
    after = MACHINE.inventory(Record(20, ["alloc_pages", "more"])).records
    assert before is not None
    assert after is not None
    relation = Relation(elapsed is not None, elapsed is not None, "why", elapsed)
    changes = tables(replace(result, diff=diff(before, after, relation)))["changes"]
    assert ("an hour" in changes.columns) == (elapsed is not None)
    assert {len(row.cells) for row in changes.rows} == {len(changes.columns)}
    assert changes.rows[0].cells[changes.columns.index("after")].text == "1"
