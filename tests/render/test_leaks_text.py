# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test leaks and suspects as text, from hand-made results."""

from __future__ import annotations

from handmade import NOW, SECOND, facts, frames

from drgn_pageowner.analysis.leaks.leaks import LeakGroup, Leaks, SlabLeak, Task
from drgn_pageowner.analysis.leaks.owners import leak_owners
from drgn_pageowner.analysis.leaks.suspects import Suspect
from drgn_pageowner.render.leaks import leaks_text, pfns_text, suspects_text, tasks_text

TASKS = [Task(7, "sh", 3, alive=False), Task(1, "swapper/0", 1, alive=True, now="init")]


def group(**more: object) -> LeakGroup:
    known: dict[str, object] = {
        "verdict": "unreachable", "allocations": 4, "pages": 4, "bytes": 16384,
        "pfns": [1, 2, 3, 4], "allocator": "f+0x10/0x100", "handle": 5, "stack": frames("g", "f"),
        "confidence": "high", "reasons": ["one", "two"], "of_stack": 9,
        "oldest_ns": NOW - 60 * SECOND, "newest_ns": NOW - SECOND, "tasks": TASKS,
        "modules": {}, "module_gone": False, **more,
    }  # fmt: skip
    return LeakGroup(**known)  # type: ignore[arg-type]


def text(
    *groups: LeakGroup,
    slab: list[SlabLeak] | None = None,
    limit: int | None = None,
    stacks: bool = False,
) -> str:
    pages = sum(one.pages for one in groups)
    leaks = Leaks(list(groups), len(groups), pages, 10, 20, 3, 6, 0, NOW, slab)
    owners = leak_owners(groups, "allocator")
    return "".join(leaks_text(leaks, owners, facts(), limit, stacks=stacks))


def test_the_answer_comes_first_and_an_owner_takes_a_line() -> None:
    other = group(allocator="g+0x1/0x2 [mod]", pages=1, bytes=4096, allocations=1, confidence="low")
    assert text(
        group(), group(pages=2, bytes=8192, verdict="held by nothing but itself"), other
    ) == (
        "7 pages (28.0 KiB) in 3 allocations are lost, by 2 owners; confidence: high for 6, low "
        "for 1. 6 pages are known only by PFN, 20 pages are reachable\n"
        "\n"
        "#  pages      size  allocations  verdict         confidence  owner    age\n"
        "-  -----  --------  -----------  --------------  ----------  -------  --------------\n"
        "1      6  24.0 KiB            8  unreachable +1  high        f        1.0 s - 60.0 s\n"
        "2      1   4.0 KiB            1  unreachable     low         g [mod]  1.0 s - 60.0 s\n"
        "\n"
        "--stacks or a number shows stacks, tasks and PFNs (leaks 1)\n"
    )


def test_one_is_no_plural() -> None:
    one = group(pages=1, bytes=4096, allocations=1, of_stack=1)
    assert text(one).startswith("1 page (4.0 KiB) in 1 allocation is lost, by 1 owner;")
    assert "unreachable: 1 page (4.0 KiB) in 1 of 1 allocation of f" in text(one, stacks=True)
    assert text().startswith("no page is lost. 6 pages are known only by PFN")


def test_a_group_is_a_paragraph_if_asked() -> None:
    assert text(group(), stacks=True).endswith(
        "\n"
        "#1 unreachable: 4 pages (16.0 KiB) in 4 of 9 allocations of f+0x10/0x100\n"
        "  confidence: high: one; two\n"
        "  age: 1.0 s - 60.0 s\n"
        "  by: sh 7 (3, gone), swapper/0 1 (1, now init)\n"
        "  pages: pfn:0x1 pfn:0x2 pfn:0x3 pfn:0x4\n"
        "    g+0x10/0x100\n"
        "    f+0x10/0x100\n"
    )


def test_a_module_that_is_gone_has_a_line_of_its_own() -> None:
    assert "  module gone: mod\n" in text(group(modules={"mod": False, "here": True}), stacks=True)
    assert "  module gone: frames without a symbol\n" in text(group(module_gone=True), stacks=True)
    assert "module gone" not in text(group(modules={"here": True}), stacks=True)


def test_the_rest_is_counted() -> None:
    said = text(group(), group(allocator="h+0x1/0x2"), limit=1)
    assert "\n1 of 2 owners shown (--limit 0: all)\n" in said
    assert pfns_text(range(10)).endswith("pfn:0x7 and 2 more")


def test_slab_objects_come_last() -> None:
    leak = SlabLeak(
        "kmalloc-64", "unreachable", 5, 320, [0x10 * i for i in range(5)], frames("f"), [9]
    )
    assert text(slab=[leak], stacks=True).endswith(
        "5 slab objects are reached from no root\n"
        "\n"
        "unreachable: 5 objects (320 B) of kmalloc-64\n"
        "  objects: 0x0 0x10 0x20 0x30 and 1 more\n"
        "  by: pid 9\n"
        "    f+0x10/0x100\n"
    )
    assert text(slab=[leak]).endswith(
        "objects   size  cache       verdict      owner  first\n"
        "-------  -----  ----------  -----------  -----  -----\n"
        "      5  320 B  kmalloc-64  unreachable  f      0x0\n"
    )


def test_a_task_without_a_name_is_its_pid() -> None:
    assert tasks_text([Task(7, None, 2, alive=True)]) == "pid 7 (2)"


def test_a_suspect_has_a_rate_only_if_it_is_known() -> None:
    def said(rate: float | None) -> str:
        suspect = Suspect("f", 1, 8, 8, 32768, 1, ["it grows"], rate, 0, NOW, [], frames("f"))
        return "".join(suspects_text([suspect], facts(), None, stacks=True))

    assert "  growth: 1,235 pages an hour\n" in said(1234.6)
    assert "pages an hour" not in said(None)


def test_a_suspect_takes_a_line() -> None:
    reasons = ["it grows: some of it was allocated in 8 of 8 periods", "the tasks are gone"]
    suspect = Suspect("f+0x1/0x2", 1, 8, 8, 32768, 2, reasons, 12.4, 0, NOW, [], frames("f"))
    said = "".join(suspects_text([suspect], facts(), None))
    assert said.startswith("1 stack looks like a leak;")
    (row,) = (line for line in said.splitlines() if line.lstrip().startswith("8 "))
    assert row.split()[:6] == ["8", "32.0", "KiB", "8", "12", "f"]
    assert row.endswith("grows, tasks gone")
