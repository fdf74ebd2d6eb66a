# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test formats for other programs with independent parsers."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import ask
from conftest import Dump, dump_id, traps

from drgn_pageowner.cli import main


def total(dump: Dump, live: Any, *options: str) -> dict[str, int]:
    answer = json.loads(ask(live(dump), " ".join(("top --format json", *options)))[1])
    counts: dict[str, int] = answer["total"]
    return counts


@pytest.fixture(params=traps(), ids=dump_id)
def dump(request: pytest.FixtureRequest) -> Dump:
    """Yield one dump of every kernel."""
    got: Dump = request.param()
    return got


@pytest.mark.parametrize("options", ["", "--order 1-", "--depth 4", "--by comm,stack", "--freed"])
def test_folded_lines_add_up(dump: Dump, live: Any, options: str) -> None:
    if "comm" in options and "comm" not in dump.snapshot:
        pytest.skip("this kernel does not record comm")
    expected = total(dump, live, options)
    for weight in ("pages", "allocations"):
        lines = ask(live(dump), f"top --format folded --weight {weight} {options}")[1].splitlines()
        stacks = [line.rpartition(" ") for line in lines]
        assert sum(int(count) for _, _, count in stacks) == expected[weight]
        assert len({stack for stack, _, _ in stacks}) == len(stacks)


def test_a_folded_stack_begins_at_its_root(one_dump: Dump, live: Any) -> None:
    [line] = ask(live(one_dump), "top --format folded --limit 1")[1].splitlines()
    largest = json.loads(ask(live(one_dump), "top --format json --limit 1")[1])["groups"][0]
    functions = [frame.split("+")[0] for frame in reversed(largest["stack"])]
    assert line == f"{';'.join(functions)} {largest['pages']}"


def test_a_speedscope_profile_adds_up(dump: Dump, live: Any) -> None:
    expected = total(dump, live)
    for weight, unit, sum_ in (("pages", "bytes", "bytes"), ("allocations", "none", "allocations")):
        file = json.loads(ask(live(dump), f"top --format speedscope --weight {weight}")[1])
        assert file["$schema"] == "https://www.speedscope.app/file-format-schema.json"
        [profile] = file["profiles"]
        frames = file["shared"]["frames"]
        assert profile["type"] == "sampled"
        assert profile["unit"] == unit
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["startValue"] == 0
        assert sum(profile["weights"]) == profile["endValue"] == expected[sum_]
        assert all(0 <= index < len(frames) for sample in profile["samples"] for index in sample)
        assert all(set(frame) <= {"name", "file", "line", "col"} for frame in frames)


