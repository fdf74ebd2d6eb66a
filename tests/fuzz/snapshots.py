# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Make snapshots with changed types, numbers, lengths and nesting, and correct checksums.

Checksums detect flipped bits. Therefore, this module reads a snapshot, changes its documents,
tables or records, and writes a valid Parquet file again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import traceback
import zlib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from verdict import LIMIT_BYTES, LIMIT_SECONDS, Outcome, limit_memory, memory_in_use

from drgn_pageowner.cli import main
from drgn_pageowner.storage import container

__all__ = ("QUESTIONS", "SnapshotParts", "judge_snapshot", "mutated", "take_apart", "write")

QUESTIONS = (
    "info",
    "info --format json",
    "list",
    "list --freed --format json",
    "list --format csv --limit 50",
    "list --format debugfs",
    "top --by stack --limit 5 --source",
    "top --by comm,zone,node,migratetype,memcg,order",
    "top --format speedscope",
    "account --zones --caches",
    "account --zones --caches --format json",
    "leaks --all",
    "leaks --slab --format json",
    "leaks --suspects",
    "page pfn:0x1000",
    "page pfn:0x2400 --format json",
    "frag all --order 4",
    "frag all --order 9 --format json",
    "frag --explain pfn:0x1000",
    "report --format json",
)

_SCALARS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 255, 4096, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 64, -(1 << 63),
    10**30, 0.5, -1e308, float("nan"), float("inf"), "", "0", "x", "x" * 5000, "\ud800", "\x1b[2J",
    [], {}, [[]], [0], {"x": 0}, ["x"], [None], {"": None},
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 7, 127, -128, 255, 32767, 65535, 1 << 20, (1 << 31) - 1, 1 << 31,
            1 << 40, (1 << 63) - 1, -(1 << 63))  # fmt: skip


class SnapshotParts(NamedTuple):
    """The parts of a snapshot."""

    head: dict[str, Any]
    documents: dict[str, Any]
    tables: dict[str, pa.Table]
    records: list[pa.Table]


def take_apart(path: Path) -> SnapshotParts:
    """Read all parts of a snapshot without checking them."""
    file = container.Container(str(path))
    documents, tables = {}, {}
    for name in file.head["parts"]:
        piece = bytes(file._piece(name))
        try:
            tables[name] = pa.ipc.open_stream(pa.py_buffer(piece)).read_all()
        except (pa.ArrowInvalid, OSError):
            documents[name] = file.document(name)
    rows = pq.read_table(str(path), memory_map=False, read_dictionary=["comm"])
    allocated = file.head["allocated"]
    head = {
        name: value
        for name, value in file.head.items()
        if name not in ("parts", "allocated", "columns")
    }
    return SnapshotParts(head, documents, tables, [rows.slice(0, allocated), rows.slice(allocated)])


# Members of the head that are computed when it is written.
_WRITTEN = ("parts", "allocated", "columns")


class _Raw(NamedTuple):
    """The bytes of a piece of the file."""

    data: bytes


def _piece(value: Any) -> bytes:
    if isinstance(value, _Raw):
        return value.data
    if isinstance(value, pa.Table):
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 3))
        with pa.ipc.new_stream(sink, value.schema, options=options) as writer:
            writer.write_table(value)
        return bytes(sink.getvalue().to_pybytes())
    return container._compressed(json.dumps(value).encode("ascii"))


def write(parts: SnapshotParts, path: Path) -> None:
    """Write a snapshot with correct checksums, even if its contents are invalid."""
    index, position, pieces = {}, 4, []
    for name, value in {**parts.tables, **parts.documents}.items():
        piece = _piece(value)
        pieces.append(piece)
        index[name] = {"offset": position, "length": len(piece), "crc32": zlib.crc32(piece)}
        position += len(piece)
    head = {
        "columns": parts.records[0].schema.names,
        "allocated": len(parts.records[0]),
        "parts": index,
        **parts.head,
    }
    for name, where in head.pop("parts_changed", {}).items():
        if isinstance(head["parts"], dict):
            head["parts"][name] = where
    text = json.dumps(head)
    with path.open("wb") as file:
        sink = pa.PythonFile(file, "w")
        with pq.ParquetWriter(
            sink, parts.records[0].schema, compression="zstd", store_schema=False,
            write_page_checksum=True,
        ) as writer:  # fmt: skip
            writer.add_key_value_metadata(
                {
                    "drgn_pageowner.version": "1",
                    "drgn_pageowner.head": text,
                    "drgn_pageowner.crc32": str(zlib.crc32(text.encode())),
                }
            )
            for piece in pieces:
                sink.write(piece)
            for part in parts.records:
                if len(part):
                    writer.write_table(part)


def mutated(
    parts: SnapshotParts, seed: int, number: int
) -> tuple[SnapshotParts, str, tuple[str, ...]]:
    """
    Change *parts*; the change only depends on *seed* and *number*.

    :return: The changed parts, a description of the change, and the commands to run.
    """
    random = np.random.default_rng((seed, number))
    changed = SnapshotParts(
        deepcopy(parts.head), deepcopy(parts.documents), dict(parts.tables), list(parts.records)
    )
    done = [_mutate(changed, random) for _ in range(int(random.integers(1, 4)))]
    asked = tuple(str(question) for question in random.choice(QUESTIONS, 2, replace=False))
    return changed, "; ".join(done), asked


