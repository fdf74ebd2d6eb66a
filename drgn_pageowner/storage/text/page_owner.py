# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read /sys/kernel/debug/page_owner: the output of ``print_page_owner()`` of v3.19 to v7.2.

``_by_layout()`` of ``drgn_pageowner/kernel/linux/formats.py`` lists the commits that changed the
format. One regular expression matches all of these formats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.kernel import Facts, TextFormats
from drgn_pageowner.model.records import Snapshot, latest
from drgn_pageowner.storage.text.records import (
    Bodies,
    Interned,
    TextNames,
    comms,
    numbers,
)
from drgn_pageowner.storage.text.source import Damage, TextFile

__all__ = ("FIRST_LINE", "FIRST_WORDS", "first_line_columns", "read_page_owner", "record_format")

FIRST_WORDS = b"Page allocated via order "
# A task's name has up to 15 bytes (TASK_COMM_LEN), with any values except NUL.
FIRST_LINE = (
    rb"Page allocated via order (\d{1,2}), mask (0x[0-9a-f]{1,8})(\([\w|]*\))?"
    rb"(?:, pid (-?\d{1,10}))?(?:, tgid (-?\d{1,10}) (\([\s\S]{0,15}?\)))?"
    rb"(?:, ts (\d{0,20}) ns)?(?:, free_ts (\d{0,20}) ns)?\n"
)
"""The first line of a record; page_owner_sort removes the number after "ts"."""

_RECORD = re.compile(
    rb"^" + FIRST_LINE + rb"PFN (0x[0-9a-f]{1,13}|\d{1,15}) (?:type (\w+) )?"
    rb"Block (\d{1,15}) type (\w+)"
    rb"(?: (Fallback| {8}))? Flags ([^\n]*)\n"
    rb"((?:[^\nP][^\n]*\n|P(?!age allocated via order )[^\n]*\n)*)(\n?)",
    re.MULTILINE,
)
_GROUPS = (
    "order", "gfp_mask", "gfp", "pid", "tgid", "comm", "ts_nsec", "free_ts_nsec", "pfn",
    "migratetype", "block", "pageblock_migratetype", "fallback", "flags", "body", "end",
)  # fmt: skip
_OPTIONAL = ("gfp", "pid", "tgid", "ts_nsec", "free_ts_nsec", "migratetype", "fallback")
_FLAGS = re.compile(rb"(0x[0-9a-f]{1,16})\(([\w|=]*)\)")
_LETTERS = re.compile(rb"[KERUDLASWCBM ]{12}")
_HUGE_ORDER = 63

Columns = dict[str, Array]


