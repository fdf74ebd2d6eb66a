# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build columns of records from the lines of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.kernel import Names
from drgn_pageowner.model.records import Memcg, MemcgKind
from drgn_pageowner.storage.text.flags import gfp_masks, page_flag_bits, split_page_flags
from drgn_pageowner.storage.text.frames import TextFrames, TextStacks

__all__ = ("Bodies", "Interned", "TextNames", "comms", "numbers")

# The order that enum migratetype has since Linux kernel commit 016c13daa5c9 ("mm, page_alloc: use
# masks and shifts when converting GFP flags to migrate types") (in v4.4).
_MIGRATETYPES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "CMA", "Isolate")
# Flags for which print_page_owner() printed a letter until Linux kernel commit 60f30350fd69 ("mm,
# page_owner: print migratetype of page and pageblock, symbolic flags") (in v4.6).
_LETTERS = ("locked", "error", "referenced", "uptodate", "dirty", "lru", "active", "slab",
            "writeback", "compound", "swapcache", "mappedtodisk")  # fmt: skip
_MIGRATED = "Page has been migrated, last migrate reason: "
_CHARGED = "Charged "
_OBJCG = "(via objcg) "
_OFFLINE = "offline "
_SLAB = "Slab cache page"


def numbers(texts: Sequence[bytes], dtype: Any) -> Array:
    """Convert decimal numbers to an array of *dtype*."""
    return np.array(list(map(int, texts)), dtype)


def comms(texts: Sequence[bytes]) -> Array:
    """Convert task names to ``S16``."""
    return np.array(texts, "S16") if texts else np.zeros(0, "S16")


class Interned:
    """Applies a conversion to many values, but only once to each distinct value."""

    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self._convert = convert
        self._known: dict[Any, Any] = {}

    def all(self, values: Iterable[Any]) -> list[Any]:
        """Convert each of *values*."""
        values = list(values)
        # In the order of the text, so that what is numbered meanwhile has the same number always.
        for value in dict.fromkeys(values):
            if value not in self._known:
                self._known[value] = self._convert(value)
        return list(map(self._known.__getitem__, values))


@dataclass
class TextNames:
    """Collects the names that a text prints instead of numbers, and assigns numbers to them."""

    gfp: dict[int, str] = field(default_factory=dict)
    page_flags: dict[int, str] = field(default_factory=dict)
    migratetypes: list[str] = field(default_factory=list)
    migrate_reasons: list[str] = field(default_factory=list)
    letters: bool = False
    """Whether the text has letters for page flags, as before Linux kernel commit 60f30350fd69 ("mm,
    page_owner: print migratetype of page and pageblock, symbolic flags") (in v4.6)."""

    def number(self, names: list[str], name: str) -> int:
        """Return the index of *name* in the list *names*; append it if the list lacks it."""
        if name not in names:
            names.append(name)
        return names.index(name)

    def migratetype(self, name: str) -> int:
        """Return a number for the migratetype *name*."""
        if not self.migratetypes:
            self.migratetypes.extend(_MIGRATETYPES)
        return self.number(self.migratetypes, name)

    def lettered(self, letters: str) -> int:
        """
        Convert the letters that a text has for page flags (:attr:`letters`) to a mask.

        Bit numbers are indices in ``_LETTERS``, not those of the kernel.
        """
        self.letters = True
        return sum(1 << bit for bit, letter in enumerate(letters) if letter != " ")

    def field_of_flags(self, flags: Array, name: str) -> Array | None:
        """
        Return the value of a field for each of *flags*, from the text printed for these flags.

        :param flags: Values of ``page.flags``.
        :param name: Name of the field, such as ``"node"``.
        :return: ``None`` if the text of any of *flags* lacks the field.
        """
        fields = {
            value: split_page_flags(text)[1].get(name) for value, text in self.page_flags.items()
        }
        if not fields or None in fields.values():
            return None
        values, inverse = np.unique(flags, return_inverse=True)
        return np.array([fields[value] for value in values.tolist()], np.int64)[inverse]

    def names(self) -> Names:
        """Return the tables of names, as far as they can be derived from the text."""
        flags = page_flag_bits(self.page_flags)
        if self.letters:
            flags = [(1 << bit, name) for bit, name in enumerate(_LETTERS)]
        return Names(
            gfp_flags=gfp_masks(self.gfp),
            page_flags=flags,
            page_flags_mask=sum(mask for mask, _ in flags),
            migratetypes=tuple(self.migratetypes),
            migrate_reasons=tuple(self.migrate_reasons),
            gfp_texts=self.gfp,
            page_flags_texts=self.page_flags,
        )


