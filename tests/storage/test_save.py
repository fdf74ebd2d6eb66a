# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that a file does not depend on how many records are read or written at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.commands.leaks import search
from drgn_pageowner.kernel.read import record_parts
from drgn_pageowner.kernel.read.pages import PageReader
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.pages import Memory
from drgn_pageowner.storage import container, records
from drgn_pageowner.storage import save as save_module
from drgn_pageowner.storage.check import TABLES
from drgn_pageowner.storage.container import Container
from drgn_pageowner.storage.save import save
from drgn_pageowner.storage.session import open_file

pq = pytest.importorskip("pyarrow.parquet", reason="snapshots need pyarrow (the extra parquet)")


def test_pages_are_read_once(
    dump_named: Callable[[str], Dump], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, times = PageReader.read, []

    def counted(self: PageReader, *then: Any) -> Memory:
        times.append(1)
        return read(self, *then)

    monkeypatch.setattr(PageReader, "read", counted)
    # Its dump level excludes pages, which the struct pages know.
    save(ProgramSession(dump_named("linux-6.12/kdump").prog), str(tmp_path / "snapshot"))
    assert len(times) == 1


@pytest.mark.parametrize(
    "name",
    ["linux-6.12/traps", "linux-6.12-profiling/records", "linux-7.2/kdump", "linux-5.10/kdump"],
)
def test_records_that_are_read_in_parts_are_saved_the_same(
    dump_named: Callable[[str], Dump], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = ProgramSession(dump_named(name).prog)
    monkeypatch.setattr(container, "_ROWS", 5000)
    save(session, str(tmp_path / "whole"))
    # Every section is a part, and records of freed pages are read again.
    monkeypatch.setattr(record_parts, "_ROWS", 1)
    monkeypatch.setattr(records, "_MOST_HELD", 0)
    save(session, str(tmp_path / "parts"))
    assert len(list(session.record_parts(("handle",)))) > 1
    assert_same(tmp_path / "parts", tmp_path / "whole")
    about = pq.read_metadata(tmp_path / "parts")
    sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    # The last group of allocated pages and the last of freed pages may have fewer rows.
    assert len([size for size in sizes if size != 5000]) <= 2


def test_records_that_are_read_in_parts_are_read_once(
    dump_named: Callable[[str], Dump], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = ProgramSession(dump_named("linux-6.12/traps").prog)
    save(session, str(tmp_path / "whole"))
    monkeypatch.setattr(record_parts, "_ROWS", 1)
    read, sections = record_parts.read_sections, []

    def counted(*args: Any, **names: Any) -> Any:
        for part in read(*args, **names):
            sections.append(part["pfn"][0])
            yield part

    monkeypatch.setattr(record_parts, "read_sections", counted)
    save(session, str(tmp_path / "parts"))
    assert len(sections) > 1
    assert len(sections) == len(set(sections))
    assert_same(tmp_path / "parts", tmp_path / "whole")


def assert_same(found: Path, expected: Path) -> None:
    """Fail if two files do not have the same contents; these may be in another order."""
    one, other = Container(str(found)), Container(str(expected))
    heads = [{**file.head, "parts": sorted(file.head["parts"])} for file in (one, other)]
    assert heads[0] == heads[1]
    for name in other.head["parts"]:
        if name in TABLES:
            assert_columns_equal(one.table(name), other.table(name))
        elif name != "records":
            assert one.document(name) == other.document(name)
    sessions = [open_file(str(path)) for path in (found, expected)]
    snapshots = [session.snapshot(None, freed=True) for session in sessions]
    assert_columns_equal(snapshots[0].columns, snapshots[1].columns)
    assert snapshots[0].memcgs == snapshots[1].memcgs
    documents = [{**file.document("records"), "memcgs": None} for file in (one, other)]
    assert documents[0] == documents[1]


def assert_columns_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column, name)


@pytest.mark.parametrize("leaks", [False, True])
@pytest.mark.parametrize(
    "name",
    ["linux-6.12/traps", "linux-5.10/kdump", "linux-6.12-noowner/kdump",
     "linux-6.12-profiling/records", "linux-7.2-profiling/owner-off-tags"],
)  # fmt: skip
def test_columns_that_are_compressed_meanwhile_are_saved_the_same(
    dump_named: Callable[[str], Dump], name: str, leaks: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    session = ProgramSession(dump_named(name).prog)
    searching = partial(search, session, slab=True) if leaks else None
    save(session, str(tmp_path / "whole"), search=searching)
    monkeypatch.setattr(save_module, "_MANY_PAGES", 0)
    used = []
    packing = save_module.fast_packing
    monkeypatch.setattr(save_module, "fast_packing", lambda: used.append(1) or packing())
    save(session, str(tmp_path / "packed"), search=searching)
    assert used
    assert (tmp_path / "packed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_digest_of_records_does_not_depend_on_their_order(one_dump: Dump) -> None:
    every = one_dump.snapshot
    backwards = every.select(np.arange(len(every))[::-1])
    assert backwards["pfn"][0] > backwards["pfn"][-1]
    assert records.digest_of(backwards) == records.digest_of(every)
    assert records.digest_of(every.select(slice(1, None))) != records.digest_of(every)
    assert records.digest_of(every.select(slice(0, 0))) == records.digest_of(None)


@pytest.mark.parametrize("options", ["--leaks", "", "--source"])
@pytest.mark.parametrize("name", ["linux-6.12/traps", "linux-5.10/kdump"])
def test_a_snapshot_is_copied_if_saving_it_anew_would_write_the_same(
    dump_named: Callable[[str], Dump],
    live: Callable[..., ProgramSession],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: str,
) -> None:
    original, copy, anew = (tmp_path / word for word in ("original", "copied", "saved"))
    assert ask(live(dump_named(name)), f"save {options} {original}")[0] == 0
    copies: list[str] = []
    copy_to = Container.copy_to

    def counted(self: Container, path: str) -> int:
        copies.append(path)
        return copy_to(self, path)

    monkeypatch.setattr(Container, "copy_to", counted)
    status, said, problems = ask(open_file(str(original), None), f"save {options} {copy}")
    assert (status, copies) == (0, [str(copy)])
    assert copy.read_bytes() == original.read_bytes()
    # Another version might write something else.
    monkeypatch.setattr(Container, "is_as_written_now", lambda self: False)
    other = ask(open_file(str(original), None), f"save {options} {anew}")
    assert other == (0, said.replace(str(copy), str(anew)), problems)
    assert anew.read_bytes() == original.read_bytes()
    assert len(copies) == 1


@pytest.mark.parametrize("options", ["", "--leaks --source", "--leaks --redact"])
def test_a_snapshot_with_more_or_less_is_saved_anew(
    one_dump: Dump,
    live: Callable[..., ProgramSession],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
) -> None:
    original, other = tmp_path / "original", tmp_path / "other"
    assert ask(live(one_dump), f"save --leaks {original}")[0] == 0
    monkeypatch.delattr(Container, "copy_to")
    ask(open_file(str(original), None), f"save {options} {other}")
    assert other.read_bytes() != original.read_bytes()


def test_a_snapshot_of_tags_is_saved_anew(
    dump_named: Callable[[str], Dump],
    live: Callable[..., ProgramSession],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the stacks that are in use are saved again, so that the file is another one."""
    original, anew = tmp_path / "original", tmp_path / "anew"
    session = live(dump_named("linux-6.12-profiling/owner-off-tags"))
    assert ask(session, f"save {original}")[0] == 0
    monkeypatch.delattr(Container, "copy_to")
    assert ask(open_file(str(original), None), f"save {anew}")[0] == 0
    assert anew.stat().st_size < original.stat().st_size


def test_a_damaged_snapshot_is_not_copied(
    one_dump: Dump, live: Callable[..., ProgramSession], tmp_path: Path
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copied"
    assert ask(live(one_dump), f"save --leaks {original}")[0] == 0
    data = original.read_bytes()
    # In a table and in a record: those of small dumps come last.
    of_records = pq.read_metadata(original).row_group(0).column(0).data_page_offset
    for place in (1000, of_records + 100):
        original.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        status, _, problems = ask(open_file(str(original), None), f"save --leaks {copy}")
        assert (status, copy.exists()) == (1, False)
        assert "damaged" in problems
