# SPDX-License-Identifier: LGPL-2.1-or-later
"""Print records as the kernel that was dumped does in /sys/kernel/debug/page_owner."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.model.columns import COLUMNS
from drgn_pageowner.model.records import MemcgKind, Snapshot
from drgn_pageowner.render.letters import fallback_text, page_letter
from drgn_pageowner.render.records import RecordColumns
from drgn_pageowner.render.text import (
    comm_text,
    gfp_text,
    mapped,
    name_at,
    page_flags_text,
    stack_lines,
)

__all__ = ("debugfs_text",)

_CONVERSION = re.compile(r"%(#?)(?:l{0,2}([udx])|(s)|p(G[gp]))")
_ROWS = 8192
_BY_WORD = {column.word: column for column in COLUMNS if column.word}
# Size of the buffer that print_page_owner_memcg() copies a cgroup's name to.
_MEMCG_NAME_SIZE = 80


def debugfs_text(snapshot: Snapshot) -> Iterator[str]:
    """
    Yield the text of the allocated records of *snapshot* in pieces.

    :raises PageOwnerError: if the snapshot was made without the kernel's formats or columns
    """
    formats = snapshot.facts.formats
    if formats is None and snapshot.facts.page_owner in NO_RECORDS:
        raise PageOwnerError(NO_RECORDS[snapshot.facts.page_owner])
    if formats is None and "text" in snapshot.facts.layout:
        raise PageOwnerError("this text does not say all that debugfs prints of a record")
    if formats is None:
        raise PageOwnerError("this snapshot was decoded without the columns that debugfs prints")
    # The kernel skips free pages and records without a stack, and starts at min_low_pfn.
    shown = snapshot["allocated"] & (snapshot["handle"] != 0)
    shown = shown & (snapshot["pfn"] >= snapshot.facts.min_low_pfn)
    rows = snapshot.select(np.flatnonzero(shown))
    for start in range(0, len(rows), _ROWS):
        yield _piece(rows.select(slice(start, start + _ROWS)))  # type: ignore[arg-type]


def _piece(rows: Snapshot) -> str:
    formats = rows.facts.formats
    assert formats is not None
    fields = _Fields(rows)
    first, first_columns = _python_format(formats.record, fields)
    second, second_columns = _python_format(formats.page, fields)
    template = first + second + "%s%s%s\n"
    columns = [
        *first_columns,
        *second_columns,
        mapped(rows.stack, lambda stack: stack_lines(rows, stack, formats.frame)),
        _migrated(rows),
        _memcg(rows),
    ]
    return "".join(map(template.__mod__, zip(*columns, strict=True)))


class _Fields:
    """The arguments of the formats in ``print_page_owner()``, by the words before them."""

    def __init__(self, rows: Snapshot) -> None:
        self._rows = rows
        self._columns = RecordColumns(rows)

    def find(self, before: str, conversion: re.Match[str], earlier: str) -> list[Any]:
        rows = self._rows
        word = re.split(r"[\s(,]", before.removesuffix("0x").rstrip(" (,"))[-1]
        flags_format = conversion.group(4)
        if flags_format == "Gg":
            return mapped(rows["gfp_mask"], lambda mask: gfp_text(mask, rows.names))
        if flags_format == "Gp":
            # Since Linux kernel commit 23efd0804c0a ("vsprintf: Make %pGp print the hex value") (in
            # v5.16), %pGp prints the number itself; before, %#lx in front of it did.
            number = "Flags %#lx(" not in earlier
            return mapped(
                rows["page_flags"],
                lambda flags: page_flags_text(flags, rows.names, number=number),
            )
        if conversion.group(3):
            if " Flags " in earlier:
                letter = earlier.partition(" Flags ")[2].count("%s")
                return mapped(rows["page_flags"], page_letter(letter, rows.names))
            if earlier.endswith(" type %d "):
                return fallback_text(rows)
            if word == "type":
                first = "type %s" not in earlier
                column = "migratetype" if first else "pageblock_migratetype"
                types = rows.names.migratetypes
                return mapped(rows[column], lambda value: name_at(types, value))
            return mapped(rows["comm"], comm_text)
        values = self._columns.numbers(rows, _BY_WORD[word]) if word in _BY_WORD else None
        if values is None:
            raise PageOwnerError(
                f"this kernel's page_owner text has a field {word!r} that is not known"
            )
        return list(values.tolist())


def _python_format(format_: str, fields: _Fields) -> tuple[str, list[list[Any]]]:
    """Convert a printf format to a ``%`` template of Python and the columns that fill it."""
    template, columns, position = "", [], 0
    for conversion in _CONVERSION.finditer(format_):
        before = format_[position : conversion.start()]
        columns.append(fields.find(before, conversion, format_[: conversion.start()]))
        alternate, integer = conversion.group(1), conversion.group(2)
        specifier = f"%{alternate}x" if integer == "x" else "%d" if integer else "%s"
        template += before.replace("%%", "%%%%") + specifier
        position = conversion.end()
    return template + format_[position:], columns


def _migrated(rows: Snapshot) -> list[str]:
    formats = rows.facts.formats
    assert formats is not None
    line = formats.migrated
    if line is None or "last_migrate_reason" not in rows:
        return [""] * len(rows)
    return mapped(
        rows["last_migrate_reason"],
        lambda reason: (
            "" if reason == -1 else line.replace("%s", name_at(rows.names.migrate_reasons, reason))
        ),
    )


def _memcg(rows: Snapshot) -> list[str]:
    formats = rows.facts.formats
    assert formats is not None
    if formats.charged is None or "memcg" not in rows:
        return [""] * len(rows)
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

    return mapped(rows["memcg"].astype(np.int64) << 8 | rows["memcg_kind"], line)