@dataclass
class _Body:
    """Parsed lines of a record after its first line."""

    stack: int
    reason: int
    memcg: int
    kind: int
    lines: int
    bad: Sequence[int] = ()
    """Indices of the lines that could not be parsed."""

    @property
    def damaged(self) -> int:
        """Return the number of lines that could not be parsed."""
        return len(self.bad)


class Bodies:
    """Parses the lines of records after the first line (bodies); each distinct body only once."""

    def __init__(self, names: TextNames) -> None:
        self.stacks = TextStacks(TextFrames())
        self.memcgs: list[Memcg] = []
        self.reasons = False
        """Whether any record says that its page was migrated."""
        self.charges = False
        """Whether any record says that its page was charged to a memory cgroup."""
        self._names = names
        self._bodies: dict[bytes, int] = {}
        self._all: list[_Body] = []

    def numbers(self, texts: Sequence[bytes]) -> Array:
        """Return the number of the body with each of *texts*: ``int64``."""
        # Stacks, memory cgroups and reasons are numbered in the order of the text.
        for text in dict.fromkeys(texts):
            if text not in self._bodies:
                self._bodies[text] = len(self._all)
                self._all.append(self._body(text))
        return np.array(list(map(self._bodies.__getitem__, texts)), np.int64)

    def column(self, bodies: Array, name: str, dtype: Any) -> Array:
        """Return the attribute *name* of each body, given by number, as an array of *dtype*."""
        values = np.array([getattr(body, name) for body in self._all], dtype)
        return values[bodies] if len(values) else np.zeros(len(bodies), dtype)

    def bad_lines(self, body: int) -> Sequence[int]:
        """Return the indices of the lines of a body that could not be parsed."""
        return self._all[body].bad

    def columns(self, bodies: Array, *, reasons: bool) -> dict[str, Array]:
        """
        Return the columns of records whose values are in the bodies.

        :param bodies: Number of each record's body.
        :param reasons: Whether this kernel prints why a page was migrated.
        """
        result = {"handle": (self.column(bodies, "stack", np.int64) + 1).astype(np.uint32)}
        if reasons or self.reasons:
            result["last_migrate_reason"] = self.column(bodies, "reason", np.int16)
        if self.charges:
            result["memcg"] = self.column(bodies, "memcg", np.int32)
            result["memcg_kind"] = self.column(bodies, "kind", np.uint8)
        return result

    def _body(self, text: bytes) -> _Body:
        lines = text.decode(errors="surrogateescape").split("\n")[:-1]
        frames, bad = [], []
        body = _Body(-1, -1, -1, MemcgKind.NONE, len(lines))
        for index, line in enumerate(lines):
            if line.startswith(" "):
                frames.append((index, line))
            elif line.startswith(_MIGRATED):
                reasons = self._names.migrate_reasons
                body.reason = self._names.number(reasons, line.removeprefix(_MIGRATED))
                self.reasons = True
            elif not self._charge(line, body):
                bad.append(index)
        body.stack, no_frames = self.stacks.number([line for _, line in frames])
        body.bad = sorted([*bad, *(frames[index][0] for index in no_frames)])
        return body

    def _charge(self, line: str, body: _Body) -> bool:
        """Parse *line* as the line of a memory cgroup; return whether it is such a line."""
        if line == _SLAB:
            body.kind = MemcgKind.SLAB
        elif line.startswith(_CHARGED):
            to = line.removeprefix(_CHARGED)
            body.kind = MemcgKind.OBJCG if to.startswith(_OBJCG) else MemcgKind.CHARGED
            whom = to.removeprefix(_OBJCG).removeprefix("to ")
            online = not whom.startswith(_OFFLINE)
            marker, found, name = whom.removeprefix(_OFFLINE).partition("memcg ")
            if marker or not found:
                body.kind = MemcgKind.NONE
                return False
            body.memcg = self._memcg(Memcg(name, name, online, 0))
        else:
            return False
        self.charges = True
        return True

    def _memcg(self, memcg: Memcg) -> int:
        if memcg not in self.memcgs:
            self.memcgs.append(memcg)
        return self.memcgs.index(memcg)
