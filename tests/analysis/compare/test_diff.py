# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare real dumps, and records made from real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import Dump

from drgn_pageowner.analysis.compare.diff import Amount, Diff, diff
from drgn_pageowner.analysis.compare.kinship import Relation, relate, share_names
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame

KERNELS = ["5.10", "6.1", "6.12", "7.2"]


def records(dump: Dump) -> Snapshot:
    return dump.snapshot.select(dump.snapshot["allocated"])


def compare(before: Snapshot, after: Snapshot, *by: str) -> Diff:
    relation = relate(before, after)
    before, after = share_names(before, after, relation)
    return diff(before, after, relation, by or ("stack",))


def with_more(snapshot: Snapshot, rows: Array, seconds: int) -> Snapshot:
    """Return *snapshot* at a later time, with copies of *rows* that have new PFNs and times."""
    now = (snapshot.facts.now_ns or 0) + seconds * 10**9
    columns = {name: np.concatenate([c, c[rows]]) for name, c in snapshot.columns.items()}
    added = slice(len(snapshot), None)
    columns["pfn"][added] = snapshot.facts.max_pfn + np.arange(len(rows)) * 1024
    if "ts_nsec" in columns:
        columns["ts_nsec"][added] = now
    return replace(snapshot, columns=columns, facts=replace(snapshot.facts, now_ns=now))


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_changes_from_a_dump_to_itself(
    dump_named: Callable[[str], Dump], kernel: str
) -> None:
    snapshot = records(dump_named(f"linux-{kernel}/kdump"))
    for by in ("stack", "allocator", "order", "module"):
        result = compare(snapshot, snapshot, by)
        assert result.changes == []
        assert result.leak is None
        assert result.growth == Amount(0, 0, 0)
        assert result.states["same"] > 1


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.2"])
def test_two_boots_of_one_kernel_are_told_apart_and_their_stacks_matched(
    dump_named: Callable[[str], Dump], kernel: str
) -> None:
    before, after = (records(dump_named(f"linux-{kernel}/{name}")) for name in ("kdump", "traps"))
    result = compare(before, after)
    assert result.relation.same_build
    assert not result.relation.same_boot
    assert all(change.pages_per_hour is None for change in result.changes)
    # KASLR offsets differ, so PCs are only equal by chance; most stacks must match nevertheless.
    assert np.isin(before.stacks.pcs, after.stacks.pcs).mean() < 0.1
    states = result.states
    matched = states["same"] + states["grown"] + states["shrunk"] + states["changed"]
    assert matched > 0.6 * len(np.unique(before.stack))
    new = {str(frame) for c in result.changes if c.state == "new" for frame in c.stack}
    assert any(text.startswith("po_leak_single") for text in new)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_page_is_in_the_changes(dump_named: Callable[[str], Dump], kernel: str) -> None:
    before, after = (records(dump_named(f"linux-{kernel}/{name}")) for name in ("kdump", "traps"))
    expected = int(after.pages.sum()) - int(before.pages.sum())
    for by in (["stack"], ["allocator"], ["order", "gfp"]):
        result = compare(before, after, *by)
        assert sum(change.growth.pages for change in result.changes) == expected
        assert result.growth.pages == expected
        assert result.growth.allocations == len(after) - len(before)


def test_stacks_of_two_builds_are_matched_by_function(dump_named: Callable[[str], Dump]) -> None:
    before, after = (records(dump_named(f"linux-{k}/kdump")) for k in ("6.1", "6.12"))
    result = compare(before, after)
    assert not result.relation.same_build
    assert "different kernels" in result.relation.why
    # Functions of the page allocator differ between the kernels, so stacks are compared from the
    # allocator on. More than half of all pages have a stack that matches one of the other kernel.
    new = sum(change.after.pages for change in result.changes if change.state == "new")
    assert new < 0.5 * result.after.total.pages
    allocators = {c.key["allocator"]: c for c in compare(before, after, "allocator").changes}
    assert allocators["blk_mq_alloc_map_and_rqs"].state in ("grown", "shrunk", "changed")