def _mutate(parts: SnapshotParts, random: np.random.Generator) -> str:
    chance = random.random()
    if chance < 0.25:
        return "head" + _mutate_json(parts.head, random)
    if chance < 0.5:
        name = str(random.choice(list(parts.documents)))
        if random.random() < 0.08:
            parts.documents[name] = _hostile_document(random)
            return f"{name}: replaced"
        box = {"": parts.documents[name]}
        what = _mutate_json(box, random)
        parts.documents[name] = box.get("")
        return f"{name}{what}"
    if chance < 0.8:
        name = str(random.choice(list(parts.tables)))
        if not isinstance(parts.tables[name], pa.Table) or not parts.tables[name].num_columns:
            return "nothing"
        parts.tables[name], what = _mutate_table(parts.tables[name], random)
        return f"{name}: {what}"
    if chance < 0.95:
        return _mutate_records(parts, random)
    return _mutate_parts(parts, random)


def _hostile_document(random: np.random.Generator) -> Any:
    kind = int(random.integers(0, 5))
    if kind == 0:
        # A few kilobytes that are decompressed to very many empty lists.
        text = b"[" + b"[]," * 30_000_000 + b"0]"
        return _Raw(container._compressed(text))
    if kind == 1:
        text = b"[" * 200_000 + b"]" * 200_000
        return _Raw(container._compressed(text))
    if kind == 2:
        return _Raw((1 << 40).to_bytes(8, "little") + container._compressed(b"{}")[8:])
    if kind == 3:
        return _Raw(container._compressed(b'{"x": ' + b"9" * 100_000 + b"}"))
    return _Raw(bytes(int(random.integers(0, 12))))


def _nodes(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Return every container of a document, a key in it, and its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key, f"{path}[{key!r}]"
        if isinstance(item, dict | list):
            yield from _nodes(item, f"{path}[{key!r}]")


def _mutate_json(value: dict[str, Any], random: np.random.Generator) -> str:
    nodes = list(_nodes(value))
    # Prefer containers near the top of the document.
    nodes.sort(key=lambda node: node[2].count("["))
    place = int(len(nodes) * random.random() ** 3)
    if not nodes:
        return ": nothing"
    inside, key, path = nodes[place]
    kind = int(random.integers(0, 6))
    new = _SCALARS[int(random.integers(0, len(_SCALARS)))]
    if kind == 0 and isinstance(inside, dict):
        del inside[key]
        return f"{path} removed"
    if kind == 1 and isinstance(inside, dict):
        inside["added later"] = new
        return f"{path} has a neighbour"
    if kind == 2 and isinstance(inside[key], list):
        inside[key] = inside[key] * int(random.choice([2, 1000]))
        return f"{path} repeated"
    if kind == 3 and isinstance(inside[key], list) and inside[key]:
        inside[key] = inside[key][:-1]
        return f"{path} cut off"
    old = inside[key]
    if kind == 4 and isinstance(old, int):
        new = int(_NUMBERS[int(random.integers(0, len(_NUMBERS)))])
    inside[key] = new
    return f"{path} = {str(new)[:40]!r}"


def _mutate_table(table: pa.Table, random: np.random.Generator) -> tuple[pa.Table, str]:
    column = int(random.integers(0, table.num_columns))
    name = table.column_names[column]
    kind = int(random.integers(0, 12))
    if kind == 0:
        return table.drop_columns([name]), f"{name} dropped"
    if kind == 1:
        return table.append_column("added later", pa.nulls(len(table), pa.int64())), "one more"
    if kind == 2:
        order = random.permutation(table.num_columns)
        return table.select([table.column_names[i] for i in order]), "columns in another order"
    if kind == 3:
        return table.slice(0, len(table) // 2), "half of the rows"
    if kind == 4:
        return pa.concat_tables([table] * int(random.choice([2, 50]))), "rows repeated"
    if kind == 5:
        return table.slice(0, 0), "no rows"
    if kind == 6:
        values = pa.array([None] * len(table), table.column(column).type)
        return table.set_column(column, pa.field(name, values.type), values), f"{name} null"
    if kind == 7:
        other = _other_type(len(table), random)
        return table.set_column(column, name, other), f"{name} is {other.type}"
    if kind == 8 and random.random() < 0.1:
        rows = 150_000_000
        arrays = [pa.nulls(rows, pa.int8()).fill_null(0) for _ in range(1)]
        return pa.table({name: arrays[0]}), f"{name}: {rows} rows"
    return _with_numbers(table, column, random)


def _other_type(rows: int, random: np.random.Generator) -> pa.Array:
    return [
        lambda: pa.array(np.zeros(rows)),
        lambda: pa.array(["x"] * rows),
        lambda: pa.array(["x"] * rows).dictionary_encode(),
        lambda: pa.array([b"\xff"] * rows).dictionary_encode(),
        lambda: pa.array([[1]] * rows),
        lambda: pa.array([{"a": 1}] * rows),
        lambda: pa.array(np.zeros(rows, bool)),
        lambda: pa.array(np.zeros(rows, "u8") + np.uint64((1 << 64) - 1)),
        lambda: pa.array(np.zeros(rows, "M8[ns]")),
        lambda: pa.array(np.zeros(rows, "i1")),
        lambda: pa.array([None] * rows),
    ][int(random.integers(0, 11))]()


def _with_numbers(
    table: pa.Table, column: int, random: np.random.Generator
) -> tuple[pa.Table, str]:
    name, values = table.column_names[column], table.column(column)
    if not len(table):
        return table, "nothing"
    if values.null_count:
        return table, "nothing"
    if not pa.types.is_integer(values.type):
        text = pa.array(["y" * int(random.choice([1, 17, 300]))])
        other = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(table), "i4")), text)
        return table.set_column(column, name, other), f"{name} other text"
    data = values.to_numpy().copy()
    limits = np.iinfo(data.dtype)
    number = int(_NUMBERS[int(random.integers(0, len(_NUMBERS)))])
    if random.random() < 0.3:
        number = int(random.choice([limits.min, limits.max]))
    number = min(max(number, limits.min), limits.max)
    rows = random.integers(0, len(table), int(random.choice([1, 3, 100])))
    if random.random() < 0.1:
        rows = np.arange(len(table))
    data[rows] = number
    field = pa.field(name, values.type, nullable=False)
    return table.set_column(column, field, pa.array(data)), f"{name} = {number}"


