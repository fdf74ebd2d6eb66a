# SPDX-License-Identifier: LGPL-2.1-or-later
"""Print records as the kernel that was dumped does in /sys/kernel/debug/page_owner."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.stack_table import StackTable
from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.model.columns import COLUMNS
from drgn_pageowner.model.records import MemcgKind, Snapshot
from drgn_pageowner.render.assemble import RowTexts, joined_frames
from drgn_pageowner.render.letters import fallback_text, is_fallback, page_letter
from drgn_pageowner.render.records import RecordColumns, StackTexts
from drgn_pageowner.render.text import (
    comm_text,
    frame_text,
    gfp_text,
    name_at,
    page_flags_text,
)

__all__ = ("debugfs_text",)

_CONVERSION = re.compile(r"%(#?)(?:l{0,2}([udx])|(s)|p(G[gp]))")
_ROWS = 32768
_BY_WORD = {column.word: column for column in COLUMNS if column.word}
# Size of the buffer that print_page_owner_memcg() copies a cgroup's name to.
_MEMCG_NAME_SIZE = 80


def debugfs_text(snapshot: Snapshot, later: Iterable[Snapshot] = ()) -> Iterator[str]:
    """
    Yield the text of the allocated records of *snapshot* in pieces.

    :param later: The parts of the listing after *snapshot*.
    :raises PageOwnerError: if the snapshot was made without the kernel's formats or columns
    """
    formats = snapshot.facts.formats
    if formats is None and snapshot.facts.page_owner in NO_RECORDS:
        raise PageOwnerError(NO_RECORDS[snapshot.facts.page_owner])
    if formats is None and "text" in snapshot.facts.layout:
        raise PageOwnerError("this text does not say all that debugfs prints of a record")
    if formats is None:
        raise PageOwnerError("this snapshot was decoded without the columns that debugfs prints")
    stacks = _stack_texts(formats.frame)
    for part in chain([snapshot], later):
        # The kernel skips free pages and records without a stack, and starts at min_low_pfn.
        shown = part["allocated"] & (part["handle"] != 0)
        shown = shown & (part["pfn"] >= part.facts.min_low_pfn)
        rows = part.select(slice(None) if shown.all() else np.flatnonzero(shown))
        if not len(rows):
            continue
        known = stacks.of(rows)
        for piece in rows.pieces(_ROWS):
            yield from _piece(piece, known).text()


def _stack_texts(frame_format: str) -> StackTexts:
    """Make a table of the texts of stacks, in which the kernel prints a frame as *frame_format*."""

    def texts(frames: StackTable, snapshot: Snapshot) -> list[str]:
        return joined_frames(frames, list(map(frame_text(frame_format), frames.frames)), "")

    return StackTexts(texts)


def _piece(rows: Snapshot, stacks: Mapping[int, str]) -> RowTexts:
    formats = rows.facts.formats
    assert formats is not None
    texts = RowTexts(len(rows))
    fields = _Fields(rows, texts)
    _add_format(texts, formats.record, fields)
    _add_format(texts, formats.page, fields)
    texts.column("handle", rows["handle"], stacks.__getitem__)
    _add_migrated(texts, rows)
    _add_memcg(texts, rows)
    texts.append("\n")
    return texts


class _Fields:
    """
    Formats the arguments of the printf formats in ``print_page_owner()``.

    An argument is recognized by the word before its conversion in the format.
    """

    def __init__(self, rows: Snapshot, texts: RowTexts) -> None:
        self._rows = rows
        self._texts = texts
        self._columns = RecordColumns(rows)

    def add(self, before: str, conversion: re.Match[str], earlier: str) -> None:
        """
        Append the text of one conversion, for every row.

        :param before: Text of the format between the conversion before and this one.
        :param conversion: Match of the conversion, such as ``%#lx``.
        :param earlier: All text of the format before the conversion.
        """
        rows, names = self._rows, self._rows.names
        word = re.split(r"[\s(,]", before.removesuffix("0x").rstrip(" (,"))[-1]
        flags_format = conversion.group(4)
        if flags_format == "Gg":
            self._add("gfp_mask", lambda mask: gfp_text(mask, names))
        elif flags_format == "Gp":
            # Since Linux kernel commit 23efd0804c0a ("vsprintf: Make %pGp print the hex value") (in
            # v5.16), %pGp prints the number itself; before, %#lx in front of it did.
            number = "Flags %#lx(" not in earlier
            self._add("page_flags", lambda flags: page_flags_text(flags, names, number=number))
        elif conversion.group(3):
            self._add_text(word, earlier)
        else:
            values = self._columns.numbers(rows, _BY_WORD[word]) if word in _BY_WORD else None
            if values is None:
                raise PageOwnerError(
                    f"this kernel's page_owner text has a field {word!r} that is not known"
                )
            alternate, integer = conversion.group(1), conversion.group(2)
            text = f"%{alternate}x".__mod__ if integer == "x" else str
            self._texts.column(f"{word} of the format", values, text)

    def _add_text(self, word: str, earlier: str) -> None:
        """Append the text of a ``%s`` conversion, for every row."""
        rows, names = self._rows, self._rows.names
        if " Flags " in earlier:
            letter = earlier.partition(" Flags ")[2].count("%s")
            self._add("page_flags", page_letter(letter, names))
        elif earlier.endswith(" type %d "):
            self._texts.column("fallback", is_fallback(rows), fallback_text)
        elif word == "type":
            first = "type %s" not in earlier
            column = "migratetype" if first else "pageblock_migratetype"
            self._add(column, lambda value: name_at(names.migratetypes, value))
        else:
            self._add("comm", comm_text)

    def _add(self, column: str, text: Callable[[Any], str]) -> None:
        self._texts.column(column, self._rows[column], text)


def _add_format(texts: RowTexts, format_: str, fields: _Fields) -> None:
    """Append the text of a printf format, for every row."""
    position = 0
    for conversion in _CONVERSION.finditer(format_):
        before = format_[position : conversion.start()]
        texts.append(before.replace("%%", "%"))
        fields.add(before, conversion, format_[: conversion.start()])
        position = conversion.end()
    texts.append(format_[position:].replace("%%", "%"))


def _add_migrated(texts: RowTexts, rows: Snapshot) -> None:
    formats = rows.facts.formats
    assert formats is not None
    line = formats.migrated
    if line is None or "last_migrate_reason" not in rows:
        return

    def text(reason: int) -> str:
        if reason == -1:
            return ""
        return line.replace("%s", name_at(rows.names.migrate_reasons, reason))

    texts.column("last_migrate_reason", rows["last_migrate_reason"], text)


def _add_memcg(texts: RowTexts, rows: Snapshot) -> None:
    formats = rows.facts.formats
    assert formats is not None
    if formats.charged is None or "memcg" not in rows:
        return
    charged, slab = formats.charged, formats.slab_cache_page or ""

    def line(value: int) -> str:
        index, kind = value >> 8, value & 0xFF
        if kind == MemcgKind.SLAB:
            return slab
        if kind == MemcgKind.NONE:
            return ""
        memcg = rows.memcgs[index]
        if kind == MemcgKind.CHARGED and not memcg.printed:
            return ""
        arguments = (
            "(via objcg) " if kind == MemcgKind.OBJCG else "",
            "" if memcg.online else "offline ",
            memcg.name[: _MEMCG_NAME_SIZE - 1],
        )
        return charged % arguments

    texts.column("memcg", rows["memcg"].astype(np.int64) << 8 | rows["memcg_kind"], line)