@pytest.mark.parametrize("pair", [("6.12/kdump", "6.12/traps"), ("6.1/kdump", "7.2/kdump")])
def test_swapped_dumps_mirror_each_other(
    dump_named: Callable[[str], Dump], pair: tuple[str, str]
) -> None:
    before, after = (records(dump_named(f"linux-{name}")) for name in pair)
    opposite = {"new": "gone", "gone": "new", "grown": "shrunk", "shrunk": "grown"}
    for by in ("stack", "comm"):
        there, back = compare(before, after, by), compare(after, before, by)

        def seen(result: Diff) -> list[tuple[Any, ...]]:
            return [(c.state, c.before, c.after, c.growth, c.handles) for c in result.changes]

        mirrored = [
            (opposite.get(state, state), new, old, -growth, handles[::-1])
            for state, old, new, growth, handles in seen(back)
        ]
        assert sorted(map(str, seen(there))) == sorted(map(str, mirrored))
        assert there.growth == -back.growth


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.2"])
def test_growth_in_one_boot_has_a_rate(dump_named: Callable[[str], Dump], kernel: str) -> None:
    before = records(dump_named(f"linux-{kernel}/traps"))
    leaks = np.flatnonzero(before.stack == stack_with(before, "po_leak_single"))
    after = with_more(before, np.repeat(leaks, 3), seconds=90)
    for first, second, sign in ((before, after, 1), (after, before, -1)):
        result = compare(first, second)
        assert result.relation.same_boot
        assert result.relation.elapsed_ns == sign * 90 * 10**9
        [change] = result.changes
        assert change.growth.pages == sign * 3 * len(leaks)
        assert change.pages_per_hour == sign * 3 * len(leaks) * 40
        assert change.state == ("grown" if sign > 0 else "shrunk")
    assert result.leak is None


def stack_with(snapshot: Snapshot, function: str) -> int:
    """Return the number of a stack that contains *function*."""
    return next(
        int(number)
        for number in np.unique(snapshot.stack).tolist()
        if any(frame.name == function for frame in snapshot.stack_frames(number))
    )


def test_without_times_there_is_no_rate(dump_named: Callable[[str], Dump]) -> None:
    snapshot = records(dump_named("linux-5.10/traps"))
    relation = relate(snapshot, snapshot)
    assert not relation.same_boot
    assert "no time" in relation.why
    assert relation.per_hour(1000) is None


def test_the_leak_is_named_first_where_more_page_cache_came(
    dump_named: Callable[[str], Dump],
) -> None:
    before = records(dump_named("linux-6.12/traps"))
    leaks = np.flatnonzero(before.stack == stack_with(before, "po_leak_single"))
    cache = np.flatnonzero(before.stack == stack_with(before, "filemap_get_pages"))
    slab = np.flatnonzero(before.stack == stack_with(before, "allocate_slab"))
    more = np.concatenate([leaks, np.resize(cache, 500), np.resize(slab, 500)])
    result = compare(before, with_more(before, more, seconds=10))
    assert result.leak is not None
    assert "po_leak_single" in str(result.leak.stack)
    assert result.leak.growth.pages == len(leaks)
    assert result.changes[0].growth.pages >= 500


def test_a_module_that_has_gone_since_still_has_its_name(
    dump_named: Callable[[str], Dump],
) -> None:
    before = records(dump_named("linux-6.12/traps"))

    class Unloaded:
        """A symbolizer that returns the names of *before*, except those of one module."""

        def symbolize(self, pcs: Array) -> list[Frame]:
            return [
                frame._replace(name=None, module=None) if frame.module == "po_leak" else frame
                for frame in before.frames(pcs.tolist())
            ]

    leaks = np.flatnonzero(before.stack == stack_with(before, "po_leak_single"))
    later = with_more(before, leaks, seconds=10)
    after = replace(later, symbolizer=Unloaded(), _frames={})
    assert "[po_leak]" not in str(after.stack_frames(int(after.stack[leaks[0]]))[-4])
    for result in (compare(before, after), compare(before, after, "allocator")):
        [change] = result.changes
        assert change.state == "grown"
        assert any(frame.module == "po_leak" for frame in change.stack)


def test_sorting_is_by_what_was_asked_for(dump_named: Callable[[str], Dump]) -> None:
    before, after = (records(dump_named(f"linux-6.12/{name}")) for name in ("kdump", "traps"))
    relation: Relation = relate(before, after)

    def growths(*sort: str) -> list[int]:
        changes = diff(before, after, relation, ["comm"], sort=sort).changes
        return [change.growth.pages for change in changes]

    assert growths("growth") == sorted(growths("growth"), reverse=True)
    assert growths("-growth") == sorted(growths("growth"))
    assert [abs(n) for n in growths("change")] == sorted(map(abs, growths("growth")), reverse=True)
    names = [c.key["comm"] for c in diff(before, after, relation, ["comm"], sort=["comm"]).changes]
    assert names == sorted(names)
