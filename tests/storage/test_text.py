# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test reading texts of kernels: compare with the texts, and with the dumps."""

from __future__ import annotations

import json
import os
import re
import runpy
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import ask
from conftest import ROOT, Dump, run_cli

from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.render.debugfs import debugfs_text
from drgn_pageowner.storage.session import open_file
from drgn_pageowner.storage.text import source
from drgn_pageowner.storage.text.flags import gfp_masks, page_flag_bits

pytestmark = pytest.mark.once

LAYOUTS: dict[str, Any] = runpy.run_path(str(ROOT / "tests/layouts/build.py"))
DEBUGFS = "sys/kernel/debug"
STACKS = f"{DEBUGFS}/page_owner_stacks"
# Layout for whose text tests/ contains the output of page_owner_sort of 6.1 and of 7.2, by options.
SORTED_OF = "linux-6.8-SPARSEMEM_VMEMMAP"


def layout_text(name: str) -> Path:
    path: Path = LAYOUTS["unpack"]() / name / "page_owner"
    return path


def read(path: Path) -> Snapshot:
    return open_file(str(path)).snapshot(None)


def printed(snapshot: Snapshot) -> bytes:
    return "".join(debugfs_text(snapshot)).encode(errors="surrogateescape")


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def example(dump_named: Callable[[str], Dump]) -> bytes:
    """Return the first records of the text of 6.12."""
    text = dump_named("linux-6.12/kdump").truth(f"{DEBUGFS}/page_owner")
    return text[: text.index(b"\n\n", 100_000) + 2]


def test_a_text_comes_back_byte_for_byte(dump: Dump) -> None:
    path = dump.truth_directory / DEBUGFS / "page_owner"
    snapshot = read(path)
    assert printed(snapshot) == path.read_bytes()
    assert [line for line in snapshot.problems if "how large a page is" not in line] == []


@pytest.mark.parametrize("name", LAYOUTS["NAMES"])
def test_every_format_comes_back_byte_for_byte(name: str) -> None:
    path = layout_text(name)
    snapshot = read(path)
    assert len(snapshot) == path.read_bytes().count(b"\nPFN ")
    assert printed(snapshot) == path.read_bytes()


@pytest.mark.one_of_a_kernel
def test_its_columns_are_those_of_the_dump(dump: Dump) -> None:
    text = read(dump.truth_directory / DEBUGFS / "page_owner")
    own = dump.snapshot.select(dump.snapshot["allocated"])
    _, mine, other = np.intersect1d(text["pfn"], own["pfn"], return_indices=True)
    text, own = text.select(mine), own.select(other)
    columns = text.columns.keys() - {"handle", "migratetype", "pageblock_migratetype", "memcg"}
    columns -= {"last_migrate_reason", "memcg_kind", "page_flags"}
    assert columns >= {"pfn", "order", "gfp_mask", "allocated"}
    same = np.ones(len(text), bool)
    if "ts_nsec" in text:
        # The other pages were allocated again between text and dump.
        same = text["ts_nsec"] == own["ts_nsec"]
    else:
        same = (text["order"] == own["order"]) & (text["gfp_mask"] == own["gfp_mask"])
    assert same.sum() > 0.95 * len(text)
    for column in columns:
        assert (text[column][same] == own[column][same]).mean() > 0.999, column
    pairs = set(zip(text.stack[same].tolist(), own.stack[same].tolist(), strict=True))
    alike = [
        list(map(str, text.stack_frames(one))) == list(map(str, own.stack_frames(other)))
        for one, other in pairs
    ]
    assert sum(alike) > 0.9 * len(alike)
    known = {name: mask for mask, name in own.names.gfp_flags}
    assert len(text.names.gfp_flags) > 5
    assert all(known[name] == mask for mask, name in text.names.gfp_flags)
    bits = {name: mask for mask, name in own.names.page_flags}
    assert {"lru", "head"} <= {name for _, name in text.names.page_flags}
    assert all(bits[name] == mask for mask, name in text.names.page_flags)


@pytest.mark.one_of_a_kernel
@pytest.mark.parametrize("file", ["show_stacks", "show_handles", "show_stacks_handles"])
def test_the_stacks_are_printed_as_the_kernel_prints_them(
    dump: Dump, file: str, tmp_path: Path, saved: Callable[[Dump], Path]
) -> None:
    path = dump.truth_directory / STACKS / file
    if not path.exists():
        pytest.skip(f"this kernel has no {file}")
    format_ = file.removeprefix("show_")
    theirs = path.read_bytes()
    assert ask(open_file(str(path)), f"list --format {format_}")[:2] == (0, theirs.decode())
    ours = dump.run("list", "--format", format_, check=True).stdout.encode()
    # Reading the files changed a few stacks by a few pages.
    one, two = (Counter(text.split(b"\n\n")) for text in (ours, theirs))
    assert (one & two).total() > 0.9 * two.total()
    order = [entry for entry in ours.split(b"\n\n") if entry in two]
    assert order == [entry for entry in theirs.split(b"\n\n") if entry in one]
    assert ask(open_file(str(saved(dump))), f"list --format {format_}")[1] == ours.decode()