def _mutate_records(parts: SnapshotParts, random: np.random.Generator) -> str:
    whole = pa.concat_tables(parts.records)
    if not whole.num_columns:
        return "nothing"
    changed, what = _mutate_table(whole, random)
    allocated = min(len(parts.records[0]), len(changed))
    if random.random() < 0.1:
        allocated = int(random.integers(0, len(changed) + 1))
    parts.records[:] = [changed.slice(0, allocated), changed.slice(allocated)]
    return f"records: {what}"


def _mutate_parts(parts: SnapshotParts, random: np.random.Generator) -> str:
    everything: list[Any] = [parts.tables, parts.documents]
    box = everything[int(random.integers(0, 2))]
    name = str(random.choice(list(box)))
    kind = int(random.integers(0, 4))
    if kind == 0:
        del box[name]
        return f"{name} is not there"
    if kind == 1:
        other = everything[int(random.integers(0, 2))]
        box[name] = other[str(random.choice(list(other)))]
        return f"{name} is another part"
    if kind == 2:
        where = {"offset": 4, "length": 1 << 40, "crc32": 0}
        parts.head["parts_changed"] = {name: where}
        return f"{name} is behind the end"
    parts.head["parts_changed"] = {name: _SCALARS[int(random.integers(0, len(_SCALARS)))]}
    return f"{name} is nowhere"


def judge_snapshot(path: Path, questions: tuple[str, ...]) -> list[Outcome]:
    """Run commands on *path*, each in a separate process with limited memory and time."""
    return [_judge(path, question) for question in questions]


def _judge(path: Path, question: str) -> Outcome:
    reading, writing = os.pipe()
    resident = memory_in_use()[1]
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            limit_memory()
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS))
            os.write(writing, json.dumps(_ask(path, question)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    said = b""
    while piece := os.read(reading, 1 << 16):
        said += piece
    os.close(reading)
    _, status, usage = os.wait4(child, 0)
    if not said:
        return Outcome(question, "fault", f"ended with status {status}", usage.ru_utime)
    kind, detail = json.loads(said)
    # The maximum size (in KiB) includes the memory that this process had at the fork.
    taken = max(usage.ru_maxrss * 1024 - resident, 0)
    if taken > LIMIT_BYTES:
        return Outcome(question, "fault", f"took {taken >> 20} MiB", usage.ru_utime)
    return Outcome(question, kind, f"{taken >> 20} MiB: {detail}", usage.ru_utime)


def _ask(path: Path, question: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["-S", str(path), "--traceback", *question.split()])
    except BaseException:
        return "fault", traceback.format_exc(limit=-8)
    lines = err.getvalue().splitlines()
    last = (lines or [""])[-1]
    if status not in (0, 1, 2) or (status and not last.startswith("drgn-pageowner: ")):
        return "fault", f"exit status {status}\n{err.getvalue()[-2500:]}"
    # The kernel's own text contains names unchanged.
    if "\x1b" in out.getvalue() and "debugfs" not in question:
        return "fault", "an escape sequence was printed"
    if status == 0 and "--format json" in question:
        try:
            for line in [out.getvalue()] if question[0] not in "lp" or question.startswith(
                "leaks") else out.getvalue().splitlines()[:50]:  # fmt: skip
                json.loads(line)
        except ValueError as error:
            return "fault", f"no JSON: {error}"
    return ("refused" if status else "answered"), last
