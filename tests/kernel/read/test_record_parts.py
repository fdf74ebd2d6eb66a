# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records read some sections at a time are the same as all at once."""

from __future__ import annotations

import argparse
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from asking import ask

from drgn_pageowner.analysis.owners.select import Filter
from drgn_pageowner.analysis.owners.sums import summing
from drgn_pageowner.commands import list as list_command
from drgn_pageowner.commands import top as top_command
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.read import record_parts
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.records import Snapshot

DUMP = "linux-6.12/kdump"


def memcg_paths(part: Snapshot) -> list[str | None]:
    return [part.memcgs[number].path if number >= 0 else None for number in part["memcg"].tolist()]


@pytest.mark.parametrize("freed", [False, True])
def test_parts_are_the_records(
    monkeypatch: pytest.MonkeyPatch, live: Callable[..., ProgramSession],
    dump_named: Callable[[str], Any], freed: bool,
) -> None:  # fmt: skip
    session = live(dump_named(DUMP))
    whole = session.snapshot(None, freed=freed)
    monkeypatch.setattr(record_parts, "_ROWS", 2048)
    parts = list(session.record_parts(None, freed=freed))
    assert 2 < len(parts) < len(whole) // 2048
    assert all(len(part) for part in parts[:-1])
    for name in whole.columns.keys() - {"memcg", "tag"}:
        assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name]), name
    assert [path for part in parts for path in memcg_paths(part)] == memcg_paths(whole)
    last = parts[-1]
    assert (last.problems, last.coverage) == (whole.problems, whole.coverage)
    assert last.facts == whole.facts
    assert np.array_equal(last.stacks.handles, whole.stacks.handles)
    assert np.array_equal(last.stacks.offsets, whole.stacks.offsets)
    assert np.array_equal(last.stacks.pcs, whole.stacks.pcs)
    counts = [stacks.counts for stacks in (last.stacks, whole.stacks)]
    assert (counts[0] is None) == (counts[1] is None)
    assert counts[0] is None or np.array_equal(*counts)


def test_columns_of_some_rows_are_read_again(
    live: Callable[..., ProgramSession], dump_named: Callable[[str], Any]
) -> None:
    session = live(dump_named(DUMP))
    whole = session.snapshot(None)
    read = functools.partial(record_parts.read_rows_of_records, session._kernel)
    pfn = whole["pfn"]
    names = ["ts_nsec", "comm"]
    some = np.random.default_rng(1).integers(0, len(whole), 3000)
    for rows in (None, np.sort(some), some, some[:0]):
        found = read(pfn, names, rows)
        for name in names:
            wanted = whole[name] if rows is None else whole[name][rows]
            assert np.array_equal(found[name], wanted), name
            assert found[name].dtype == whole[name].dtype
    gone = np.setdiff1d(np.arange(pfn[0], pfn[-1]), pfn)[:1]
    with pytest.raises(PageOwnerError, match="not there any more"):
        read(gone, names, None)
    with pytest.raises(PageOwnerError, match="not there any more"):
        read(np.append(pfn, 1 << 40), names, None)


def test_only_the_sections_of_these_rows_are_read_again(
    monkeypatch: pytest.MonkeyPatch, live: Callable[..., ProgramSession],
    dump_named: Callable[[str], Any],
) -> None:  # fmt: skip
    session = live(dump_named(DUMP))
    pfn = session.snapshot(["ts_nsec"])["pfn"]
    read, sections = record_parts.read_section, []

    def counted(kernel: Any, section: Any, *args: Any, **more: Any) -> Any:
        sections.append(section)
        return read(kernel, section, *args, **more)

    monkeypatch.setattr(record_parts, "read_section", counted)
    every = range(len(pfn))
    for rows, number in ((every[:0], 0), (every[5:9], 1), ([every[0], every[-1]], 2)):
        sections.clear()
        record_parts.read_rows_of_records(session._kernel, pfn, ["ts_nsec"], np.array(rows, int))
        assert len(sections) == number