def test_a_kernel_without_a_list_of_stacks(dump_named: Callable[[str], Dump]) -> None:
    result = dump_named("linux-5.10/noleak").run("list", "--format", "stacks")
    assert (result.returncode, result.stdout) == (1, "")
    assert "has no list of stacks (it has since v6.9)" in result.stderr


def sorted_texts() -> dict[str, bytes]:
    with tarfile.open(ROOT / "tests/storage/page_owner_sort.tar.xz") as archive:
        return {
            member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }


@pytest.mark.parametrize("name", sorted(sorted_texts()))
def test_totals_of_page_owner_sort_are_those_of_its_input(name: str, tmp_path: Path) -> None:
    text = sorted_texts()[name]
    snapshot, whole = read(written(tmp_path / "sorted", text)), read(layout_text(SORTED_OF))
    assert snapshot.count() == len(whole) == whole.count()
    assert snapshot.pages.sum() == whole.pages.sum()
    groups = re.findall(rb"^(\d+) times, (\d+) pages", text, re.MULTILINE)
    assert [
        (str(a).encode(), str(b).encode())
        for a, b in zip(snapshot["allocations"], snapshot["pages"], strict=True)
    ] == groups
    assert [line for line in snapshot.problems if "how large a page is" not in line] == []
    if b"\n __" in text:

        def by_stack(rows: Snapshot) -> Counter[tuple[str, ...]]:
            count: Counter[tuple[str, ...]] = Counter()
            for stack, pages in zip(rows.stack.tolist(), rows.pages.tolist(), strict=True):
                count[tuple(map(str, rows.stack_frames(stack)))] += pages
            return count

        assert by_stack(snapshot) == by_stack(whole)
    for column in ("pid", "tgid", "comm"):
        if column in snapshot:
            values = [np.repeat(rows[column], rows.allocations) for rows in (snapshot, whole)]
            assert sorted(values[0].tolist()) == sorted(values[1].tolist())


def test_what_page_owner_sort_wrote_before_it_knew_pages(tmp_path: Path) -> None:
    text = (
        b"3 times:\nPage allocated via order 2, mask 0x24000c0\n"
        b"PFN 4 Block 0 type 0          Flags            \n [<0000000000402b68>] f+0x1/0x2\n\n"
        b"1 times:\nPage allocated via order 0, mask 0xd0\n [<0000000000402b69>] g+0x1/0x2\n\n"
    )
    snapshot = read(written(tmp_path / "sorted", text))
    assert snapshot["allocations"].tolist() == [3, 1]
    assert snapshot.pages.tolist() == [12, 1]
    assert [str(frame) for frame in snapshot.stack_frames(0)] == ["f+0x1/0x2"]


def test_what_a_text_does_not_say_is_absent(tmp_path: Path) -> None:
    texts = sorted_texts()
    culled = read(written(tmp_path / "culled", texts["7.2--cull=allocator"]))
    assert set(culled.columns) == {"allocated", "allocations", "pages"}
    session = open_file(str(tmp_path / "culled"))
    for line, said in (
        ("top", "does not say handle"),
        ("top --by comm", "does not say comm"),
        ("list --order 1", "does not say order"),
        ("list --format debugfs", "does not say all that debugfs prints"),
        ("list --format stacks", "does not say page_owner's list of stacks"),
        ("leaks", "does not say who points to whom"),
        ("account", "does not say what pages are used for"),
        ("page pfn:1", "does not say the state of pages"),
    ):
        status, out, err = ask(session, line)
        assert status in (1, 2), line
        assert said in err, (line, err)
        assert out == ""
    assert json.loads(ask(session, "list --format json --limit 1")[1])["pfn"] is None
    oldest = read(layout_text("linux-3.19-FLATMEM"))
    assert not oldest.columns.keys() & {"migratetype", "pid", "ts_nsec", "memcg", "zone"}