class _Reader:
    """Accumulates the records of a text that is read in pieces."""

    def __init__(self) -> None:
        self.names = TextNames()
        self.bodies = Bodies(self.names)
        self.damage = Damage()
        self.lost = 0
        """Number of records that were dropped because a required line cannot be parsed."""
        self.shape: dict[str, bool] | None = None
        """Whether the text has each part of :data:`_OPTIONAL`, and whether its PFNs are in hex;
        ``None`` before the first record."""
        self.parts: list[Columns] = []
        self._line = 1
        self._flags = Interned(self._flags_of)
        self._types = Interned(lambda name: self.names.migratetype(name.decode()))

    def read(self, piece: bytes) -> None:
        found = _RECORD.findall(piece)
        lines = piece.count(b"\n")
        if found:
            self._records(dict(zip(_GROUPS, zip(*found, strict=True), strict=True)), piece, lines)
        else:
            self._gaps(piece, np.ones(0, bool))
        self._line += lines

    def _records(self, groups: dict[str, Sequence[bytes]], piece: bytes, lines: int) -> None:
        if self.shape is None:
            self.shape = {name: bool(groups[name][0]) for name in _OPTIONAL}
            self.shape["hex"] = groups["pfn"][0].startswith(b"0x")
        bodies = self.bodies.numbers(groups["body"])
        columns = self._columns(groups, bodies)
        sane = self._sane(groups, columns)
        of_records = int(self.bodies.column(bodies, "lines", np.int64).sum()) + 2 * len(bodies)
        of_records += sum(map(len, groups["end"])) + b"".join(groups["comm"]).count(b"\n")
        damaged = self.bodies.column(bodies, "damaged", np.int64).any()
        if of_records != lines or damaged or not sane.all():
            self._gaps(piece, sane)
        if not sane.all():
            self.lost += int(np.count_nonzero(~sane))
            columns = {name: column[sane] for name, column in columns.items()}
        self.parts.append(columns)

    def _columns(self, groups: dict[str, Sequence[bytes]], bodies: Array) -> Columns:
        assert self.shape is not None
        columns = first_line_columns(groups, self.shape, self.names)
        base = 16 if self.shape["hex"] else 10
        columns["pfn"] = np.array([_integer(text, base) for text in groups["pfn"]], np.int64)
        columns["block"] = np.array([_integer(text, 10) for text in groups["block"]], np.int64)
        columns["pageblock_migratetype"] = np.array(self._block_types(groups), np.int16)
        if self.shape["migratetype"]:
            columns["migratetype"] = np.array(
                self._types.all(name or b"?" for name in groups["migratetype"]), np.uint8
            )
        if self.shape["fallback"]:
            columns["fallback"] = np.array(
                [text == b"Fallback" for text in groups["fallback"]], bool
            )
        # -1 where it cannot be read.
        flags = self._flags.all(groups["flags"])
        columns["page_flags"] = np.array([max(value, 0) for value in flags], np.uint64)
        columns["_flags_known"] = np.array([value >= 0 for value in flags], bool)
        columns["body"] = bodies
        return columns

    def _block_types(self, groups: dict[str, Sequence[bytes]]) -> list[int]:
        texts = groups["pageblock_migratetype"]
        if self.shape is not None and self.shape["fallback"]:
            # The migratetype is a number until Linux kernel commit 60f30350fd69 ("mm, page_owner:
            # print migratetype of page and pageblock, symbolic flags") (in v4.6).
            return [int(text) if text.isdigit() and len(text) < 4 else -1 for text in texts]
        types: list[int] = self._types.all(texts)
        return types

    def _flags_of(self, text: bytes) -> int:
        match = _FLAGS.fullmatch(text)
        if match is not None:
            value = int(match[1], 16)
            self.names.page_flags[value] = match[2].decode()
            return value
        return self.names.lettered(text.decode()) if _LETTERS.fullmatch(text) else -1

    def _sane(self, groups: dict[str, Sequence[bytes]], columns: Columns) -> Array:
        """Return whether each record is complete and has the same format as the first record."""
        assert self.shape is not None
        sane = columns.pop("_flags_known")
        sane &= (columns["order"] <= _HUGE_ORDER) & (columns["pfn"] >= 0) & (columns["block"] >= 0)
        for name in _OPTIONAL:
            if set(map(bool, groups[name])) != {self.shape[name]}:
                sane &= np.array([bool(text) == self.shape[name] for text in groups[name]])
        return sane

    def _gaps(self, piece: bytes, sane: Array) -> None:
        """
        Count the lines that are not part of a record, and the unreadable lines in records.

        :param sane: Whether each record is kept.
        """
        position, line = 0, self._line
        for match, kept in zip(_RECORD.finditer(piece), sane.tolist(), strict=True):
            line = self._gap(piece[position : match.start()], line)
            first = line + piece.count(b"\n", match.start(), match.start(15))
            bad = self.bodies.bad_lines(int(self.bodies.numbers([match.group(15)])[0]))
            for index in bad if kept else ():
                self.damage.add(first + index)
            if not kept:
                # One of the record's first two lines cannot be parsed.
                self.damage.add(line)
            line += match.group(0).count(b"\n")
            position = match.end()
        self._gap(piece[position:], line)

    def _gap(self, text: bytes, line: int) -> int:
        lines = text.split(b"\n")[:-1]
        for index, content in enumerate(lines):
            if content:
                self.damage.add(line + index)
        self.lost += text.count(b"Page allocated via order ")
        return line + len(lines)


def _integer(text: bytes, base: int) -> int:
    """Parse a number; return -1 if *text* is not a number in this base, or is too large."""
    try:
        value = int(text, base)
    except ValueError:
        return -1
    return value if value < 1 << 52 else -1


def first_line_columns(
    groups: Mapping[str, Sequence[bytes]], shape: Mapping[str, bool], names: TextNames
) -> Columns:
    """
    Convert the fields of first lines to columns.

    :param groups: The groups that :data:`FIRST_LINE` matched.
    :param shape: Whether the text has each group, by name.
    :param names: Collects the names of gfp flags.
    """
    columns = {
        "order": numbers(groups["order"], np.uint8),
        "gfp_mask": np.array(Interned(_hexadecimal).all(groups["gfp_mask"]), np.uint32),
    }
    if shape["gfp"]:
        pairs = dict.fromkeys(zip(groups["gfp_mask"], groups["gfp"], strict=True))
        names.gfp.update((_hexadecimal(mask), gfp[1:-1].decode()) for mask, gfp in pairs)
    for name in ("pid", "tgid"):
        if shape[name]:
            values = Interned(_pid).all(groups[name])
            columns[name] = np.array(values, np.int32)
    if shape["tgid"]:
        columns["comm"] = comms([text[1:-1] for text in groups["comm"]])
    for name in ("ts_nsec", "free_ts_nsec"):
        if shape[name]:
            columns[name] = np.array(
                [min(int(text or 0), (1 << 64) - 1) for text in groups[name]], np.uint64
            )
    return columns