@pytest.mark.parametrize(
    "options",
    [[], ["--freed"], ["--limit", "3000"], ["--limit", "0"], ["--comm", "kw*", "--limit", "9"],
     ["--order", "1-"], ["--comm", "nobody"], ["--source"]],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("format_", ["json", "csv", "debugfs"])
def test_a_listing_in_parts_is_the_whole(
    monkeypatch: pytest.MonkeyPatch, live: Callable[..., ProgramSession],
    dump_named: Callable[[str], Any], capsys: pytest.CaptureFixture[str], format_: str,
    options: list[str],
) -> None:  # fmt: skip
    session = live(dump_named(DUMP))
    parser = argparse.ArgumentParser()
    list_command.add_arguments(parser)
    args = parser.parse_args(["--format", format_, *options])
    texts = []
    for rows in (1 << 40, 4096):
        monkeypatch.setattr(record_parts, "_ROWS", rows)
        out = io.StringIO()
        assert list_command.run(args, session, out) == 0
        texts.append((out.getvalue(), capsys.readouterr().err))
    assert texts[0] == texts[1]
    assert ("nobody" in texts[0][1]) == ("nobody" in options)


def test_a_listing_has_the_source_lines_of_tags(
    live: Callable[..., ProgramSession], dump_named: Callable[[str], Any]
) -> None:
    session = live(dump_named("linux-6.12-profiling/owner-off-tags"))
    status, said, _ = ask(session, "list --source --limit 5 --format csv")
    assert status == 0
    # In the column of tags, and in that of stacks.
    assert said.count(".c:") == 10


@pytest.mark.parametrize(
    "options",
    [[], ["--freed"], ["--by", "allocator"], ["--by", "comm,order"], ["--by", "migratetype"],
     ["--by", "zone,order", "--sort", "newest"], ["--depth", "2"],
     ["--comm", "kw*", "--by", "pid"], ["--order", "1-"], ["--module", "po_leak"],
     ["--stack-contains", "vmalloc", "--sort", "oldest"], ["--comm", "nobody"],
     ["--pfn", "0x100-0x4000"], ["--freed", "--comm", "sh"], ["--zone", "DMA32", "--node", "0"]],
    ids=" ".join,
)  # fmt: skip
def test_groups_of_sums_are_those_of_the_records(
    monkeypatch: pytest.MonkeyPatch, live: Callable[..., ProgramSession],
    dump_named: Callable[[str], Any], capsys: pytest.CaptureFixture[str], options: list[str],
) -> None:  # fmt: skip
    parser = argparse.ArgumentParser()
    top_command.add_arguments(parser)
    args = parser.parse_args(["--format", "json", "--limit", "0", *options])
    texts, rows = [], []
    for size in (1 << 40, 1 << 15):
        monkeypatch.setattr(record_parts, "_PAGES", size)
        out = io.StringIO()
        session = live(dump_named(DUMP))
        assert top_command.run(args, session, out) == 0
        texts.append((out.getvalue(), capsys.readouterr().err))
        columns = ("handle", "ts_nsec")
        parts = session.record_parts(columns, summing=summing(Filter(), columns))
        rows.append(sum(len(part) for part in parts))
    assert texts[0] == texts[1]
    assert rows[1] < rows[0] / 2


def test_few_records_are_in_memory(
    monkeypatch: pytest.MonkeyPatch, live: Callable[..., ProgramSession],
    dump_named: Callable[[str], Any],
) -> None:  # fmt: skip
    """A part ends with the section that fills it, however many there are."""
    session = live(dump_named(DUMP))
    monkeypatch.setattr(record_parts, "_ROWS", 1)
    sections = [len(part) for part in session.record_parts(["handle"])]
    monkeypatch.setattr(record_parts, "_ROWS", 4096)
    assert max(len(part) for part in session.record_parts(["handle"])) < 4096 + max(sections)