def test_sums_of_pages_without_a_number_of_allocations(dump_named: Callable[[str], Dump]) -> None:
    dump = dump_named("linux-7.2/kdump")
    session = open_file(str(dump.truth_directory / STACKS / "show_stacks"))
    total = json.loads(ask(session, "top --format json --limit 1")[1])["total"]
    pages = re.findall(rb"^nr_base_pages: (\d+)$", dump.truth(f"{STACKS}/show_stacks"), re.M)
    assert total == {
        "allocations": None,
        "pages": sum(map(int, pages)),
        "bytes": sum(map(int, pages)) * 4096,
    }
    assert "do" in ask(session, "top --format folded --limit 2")[1]
    assert (
        "does not say how many allocations"
        in ask(session, "top --format folded --weight allocations")[2]
    )
    handles = open_file(str(dump.truth_directory / STACKS / "show_handles"))
    [first] = json.loads(ask(handles, "top --format json --limit 1")[1])["groups"]
    assert f"handle: {first['handle']}\n".encode() in dump.truth(f"{STACKS}/show_handles")
    assert first["stack"] == []


@pytest.mark.parametrize("line", [0, 1, 4])
def test_a_damaged_line_costs_itself(example: bytes, tmp_path: Path, line: int) -> None:
    records = example.split(b"\n\n")[:-1]
    lines = records[20].split(b"\n")
    lines[line] = b"#" + lines[line][5:]
    damaged = b"\n\n".join([*records[:20], b"\n".join(lines), *records[21:]]) + b"\n\n"
    right, found = (read(written(tmp_path / "text", text)) for text in (example, damaged))
    number = 1 + sum(record.count(b"\n") + 2 for record in records[:20]) + line
    if line < 2:
        # Without its first two lines, a record is dropped, including its stack.
        assert found["pfn"].tolist() == np.delete(right["pfn"], 20).tolist()
        assert line == 0 or "1 record of the text left out" in found.problems[1]
        first = number if line == 0 else number - 1
    else:
        assert found["pfn"].tolist() == right["pfn"].tolist()
        stack = [str(frame) for frame in right.stack_frames(int(right.stack[20]))]
        del stack[line - 2]
        assert [str(frame) for frame in found.stack_frames(int(found.stack[20]))] == stack
        assert found.problems == [
            f"1 line of the text makes no sense and is left out: line {number}"
        ]
        first = number
    assert f"line {first}" in found.problems[0]
    assert [str(f) for f in found.stack_frames(int(found.stack[-1]))] == [
        str(f) for f in right.stack_frames(int(right.stack[-1]))
    ]


def test_garbage_between_records_and_numbers_that_no_kernel_has(
    example: bytes, tmp_path: Path
) -> None:
    garbage = (
        b"\xff\xfe\x00garbage\nPage allocated via order 99999999999, mask 0x0()\n"
        b"Page allocated via order 77, mask 0x0(), pid 0, tgid 0 (swapper), ts 1 ns\n"
        b"PFN 0x1 type Unmovable Block 0 type Unmovable Flags 0x0(node=0|zone=0)\n x+0x1/0x2\n\n"
    )
    snapshot = read(written(tmp_path / "text", garbage + example))
    whole = read(written(tmp_path / "whole", example))
    assert snapshot["pfn"].tolist() == whole["pfn"].tolist()
    assert snapshot.problems[0].startswith("3 lines of the text make no sense")
    assert printed(snapshot) == example


def test_task_names_of_any_bytes(tmp_path: Path) -> None:
    for comm in (b"a\nb", b"x), ts 5 ns", b"\n\n", b"\xff(", b"Page allocated"):
        text = (
            b"Page allocated via order 0, mask 0xcc0(GFP_KERNEL), pid 7, tgid 7 (" + comm + b"), "
            b"ts 12 ns\nPFN 0x20 type Unmovable Block 0 type Movable Flags 0x0(node=0|zone=0)\n"
            b" f+0x1/0x2 [m]\n\n"
        )
        snapshot = read(written(tmp_path / "text", text * 3))
        assert snapshot["comm"].tolist() == [comm] * 3
        assert printed(snapshot) == text * 3


def test_line_ends_of_another_system_and_a_text_that_is_cut_off(
    example: bytes, tmp_path: Path
) -> None:
    snapshot = read(written(tmp_path / "text", example.replace(b"\n", b"\r\n")))
    assert printed(snapshot) == example
    cut = read(written(tmp_path / "cut", example[:-9]))
    assert len(cut) == len(snapshot)
    assert "ends in the middle of a line" in cut.problems[-1]


def test_a_large_text_is_read_in_pieces(
    example: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "text", example)
    whole = read(path)
    for size in (1, 700, 10_000):
        monkeypatch.setattr(source, "_PIECE", size)
        pieces = read(path)
        assert printed(pieces) == example
        assert pieces["pfn"].tolist() == whole["pfn"].tolist()


