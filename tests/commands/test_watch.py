# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test ``watch`` on a real dump whose records are changed between readings."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from conftest import Dump
from live import Computed, fresh_program, taken_for_live

from drgn_pageowner.commands import CommandParser, add_commands, run_command
from drgn_pageowner.errors import UsageError
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout
from drgn_pageowner.kernel.linux.page_owner import owner_dtype
from drgn_pageowner.kernel.linux.sections import find_sections
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model.records import Snapshot

PAGES_A_SECOND = 40
ROOM = 8 * PAGES_A_SECOND


class Leaking:
    """A program in which one stack gains :data:`PAGES_A_SECOND` pages every round."""

    def __init__(self, dump: Dump) -> None:
        self.prog = fresh_program(dump)
        self.round = 0
        self.leaked = [PAGES_A_SECOND * number for number in range(9)]
        """Number of leaked pages in every round."""
        records = dump.snapshot.select(dump.snapshot["allocated"])
        single = np.flatnonzero((records["order"] == 0) & (records["handle"] != 0))
        chosen = records.select(single[len(single) // 2 :][:1])
        self.handle = int(chosen["handle"][0])
        self.stack = [str(frame) for frame in chosen.stack_frames(int(chosen.stack[0]))]
        self.before = int(records.pages[records["handle"] == self.handle].sum())
        now = dump.snapshot.facts.now_ns
        assert now is not None
        self._now_ns = now

        kernel = Kernel.of(self.prog)
        layout, dtype = page_ext_layout(kernel), owner_dtype(kernel)
        section = next(
            s for s in find_sections(kernel) if s.start_pfn <= chosen["pfn"][0] < s.end_pfn
        )
        entry = section.page_ext + (int(chosen["pfn"][0]) - section.start_pfn) * layout.stride
        self._leak = np.frombuffer(self.prog.read(entry, layout.stride), dtype).copy()
        place = self._room(dump, layout.allocated_bit)
        self._free = self.prog.read(place, ROOM * layout.stride)
        Computed(self.prog, place, len(self._free), self._content)

    def _room(self, dump: Dump, allocated_bit: int) -> int:
        """Return the address of the page_ext of :data:`ROOM` consecutive free pages."""
        kernel = Kernel.of(self.prog)
        layout, dtype = page_ext_layout(kernel), owner_dtype(kernel)
        for section in find_sections(kernel):
            number = min(section.end_pfn, dump.snapshot.facts.max_pfn) - section.start_pfn
            rows = np.frombuffer(self.prog.read(section.page_ext, number * layout.stride), dtype)
            taken = np.concatenate([[0], np.cumsum((rows["flags"] & allocated_bit) != 0)])
            free = np.flatnonzero(taken[ROOM:] == taken[:-ROOM])
            if len(free):
                return section.page_ext + int(free[0]) * layout.stride
        raise AssertionError("no free pages in this dump")

    def _content(self) -> bytes:
        number = self.leaked[self.round]
        # The kernel's clock advances by a second.
        self._leak["ts_nsec"] = self._now_ns + self.round * 10**9
        stride = self._leak.dtype.itemsize
        return self._leak.tobytes() * number + self._free[number * stride :]


class Session(ProgramSession):
    """A session in which every reading starts the next round."""

    def __init__(self, leaking: Leaking, *, interrupt_at: int = -1) -> None:
        super().__init__(leaking.prog)
        self._leaking = leaking
        self._rounds = 0
        self._interrupt_at = interrupt_at

    def snapshot(self, columns: Iterable[str] | None, *, freed: bool = False) -> Snapshot:
        self._leaking.round = self._rounds
        self._rounds += 1
        if self._rounds == self._interrupt_at:
            raise KeyboardInterrupt
        return super().snapshot(columns, freed=freed)


Watch = Callable[..., str]


@pytest.fixture(scope="module")
def leaking(one_dump: Dump) -> Leaking:
    return Leaking(one_dump)


@pytest.fixture
def watch(leaking: Leaking, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Return a function that runs the command and returns its output."""
    taken_for_live(monkeypatch)

    def run(*arguments: str, interrupt_at: int = -1) -> str:
        parser = CommandParser()
        add_commands(parser)
        args = parser.parse_args(["watch", "--interval", "0", *arguments])
        out = io.StringIO()
        assert run_command(args, Session(leaking, interrupt_at=interrupt_at), out) == 0
        return out.getvalue()

    return run


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_growing_stack_comes_first_with_its_rate(leaking: Leaking, watch: Watch) -> None:
    first, one, two, summary = objects(watch("--count", "2", "--format", "json"))
    assert [r["kind"] for r in (first, one, two, summary)] == ["first", "round", "round", "summary"]
    assert [r["number"] for r in (first, one, two, summary)] == [0, 1, 2, 2]
    assert first["groups"] == []
    assert two["elapsed_ns"] == 10**9
    assert summary["elapsed_ns"] == summary["elapsed_ns_since_start"] == 2 * 10**9
    assert two["pages"] == first["pages"] + 2 * PAGES_A_SECOND
    [group] = two["groups"]
    assert group["key"] == {"stack": leaking.handle}
    assert group["handle"] == leaking.handle
    assert group["stack"] == leaking.stack
    assert group["pages"] == leaking.before + 2 * PAGES_A_SECOND
    assert group["grown_pages"] == group["grown_allocations"] == PAGES_A_SECOND
    assert group["pages_per_second"] == group["pages_per_second_since_start"] == PAGES_A_SECOND
    assert group["grown_pages_since_start"] == 2 * PAGES_A_SECOND
    assert group["rounds_grown"] == 2
    assert summary["groups"][0]["grown_pages"] == 2 * PAGES_A_SECOND


def test_the_table_says_the_same(leaking: Leaking, watch: Watch) -> None:
    text = watch("--count", "1")
    assert text.startswith("first round at ")
    assert f"round 1 at {(leaking._now_ns + 10**9) / 10**9:.6f} s: " in text
    assert f" +{PAGES_A_SECOND} pages in 1.0 s\n" in text
    row = next(line for line in text.splitlines() if str(leaking.handle) in line)
    assert row.split()[:4] == [f"+{PAGES_A_SECOND}", f"{PAGES_A_SECOND * 4}.0", "KiB", "40.0"]
    assert all(frame in text for frame in leaking.stack)
    assert "\nsummary at " in text
    assert f" +{PAGES_A_SECOND} pages ({PAGES_A_SECOND * 4}.0 KiB), 40.0 pages/s" in text


@pytest.mark.parametrize("by", ["stack", "allocator", "comm,order,zone"])
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_line_is_wider_than_columns(
    watch: Watch, by: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = watch("--count", "2", "--by", by)
    assert [line for line in text.splitlines() if len(line) > columns] == []
    # What is left on a screen of 24 lines at the end.
    last = "\n".join(text.splitlines()[-23:])
    assert "summary at " in last
    assert "most growth: " in last


def test_other_keys_and_filters(leaking: Leaking, watch: Watch) -> None:
    [*_, summary] = objects(watch("--count", "1", "--format", "json", "--by", "order,zone"))
    assert summary["groups"][0]["key"]["order"] == 0
    assert summary["groups"][0]["grown_pages"] == PAGES_A_SECOND
    only = objects(
        watch("--count", "1", "--format", "json", "--handle", str(leaking.handle), "--limit", "0")
    )
    assert only[0]["pages"] == leaking.before
    none = objects(watch("--count", "1", "--format", "json", "--order", "3"))
    assert [r["groups"] for r in none] == [[], [], []]


def test_the_lines_of_drgn_watch_too(
    leaking: Leaking, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = watch("--count", "2", "--by", "order,zone", "--drgn")
    readings = Session(leaking)
    monkeypatch.setattr(
        "drgn_pageowner.snapshot", lambda prog, columns: readings.snapshot(columns), raising=False
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, {"prog": leaking.prog})
    assert [line.split()[:2] for line in printed.getvalue().splitlines()] == [
        [str(PAGES_A_SECOND), "1"],
        [str(PAGES_A_SECOND), "2"],
    ]


def test_what_shrinks_is_in_the_sum_only(leaking: Leaking, watch: Watch) -> None:
    growing, leaking.leaked = leaking.leaked, [80, 120, 20]
    try:
        _, one, two, summary = objects(watch("--count", "2", "--format", "json"))
    finally:
        leaking.leaked = growing
    assert one["grown_pages"] == 40
    assert two["grown_pages"] == -100
    assert summary["grown_pages"] == -60
    assert two["groups"] == summary["groups"] == []


@pytest.mark.parametrize(
    "at, kinds", [(1, []), (2, ["first"]), (4, ["first", "round", "round", "summary"])]
)
def test_an_interrupt_ends_it_with_a_summary(watch: Watch, at: int, kinds: list[str]) -> None:
    said = objects(watch("--format", "json", interrupt_at=at))
    assert [r["kind"] for r in said] == kinds


def test_a_dump_does_not_change(one_dump: Dump) -> None:
    result = one_dump.run("watch")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "drgn-pageowner: a dump does not change: watch reads a running kernel (-k) or guest "
        "(--qemu)\n"
    )


def test_the_drgn_shell_has_it(one_dump: Dump) -> None:
    commands = pytest.importorskip("drgn.commands")
    import drgn_pageowner.plugin  # noqa: F401 - registers the command

    with pytest.raises(commands.CommandError, match="a dump does not change"):
        commands.run_command(one_dump.prog, "pageowner watch --count 1")


@pytest.mark.parametrize(
    "arguments", [("--by", "colour"), ("--interval", "soon"), ("--count", "x")]
)
def test_wrong_arguments(watch: Watch, arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        watch("--count", "1", *arguments)
