# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command top answers the same however many records are in memory together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.analysis.account import holder_sums, holders
from drgn_pageowner.analysis.owners import sums
from drgn_pageowner.kernel.read import record_parts
from drgn_pageowner.model.records import Snapshot


@pytest.mark.parametrize(
    "words",
    [
        "--by memcg", "--by memcg,kind --sort=-memcg", "--memcg *", "--by age", "--by age,stack",
        "--min-age 1s", "--by age --freed", "--pfn 0-0x8000", "--by process", "--by driver",
        "--by process --order 1-3", "--by process --comm kw*", "--by driver --module po_leak",
        "--by driver --min-age 1s", "--by process --comm nobody --memcg nowhere",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["linux-6.12/traps", "linux-7.2/kdump"])
def test_few_records_are_in_memory_together(
    dump_named: Callable[[str], Dump],
    live: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    words: str,
) -> None:
    session = live(dump_named(name))
    line = f"top {words} --limit 0 --format json"
    whole = ask(session, line)
    assert whole[0] == 0
    number = len(session.snapshot(("handle",)))
    sizes: list[int] = []
    for module in (record_parts, sums, holders):
        monkeypatch.setattr(module, "_ROWS", 1000)
    add, sum_up = holder_sums.FoundHolders._add, sums._sums

    def added(found: Any, records: Snapshot, *rest: Any) -> None:
        sizes.append(len(records))
        add(found, records, *rest)

    def summed_up(records: Snapshot, *rest: Any) -> Any:
        sizes.append(len(records))
        return sum_up(records, *rest)

    monkeypatch.setattr(holder_sums.FoundHolders, "_add", added)
    monkeypatch.setattr(sums, "_sums", summed_up)
    assert ask(session, line) == whole
    assert sizes
    assert max(sizes) < number


def test_what_is_wrong_is_said_before_what_the_records_lack(
    dump_named: Callable[[str], Dump], live: Any
) -> None:
    session = live(dump_named("linux-6.12-profiling/owner-off-tags"))
    for words in ("--by process", "--by process --comm sh", "--by driver --pid 1"):
        status, said, problems = ask(session, f"top {words}")
        lines = problems.splitlines()
        assert (status, said) == (2, "")
        assert "rows are allocations of pages that bear a tag" in lines[0]
        assert "tags do not say" in lines[-1]