@pytest.mark.parametrize("words", ["top --format json --limit 0", "save -o /dev/stdout"])
@pytest.mark.parametrize("name", ["linux-6.12/traps", "linux-5.10/kdump"])
def test_a_text_is_read_the_same_each_time(
    dump_named: Callable[[str], Dump], tmp_path: Path, name: str, words: str
) -> None:
    """Stacks of a text get handles in the order of the text, whatever Python's hashes are."""
    path = written(tmp_path / "text", dump_named(name).truth(f"{DEBUGFS}/page_owner"))
    said = [
        run_cli("-S", path, *words.split(), env={**os.environ, "PYTHONHASHSEED": str(seed)}).stdout
        for seed in range(1, 4)
    ]
    assert len(said[0]) > 5000
    assert said[1:] == said[:1] * 2
    handles = read(path)["handle"].tolist()
    assert list(dict.fromkeys(handles)) == list(range(1, len(set(handles)) + 1))


def test_files_that_are_no_text_of_a_kernel(tmp_path: Path, one_dump: Dump) -> None:
    pytest.importorskip("pyarrow")
    for data in (b"", b"hello\n", b"\0" * 1000):
        path = written(tmp_path / "other", data)
        result = run_cli("-S", path, "top")
        assert (result.returncode, result.stdout) == (1, "")
        assert "is not a snapshot, or a damaged one: -S takes what `save` wrote" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert source.kind_of_text(str(one_dump.vmcore)) is None
    assert source.kind_of_text(str(one_dump.vmlinux)) is None


def test_a_text_and_its_dump_are_of_one_boot(dump_named: Callable[[str], Dump]) -> None:
    dump = dump_named("linux-7.2/kdump")
    text = dump.truth_directory / DEBUGFS / "page_owner"
    result = dump.run("diff", dump.vmcore, text, "--format", "json")
    answer = json.loads(result.stdout)
    assert answer["relation"]["same_build"]
    assert answer["relation"]["same_boot"]
    assert answer["states"]["same"] > 300
    assert sum(answer["states"].values()) - answer["states"]["same"] < 10
    sides = [answer[side]["total"]["allocations"] for side in ("before", "after")]
    assert abs(sides[0] - sides[1]) < 10


def test_texts_of_two_boots_and_of_two_kernels(dump_named: Callable[[str], Dump]) -> None:
    texts = [
        str(dump_named(f"linux-{name}").truth_directory / DEBUGFS / "page_owner")
        for name in ("7.2/kdump", "7.2/traps", "6.12/traps")
    ]
    relations = [
        json.loads(run_cli("diff", texts[0], other, "--format", "json", "--limit", 1).stdout)[
            "relation"
        ]
        for other in texts[1:]
    ]
    assert [(known["same_build"], known["same_boot"]) for known in relations] == [
        (True, False),
        (False, False),
    ]


def test_a_text_can_be_saved_and_reported(
    dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    dump = dump_named("linux-6.12/kdump")
    session = open_file(str(dump.truth_directory / DEBUGFS / "page_owner"))
    path = tmp_path / "text.parquet"
    assert ask(session, f"save {path}")[0] == 0
    text = dump.truth(f"{DEBUGFS}/page_owner")
    assert ask(open_file(str(path)), "list --format debugfs")[1].encode() == text
    for kind in ("html", "md", "json"):
        out = tmp_path / f"report.{kind}"
        assert ask(session, f"report {out}")[0] == 0
        assert "register_early_stack" in out.read_text()
    assert "register_early_stack" in ask(session, "info")[1] or "stacks" in ask(session, "info")[1]


def test_a_page_size_can_be_said(dump_named: Callable[[str], Dump]) -> None:
    dump = dump_named("linux-7.2-arm64-16k/kdump")
    text = dump.truth_directory / DEBUGFS / "page_owner"
    said = run_cli("-S", text, "--page-size", 16384, "top", "--format", "json", "--limit", 1)
    total = json.loads(said.stdout)["total"]
    assert total["bytes"] == total["pages"] * 16384
    assert said.stderr == ""
    assumed = run_cli("-S", text, "top", "--format", "json", "--limit", 1)
    assert "does not say how large a page is: 4096 bytes are assumed" in assumed.stderr


def test_masks_follow_from_numbers_and_names() -> None:
    texts = {0xCC0: "A", 0xDC0: "A|Z", 0x41DC0: "A|Z|C", 0x3: "P|Q", 0x41001: "P|C", 0x500: "0x500"}
    assert gfp_masks(texts) == [
        (0xCC0, "A"),
        (0x41000, "C"),
        (0x1, "P"),
        (0x2, "Q"),
        (0x100, "Z"),
    ]
    # Two names that always occur together cannot be determined.
    assert gfp_masks({0x30: "X|Y"}) == []
    flags = {0x21: "a|node=2", 0x23: "a|b|node=2", 0x42: "b|node=4", 0x40: "node=4"}
    assert page_flag_bits(flags) == [(2, "b")]
    assert page_flag_bits({0x21: "a|node=2"}) == []