def _hexadecimal(text: bytes) -> int:
    return int(text, 16)


def _pid(text: bytes) -> int:
    value = int(text or 0)
    return value if abs(value) < 1 << 31 else -1


def record_format(shape: dict[str, bool]) -> str:
    """Return the printf format of a record's first line."""
    result = "Page allocated via order %u, mask " + ("%#x(%pGg)" if shape["gfp"] else "0x%x")
    for name, part in (
        ("pid", ", pid %d"),
        ("tgid", ", tgid %d (%s)"),
        ("ts_nsec", ", ts %llu ns"),
        ("free_ts_nsec", ", free_ts %llu ns"),
    ):
        if shape[name]:
            result += part
    return result + "\n"


def _formats(shape: dict[str, bool], bodies: Bodies) -> TextFormats:
    pfn = "PFN 0x%lx" if shape["hex"] else "PFN %lu"
    if shape["fallback"]:
        page = pfn + " Block %lu type %d %s Flags " + "%s" * 12 + "\n"
    else:
        page = pfn + " type %s Block %lu type %s Flags %pGp\n"
    return TextFormats(
        record=record_format(shape),
        page=page,
        migrated="Page has been migrated, last migrate reason: %s\n",
        charged="Charged %sto %smemcg %s\n",
        slab_cache_page="Slab cache page\n",
        from_dump=False,
        frame=bodies.stacks.frames.format(),
    )


def read_page_owner(file: TextFile, facts: Facts) -> tuple[Snapshot, Bodies]:
    """
    Read the records of a text, in the order of the text.

    :param facts: Facts about the kernel that are known without the records.
    """
    reader = _Reader()
    for piece in file.pieces(FIRST_WORDS, reader.damage):
        reader.read(piece)
    shape = reader.shape or dict.fromkeys((*_OPTIONAL, "hex"), False)
    columns = _joined(reader.parts)
    bodies = columns.pop("body")
    facts.pageblock_order = _pageblock_order(columns["pfn"], columns.pop("block"))
    columns |= reader.bodies.columns(bodies, reasons=shape["gfp"])
    for name, dtype in (("node", np.uint16), ("zone", np.uint8)):
        values = reader.names.field_of_flags(columns["page_flags"], name)
        if values is not None:
            columns[name] = values.astype(dtype)
    columns["allocated"] = np.ones(len(bodies), bool)
    facts.now_ns = latest(None, columns)
    facts.max_page_order = int(columns["order"].max(initial=0))
    facts.formats = _formats(shape, reader.bodies)
    facts.layout = {"text": "page_owner", "members": sorted(columns)}
    problems = reader.damage.problems()
    if reader.lost:
        problems.append(
            f"{reader.lost:,} record{'s' * (reader.lost != 1)} of the text left out: a required "
            "line cannot be parsed"
        )
    return (
        Snapshot(
            facts=facts,
            names=reader.names.names(),
            columns=columns,
            stacks=reader.bodies.stacks.table(),
            symbolizer=reader.bodies.stacks.frames.symbols(),
            memcgs=tuple(reader.bodies.memcgs),
            problems=problems,
        ),
        reader.bodies,
    )


def _joined(parts: list[Columns]) -> Columns:
    if parts:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    empty: dict[str, Any] = {
        "pfn": np.int64, "order": np.uint8, "gfp_mask": np.uint32, "block": np.int64,
        "page_flags": np.uint64, "pageblock_migratetype": np.int16, "body": np.int64,
    }  # fmt: skip
    return {name: np.zeros(0, dtype) for name, dtype in empty.items()}


def _pageblock_order(pfns: Array, blocks: Array) -> int:
    """Find the order of pageblocks: the shift that converts the PFNs to *blocks*."""
    fitting = [int(np.count_nonzero(pfns >> order == blocks)) for order in range(32)]
    # PFNs below the second pageblock are compatible with many orders.
    return fitting.index(max(fitting))