def wire(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a protobuf message: number, and integer or bytes."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            assert key & 7 == 2
            length = varint()
            position += length
            yield key >> 3, data[position - length : position]


def packed(data: bytes) -> list[int]:
    # Parse packed values like a message with one field each.
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value = shift = 0
    return values


class Profile:
    """A profile, parsed by the field numbers of profile.proto."""

    def __init__(self, data: bytes) -> None:
        fields: dict[int, list[Any]] = {}
        for number, value in wire(gzip.decompress(data)):
            fields.setdefault(number, []).append(value)
        self.strings = [text.decode() for text in fields[6]]
        self.types = [
            tuple(self.strings[value] for _, value in wire(message)) for message in fields[1]
        ]
        self.mappings = [dict(wire(message)) for message in fields[3]]
        self.functions = {m[1]: self.strings[m[2]] for m in map(dict, map(wire, fields[5]))}
        self.locations = {}
        for message in fields[4]:
            parts = list(wire(message))
            known = dict(parts)
            lines = [dict(wire(value)) for number, value in parts if number == 4]
            names = [self.functions[line[1]] for line in lines]
            self.locations[known[1]] = (known[2], known[3], names)
        self.samples = []
        for message in fields[2]:
            parts = list(wire(message))
            stack = [i for number, value in parts if number == 1 for i in packed(value)]
            values = [v for number, value in parts if number == 2 for v in packed(value)]
            labels = [dict(wire(value)) for number, value in parts if number == 3]
            told = {
                self.strings[label[1]]: self.strings[label[2]] if 2 in label else label[3]
                for label in labels
            }
            self.samples.append((stack, values, told))
        self.default = self.strings[fields[14][0]]


def test_a_pprof_profile_adds_up(dump: Dump, live: Any, tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf", reason="pprof needs protobuf (the extra pprof)")
    path = tmp_path / "profile.pb.gz"
    status, out, err = ask(live(dump), f"top --format pprof --by stack,order -o {path}")
    assert (status, out, err) == (0, "", "")
    profile = Profile(path.read_bytes())
    assert profile.strings[0] == ""
    assert profile.types == [("allocations", "count"), ("pages", "count"), ("bytes", "bytes")]
    assert profile.default == "pages"
    sums = [
        sum(column) for column in zip(*(values for _, values, _ in profile.samples), strict=True)
    ]
    expected = total(dump, live)
    assert sums == [expected["allocations"], expected["pages"], expected["bytes"]]

    answer = ask(live(dump), "top --format json --by stack,order --limit 0")[1]
    groups = Counter(
        (group["key"]["stack"], str(group["key"]["order"]), group["pages"])
        for group in json.loads(answer)["groups"]
    )
    told = [(labels["handle"], labels["order"], v[1]) for _, v, labels in profile.samples]
    assert Counter(told) == groups
    stacks = {handle: stack for stack in profile.samples for handle in [stack[2]["handle"]]}
    everything = dump.snapshot
    for handle, (stack, _, _) in list(stacks.items())[:50]:
        frames = everything.stack_frames(int(everything.stacks.handles.searchsorted(handle)))
        assert [profile.locations[i][1] for i in stack] == [frame.pc for frame in frames]
        for number, frame in zip(stack, frames, strict=True):
            mapping, address, [name] = profile.locations[number]
            own = profile.mappings[mapping - 1]
            assert own[1] == mapping
            assert own[2] <= address < own[3]
            assert name.split(" ")[0] == (frame.name or hex(frame.pc))
            module = "[kernel.kallsyms]" if frame.module is None else f"[{frame.module}]"
            assert profile.strings[own[5]] == module


def test_limits_hold_when_they_are_given(one_dump: Dump, live: Any) -> None:
    def lines(options: str) -> int:
        return len(ask(live(one_dump), f"top --format folded {options}")[1].splitlines())

    assert lines("") == lines("--limit 0") > 300
    assert lines("--limit 5") == 5


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("top --format folded --by comm", "--by must have stack in it"),
        ("top --format pprof", "this format is binary"),
    ],
)
def test_wrong_questions(one_dump: Dump, live: Any, line: str, word: str) -> None:
    pytest.importorskip("google.protobuf", reason="pprof needs protobuf (the extra pprof)")
    status, _, err = ask(live(one_dump), line)
    assert status == 2
    assert word in err


def test_what_is_not_installed_is_said_in_one_line(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    for module in ("google.protobuf", "google.protobuf.descriptor_pb2", "duckdb", "pyarrow",
                   "pyarrow.parquet"):  # fmt: skip
        monkeypatch.setitem(sys.modules, module, None)
    dump = ["-c", str(one_dump.vmcore), "-s", str(one_dump.vmlinux)]
    from drgn_pageowner.render import pprof_messages

    pprof_messages.profile_message.cache_clear()
    for command, extra in (
        ([*dump, "top", "--format", "pprof", "-o", "/dev/null"], "pprof"),
        ([*dump, "save", "/dev/null"], "parquet"),
        ([*dump, "sql", "select 1"], "sql"),
        (["-S", "any.parquet", "top"], "parquet"),
    ):
        assert main(command) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.endswith(f"pip install 'drgn-pageowner[{extra}]'")
