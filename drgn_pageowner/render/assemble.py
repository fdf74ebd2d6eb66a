# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Format many rows as text, column by column.

No loop formats one row after another. Each distinct value of a column is formatted once; adjacent
columns with few distinct texts are merged; the remaining columns are interleaved and joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

import numpy as np

from drgn_pageowner.analysis.owners.stack_table import StackTable
from drgn_pageowner.model.arrays import Array, distinct, slices

__all__ = ("CodedTexts", "RowTexts", "joined_frames")

# Maximum number of combinations of the texts of two columns that are merged. Merging must take less
# time than joining one more column, so it may not sort.
_MOST_JOINED = 1 << 16
_SAMPLE = 512
# Number of rows that are joined together.
_AT_ONCE = 1024


@dataclass
class CodedTexts:
    """A column with few distinct texts."""

    codes: Array
    """``int64``, shape ``(n,)``: index in :attr:`texts` of each row's text."""
    texts: list[str]


Piece = str | CodedTexts | list[str]
"""A column: one text for all rows, a column with few distinct texts, or a text for each row."""


class RowTexts:
    """Accumulates the columns of some rows from left to right, and joins them to text."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._codes: dict[str, tuple[list[Any], Array | None]] = {}
        self._pieces: list[Piece] = []

    def column(self, key: str, values: Array, text: Callable[[Any], str]) -> None:
        """
        Append a column.

        :param key: Name of *values*. Columns with the same name must have the same values, whose
            distinct values are found only once.
        :param values: Shape ``(rows,)``.
        :param text: Formats a value; called once per distinct value, if there are few.
        """
        if not self._rows:
            return
        if key not in self._codes:
            self._codes[key] = _codes(values)
        found, codes = self._codes[key]
        texts = list(map(text, found))
        if codes is None:
            self.append(texts[0] if len(texts) == 1 else texts)
        else:
            self.append(CodedTexts(codes, texts))

    def append(self, piece: Piece) -> None:
        """Append a column; merge it with the column before if both have few distinct texts."""
        last = self._pieces[-1] if self._pieces else None
        if isinstance(piece, str) and isinstance(last, str):
            self._pieces[-1] = last + piece
        elif isinstance(piece, str) and isinstance(last, CodedTexts):
            self._pieces[-1] = CodedTexts(last.codes, [text + piece for text in last.texts])
        elif isinstance(piece, CodedTexts) and isinstance(last, str):
            self._pieces.pop()
            self.append(CodedTexts(piece.codes, [last + text for text in piece.texts]))
        elif isinstance(piece, CodedTexts) and isinstance(last, CodedTexts):
            joined = _joined(last, piece)
            if joined is None:
                self._pieces.append(piece)
            else:
                self._pieces[-1] = joined
        else:
            self._pieces.append(piece)

    def text(self) -> Iterator[str]:
        """
        Return the text of all rows, one after another, in pieces: of some rows, the text and what
        it is made of are in the CPU's cache.
        """
        number = len(self._pieces)
        columns = [_texts_of(piece) for piece in self._pieces]
        for rows in slices(self._rows, _AT_ONCE):
            parts: list[str] = [""] * (number * (rows.stop - rows.start))
            for place, column in enumerate(columns):
                parts[place::number] = column(rows)
            yield "".join(parts)


def _texts_of(piece: Piece) -> Callable[[slice], list[str]]:
    """Return a function that returns the texts of some rows of a column."""
    if isinstance(piece, str):
        return lambda rows: [piece] * (rows.stop - rows.start)
    if isinstance(piece, list):
        return piece.__getitem__
    texts = np.empty(len(piece.texts), object)
    texts[:] = piece.texts
    codes = piece.codes
    return lambda rows: texts[codes[rows]].tolist()


def _codes(values: Array) -> tuple[list[Any], Array | None]:
    """
    Find the distinct values of a column that has at least one row.

    :return: The distinct values, and the index of each row's value in them. The index is ``None``
        if all rows have the same value, and if most rows have different ones: then the values are
        returned as they are, one for each row.
    """
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    if not len(changes):
        return values[:1].tolist(), None
    # Compare adjacent rows first, because most of them have the same value.
    starts = np.concatenate([[0], changes])
    heads = values[starts]
    if len(heads) * 2 > len(values) and _differ(values):
        return values.tolist(), None
    if heads.dtype.kind == "S" and heads.dtype.itemsize == 16:
        found, codes = _distinct_names(heads)
    else:
        found, codes = distinct(heads)
    lengths = np.diff(starts, append=len(values))
    return found.tolist(), np.repeat(codes.reshape(-1), lengths)


def _differ(values: Array) -> bool:
    """Whether most of *values* are different, as far as a sample tells."""
    sample = values[:: max(len(values) // _SAMPLE, 1)]
    return 2 * len(np.unique(sample)) > len(sample)


def _distinct_names(names: Array) -> tuple[Array, Array]:
    """
    Find distinct task names, as :func:`distinct` does.

    The 16 bytes of a name are compared as two numbers, which is faster than comparing texts.
    """
    halves = np.ascontiguousarray(names).view(np.uint64).reshape(-1, 2)
    (_, first), (seconds, second) = distinct(halves[:, 0]), distinct(halves[:, 1])
    found, codes = distinct(first.reshape(-1) * np.int64(len(seconds)) + second.reshape(-1))
    place = np.zeros(len(found), np.int64)
    place[codes.reshape(-1)] = np.arange(len(names))
    return names[place], codes


def _joined(left: CodedTexts, right: CodedTexts) -> CodedTexts | None:
    """
    Concatenate the texts of two columns, row by row.

    :return: ``None`` if there could be too many different pairs of texts.
    """
    if left.codes is right.codes:
        return CodedTexts(left.codes, list(map(add, left.texts, right.texts)))
    if len(left.texts) * len(right.texts) > _MOST_JOINED:
        return None
    found, codes = distinct(left.codes * np.int64(len(right.texts)) + right.codes)
    pairs = zip(*(part.tolist() for part in np.divmod(found, len(right.texts))), strict=True)
    return CodedTexts(codes, [left.texts[a] + right.texts[b] for a, b in pairs])


def joined_frames(table: StackTable, texts: Sequence[str], separator: str) -> list[str]:
    """
    Join the texts of the frames of each stack.

    :param texts: Text of each distinct frame of *table*.
    """
    every = table.code.tolist()
    spans = zip(table.starts.tolist(), table.ends.tolist(), strict=True)
    return [separator.join(map(texts.__getitem__, every[a:b])) for a, b in spans]
