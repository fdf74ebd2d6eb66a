# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare two hand-made snapshots."""

from __future__ import annotations

import pytest
from handmade import SECOND, Machine, Record, facts, snapshot

from drgn_pageowner.analysis.account.page_class import page_classes
from drgn_pageowner.analysis.compare.diff import OF_NOBODY, Diff, diff, of_nobody
from drgn_pageowner.analysis.compare.kinship import relate
from drgn_pageowner.errors import UsageError
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.render.diff import diff_text

DRIVER = ["alloc_pages", "driver", "ioctl"]
CACHE = ["alloc_pages", "cache", "read"]
STACKS = ["alloc_pages", "copy_process", "kernel_clone"]


def of(*records: Record, now: int = 100, **more: object) -> Snapshot:
    return snapshot(*records, known=facts(now_ns=now * SECOND, **more))


def compared(before: Snapshot, after: Snapshot, **options: object) -> Diff:
    return diff(before, after, relate(before, after), **options)  # type: ignore[arg-type]


def boot(number: int) -> list[Record]:
    """Return the records that both dumps of a boot have."""
    return [Record(1000 + i, CACHE, ts_nsec=SECOND + i) for i in range(number)]


def test_growth_has_a_rate_within_one_boot() -> None:
    before = of(*boot(4), Record(0, DRIVER))
    after = of(*boot(4), *(Record(i, DRIVER) for i in range(11)), now=136)
    found = compared(before, after)
    assert found.relation.same_boot
    [change] = found.changes
    assert (change.state, change.growth.pages, change.growth.bytes) == ("grown", 10, 40960)
    # 10 pages in 36 s.
    assert change.pages_per_hour == 1000
    assert found.leak == change
    assert found.states["same"] == 1


def test_two_boots_have_no_rate() -> None:
    before = of(*boot(4))
    after = of(*(Record(1000 + i, CACHE, ts_nsec=3 * SECOND + i) for i in range(6)), now=136)
    found = compared(before, after)
    assert not found.relation.same_boot
    assert found.changes[0].pages_per_hour is None


def test_a_group_is_new_gone_shrunk_or_changed() -> None:
    before = of(
        *boot(4), Record(0, ["gone"]), Record(1, ["shrunk"]), Record(2, ["shrunk"]),
        Record(4, ["changed"], order=1),
    )  # fmt: skip
    after = of(
        *boot(4), Record(0, ["new"]), Record(1, ["shrunk"]),
        Record(4, ["changed"]), Record(5, ["changed"], ts_nsec=9),
    )  # fmt: skip
    states = {change.stack[0].name: change.state for change in compared(before, after).changes}
    assert states == {name: name for name in ("new", "gone", "shrunk", "changed")}


def test_stacks_of_tasks_are_no_growth_without_explanation() -> None:
    before = of(*boot(4))
    after = of(*boot(4), *(Record(i, STACKS) for i in range(9)), now=136)
    found = compared(before, after)
    assert found.changes[0].growth.pages == 9
    assert found.leak is None
    assert next(diff_text(found)) == "no memory of drivers and other kernel code has grown\n"


def test_the_headline_names_what_no_class_explains() -> None:
    before = of(*boot(4))
    after = of(*boot(4), *(Record(i, STACKS) for i in range(9)), Record(20, DRIVER), now=136)
    assert next(diff_text(compared(before, after))) == (
        "largest growth in memory of drivers and other kernel code: +1 page (+4.0 KiB) in +1 "
        "allocation of driver+0x10/0x100, +100 pages an hour\n"
    )


def test_the_classes_of_pages_count_more_than_their_stacks() -> None:
    # Only the state of the pages shows that these are page tables, not the stack.
    machine = Machine("kttt" + "." * 12)
    before = machine.inventory(Record(0, DRIVER))
    after = machine.inventory(Record(0, DRIVER), *(Record(i, ["fill_tables"]) for i in (1, 2, 3)))
    one, two = before.records, after.records
    assert one is not None
    assert two is not None
    by_stack = compared(one, two).leak
    assert by_stack is not None
    assert by_stack.growth.pages == 3
    for records, inventory in ((one, before), (two, after)):
        pages = inventory.memory.pages
        records.columns[OF_NOBODY] = of_nobody(records, pages, page_classes(inventory))
    assert compared(one, two).leak is None


def test_another_build_is_compared_by_function() -> None:
    before = of(Record(0, DRIVER), release="6.1")
    after = of(Record(0, ["__alloc_pages_noprof", *DRIVER]), Record(1, DRIVER), release="6.12")
    found = compared(before, after)
    assert not found.relation.same_build
    assert [(change.state, change.growth.pages) for change in found.changes] == [("grown", 1)]


def test_a_sort_key_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot sort by 'size'"):
        compared(of(*boot(4)), of(*boot(4)), sort=["size"])
