# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that the parts of a report agree with each other and with the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Dump

from drgn_pageowner.analysis import report as report_module
from drgn_pageowner.analysis.report import Report, report
from drgn_pageowner.analysis.verdicts import LEVELS, judge
from drgn_pageowner.commands.report import read
from drgn_pageowner.kernel.dump import parallel
from drgn_pageowner.kernel.helpers import use_jobs
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.arrays import slices
from drgn_pageowner.model.kept import keeping_results
from drgn_pageowner.render.report.json import report_json

pytestmark = [pytest.mark.once, pytest.mark.one_of_a_kernel]


@pytest.fixture(scope="module")
def result(dump: Dump) -> Report:
    return report(read(ProgramSession(dump.prog)))


def test_owners_are_those_of_every_page(result: Report) -> None:
    assert result.account is not None
    assert result.owners is not None
    assert {kind.name: kind.pages for kind in result.owners} == {
        kind.name: kind.pages for kind in result.account.classes
    }
    for kind in result.owners:
        assert sum(pages for _, pages in kind.owners) + kind.other_pages == kind.pages


def test_flame_has_every_page_that_is_recorded(result: Report) -> None:
    flame, top = result.flame, result.tops["stack"]
    assert flame is not None
    assert flame.pages == top.pages
    assert sum(stack.pages for stack in flame.stacks) + flame.other_pages == top.pages
    assert sum(s.allocations for s in flame.stacks) + flame.other_allocations == top.allocations
    for stack, group in zip(flame.stacks, top.groups, strict=False):
        names = [flame.functions[number] for number in stack.frames]
        assert [name.split(" ")[0] for name in names] == [
            f"{frame.pc:#x}" if frame.name is None or frame.replaced else frame.name
            for frame in group.stack
        ]


def test_the_map_names_who_is_there(result: Report) -> None:
    assert result.frag is not None
    for zone in result.frag.maps:
        assert len(zone.owners) == len(zone.map.cells)
        for cell, owners in zip(zone.map.cells, zone.owners, strict=True):
            taken = cell.movable + cell.reclaimable + cell.unmovable
            assert sum(pages for _, pages in owners) <= taken
            assert bool(owners) == bool(taken or cell.unknown)


def test_ages_are_those_of_all_records(result: Report) -> None:
    if result.facts.release.startswith("5.10"):
        assert result.ages == []
        return
    assert result.ages is not None
    assert sum(band.pages for band in result.ages) == result.tops["stack"].pages
    assert all(sum(band.classes.values()) == band.pages for band in result.ages)


def test_verdicts_say_how_it_died_and_what_leaks(dump: Dump, result: Report) -> None:
    found = judge(result)
    assert {verdict.level for verdict in found} <= set(LEVELS)
    assert found[0].text == "The kernel panicked: sysrq triggered crash."
    [leak, *_] = [verdict for verdict in found if verdict.area == "leaks"]
    if "traps" in dump.name:
        assert leak.level == "bad"
        assert "po_leak" in leak.detail
        assert any("po_" in verdict.detail for verdict in found if verdict.area == "owners")


def test_planted_owners_are_on_the_map(dump_named: Callable[[str], Dump]) -> None:
    dump = dump_named("linux-6.12/traps")
    frag = report(read(ProgramSession(dump.prog), leaks=False)).frag
    assert frag is not None
    combs = {int(fact["pfn"]) for fact in dump.facts() if fact.get("what") == "comb"}
    named = {
        cell.pfn
        for zone in frag.maps
        for cell, owners in zip(zone.map.cells, zone.owners, strict=True)
        if any(name == "po_frag_comb [po_frag]" for name, _ in owners)
    }
    assert combs
    assert {pfn >> 9 << 9 for pfn in combs} <= named


def test_pieces_of_any_size_make_the_same_report(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = read(ProgramSession(one_dump.prog), leaks=False)
    whole = "".join(report_json(report(inputs)))
    monkeypatch.setattr(slices, "__defaults__", (9973,))
    monkeypatch.setattr("drgn_pageowner.analysis.owners.sums._ROWS", 7919)
    assert "".join(report_json(report(inputs))) == whole


@pytest.fixture
def processes(one_dump: Dump, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three processes work on the dump."""
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1 << 16)
    use_jobs(one_dump.prog, 3)
    yield
    use_jobs(one_dump.prog, 1)


@pytest.mark.parametrize("leaks", [False, True])
def test_parts_of_several_processes_are_those_of_one(
    one_dump: Dump, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, leaks: bool
) -> None:
    whole = "".join(report_json(report(read(ProgramSession(one_dump.prog), leaks=leaks))))
    request.getfixturevalue("processes")
    inputs = read(ProgramSession(one_dump.prog), leaks=leaks)
    here: list[str] = []
    for name in ("_of_records", "_of_pages", "_of_holders"):
        function = getattr(report_module, name)

        def noting(*args: Any, name: str = name, function: Callable[..., Any] = function) -> Any:
            here.append(name)
            return function(*args)

        monkeypatch.setattr(report_module, name, noting)
    with keeping_results():
        for _ in range(2):
            assert "".join(report_json(report(inputs))) == whole
    # The other parts were computed by other processes.
    assert here == ([] if leaks else ["_of_pages"])


@pytest.mark.usefixtures("processes")
def test_a_part_that_fails_in_another_process_says_where(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IndexError("index 7 is out of bounds")

    monkeypatch.setattr("drgn_pageowner.analysis.report._of_holders", fail)
    found = report(read(ProgramSession(one_dump.prog), leaks=False))
    assert [str(error) for error in found.errors] == ["index 7 is out of bounds"]
    assert found.errors[0].__traceback__ is not None
    assert any("processes and drivers: internal error" in line for line in found.problems)
    assert found.account is not None
    assert not found.holders


def test_one_part_that_fails_leaves_the_others(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = read(ProgramSession(one_dump.prog))

    def fail(*_: object) -> None:
        raise IndexError("index 7 is out of bounds")

    monkeypatch.setattr("drgn_pageowner.analysis.report.reach", fail)
    result = report(sources)
    assert result.leaks is None
    assert result.account is not None
    assert result.frag is not None
    [problem] = result.problems
    assert problem.startswith("leaks: internal error, please report: IndexError: index 7")
    assert judge(result)[-1].detail == f"{problem}."
