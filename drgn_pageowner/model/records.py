# SPDX-License-Identifier: LGPL-2.1-or-later
"""
page_owner records as columns.

A :class:`Snapshot` has one row per page_owner record. Stacks, names and memory cgroups are stored
once each, and rows refer to them by handle or index. It contains no drgn objects.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError, UsageError
from drgn_pageowner.model.arrays import Array, ranges, slices
from drgn_pageowner.model.columns import STORED, Form, documentation
from drgn_pageowner.model.kernel import Facts, Names
from drgn_pageowner.model.later import selected
from drgn_pageowner.model.stacks import Frame, SourceFrame, Stacks, Symbolizer, frames_of_stack
from drgn_pageowner.model.tags import Tags
from drgn_pageowner.model.threads import in_threads
from drgn_pageowner.units import pages_size

__all__ = (
    "Memcg",
    "MemcgKind",
    "SeenMemcgs",
    "Snapshot",
    "Summing",
    "Times",
    "latest",
    "memcgs_by_path",
    "pfn_order",
)


Summing = Callable[[Mapping[str, Array]], dict[str, Array]]
"""
A function that gets columns of records, each of shape ``(n,)``, and returns fewer rows. Their
``pages`` and ``allocations`` say how many of each a row represents; ``handle``, if it is among the
columns, has the same set of values, and ``ts_nsec`` the same earliest and latest time.
"""


class MemcgKind(enum.IntEnum):
    """Kinds of charge that ``page.memcg_data`` encodes (values of the column ``memcg_kind``)."""

    NONE = 0
    CHARGED = 1
    """The page is charged to a memory cgroup."""
    OBJCG = 2
    """Charged through an obj_cgroup: kernel memory."""
    SLAB = 3
    """A slab page: its objects are charged one by one."""


class Memcg(NamedTuple):
    """A memory cgroup that pages are charged to."""

    name: str
    """The last component of :attr:`path`, as the kernel prints it."""
    path: str
    online: bool
    inode: int
    """Inode number of the cgroup's directory."""
    printed: bool = True
    """Whether /sys/kernel/debug/page_owner prints its name for a page that is charged to it
    directly."""


@dataclass
class Snapshot:
    # documentation() makes the table of columns from drgn_pageowner.model.columns.
    __doc__ = f"""
Page_owner records as columns.

:attr:`columns` may have any of the following columns, each an array of shape ``(n,)``. It lacks
columns that this kernel does not record or that were not requested.

{documentation()}

Before Linux kernel commit f2ca0b557107 ("mm/page_owner: use stackdepot to store stacktrace") (in
v4.8) the kernel has no stack handles. ``handle`` is then assigned by this package: numbers from 1,
in the order of the stacks' PCs. Values of ``memcg`` are indices in :attr:`memcgs`. Times are
nanoseconds of ``local_clock()``.
"""

    facts: Facts
    names: Names
    columns: dict[str, Array]
    stacks: Stacks
    symbolizer: Symbolizer | None = None
    memcgs: Sequence[Memcg] = ()
    coverage: Mapping[str, Any] = field(default_factory=dict)
    """Numbers of base pages that could and could not be read."""
    problems: list[str] = field(default_factory=list)
    """One line per part that could not be read."""
    source_lines: dict[int, list[SourceFrame]] = field(default_factory=dict)
    """Inlined functions and source lines by PC, if requested."""
    _frames: dict[int, Frame] = field(default_factory=dict, repr=False)
    tags: Tags | None = None
    """The allocation tags that the values of the column ``tag`` are indices of."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __repr__(self) -> str:
        release = f" of Linux {self.facts.release}" if self.facts.release else ""
        pages = int(self.pages.sum()) if self.says_pages() else 0
        size = f", {pages:,} pages ({pages_size(pages * self.facts.page_size)})" if pages else ""
        return (
            f"<Snapshot{release}: {len(self):,} records{size}, {len(self.stacks):,} stacks; "
            f"columns {', '.join(self.columns)}>"
        )

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> Array:
        return self.columns[column]

    def by_tag(self) -> Snapshot:
        """
        Return the same records with a stack of one frame each: their allocation tag.

        Code that groups or prints records by stack then does so by tag.

        :raises UsageError: if there is no column ``tag``
        """
        if self.tags is None or "tag" not in self:
            raise UsageError(self.lacks("tag"))
        number = len(self.tags)
        pcs = np.arange(1, number + 1, dtype=np.uint64)
        stacks = Stacks(
            pcs.astype(np.uint32), np.arange(number + 1, dtype=np.int64), pcs, addresses=False
        )
        handles = (self["tag"].astype(np.int64) + 1).astype(np.uint32)
        return replace(
            self,
            columns={**self.columns, "handle": handles},
            stacks=stacks,
            symbolizer=None,
            source_lines={},
            _frames={
                pc: Frame(pc, str(tag), -1, 0, None) for pc, tag in enumerate(self.tags.places, 1)
            },
        )

    def tag_text(self, number: int) -> str | None:
        """
        Return an allocation tag as /proc/allocinfo prints it; ``None`` for -1.

        :param number: Index in :attr:`tags`.
        """
        return self.tags.text(number) if self.tags is not None else None

    def lacks(self, column: str) -> str:
        """Return an error message that says why the snapshot lacks *column*."""
        if "text" in self.facts.layout:
            return f"this text does not say {column}"
        if column == "tag":
            return "this kernel has no allocation tags (CONFIG_MEM_ALLOC_PROFILING, v6.10)"
        if self.facts.page_owner in NO_RECORDS:
            return f"page_owner is {self.facts.page_owner}, and tags do not say {column}"
        return f"this kernel's page_owner does not record {column}"

    @property
    def pages(self) -> Array:
        """
        Number of base pages of each record: ``int64``, shape ``(n,)``.

        :raises PageOwnerError: if a text was read that does not have these numbers
        """
        if "pages" in self.columns:
            return self.columns["pages"]
        if "order" not in self.columns:
            raise PageOwnerError("this text does not say how many pages there are of anything")
        result: Array = np.int64(1) << self.columns["order"].astype(np.int64)
        return result

    def says_pages(self) -> bool:
        """Return whether :attr:`pages` is known; some texts do not have it."""
        return "pages" in self.columns or "order" in self.columns

    @property
    def allocations(self) -> Array | None:
        """
        Number of allocations that each row represents: ``int64``, shape ``(n,)``; ``None`` if each
        row is the sum of an unknown number of allocations.
        """
        if "allocations" in self.columns:
            return self.columns["allocations"]
        return None if "pages" in self.columns else np.ones(len(self), np.int64)

    def count(self) -> int | None:
        """Return the number of allocations in all rows; ``None`` if it is not known."""
        numbers = self.allocations
        return int(numbers.sum()) if numbers is not None else None

    @property
    def stack(self) -> Array:
        """Index in :attr:`stacks` of each record's allocation stack, or -1: ``int64``."""
        return self.stack_of(slice(None))

    def stack_of(self, rows: Array | slice) -> Array:
        """
        Return :attr:`stack` of some records, without looking up the others.

        :param rows: Indices of the records, or a mask (``bool``), or a slice.
        """
        if "handle" not in self.columns:
            return np.full(len(np.empty(len(self), np.uint8)[rows]), -1, np.int64)
        return self.stacks.index(self.columns["handle"][rows])

    def pieces(self, rows: int) -> Iterator[Snapshot]:
        """Yield snapshots of at most *rows* rows, one after another; no column is copied."""
        return map(self.select, slices(len(self), rows))

    def select(self, mask: Array | slice) -> Snapshot:
        """
        Return a snapshot with some of the rows.

        :param mask: ``bool``, shape ``(n,)``; or integers, the indices of the rows; or a slice, for
            which no column is copied.
        """
        columns = selected(self.columns, mask)
        return Snapshot(
            self.facts,
            self.names,
            columns,
            self.stacks,
            self.symbolizer,
            self.memcgs,
            self.coverage,
            self.problems,
            self.source_lines,
            self._frames,
            self.tags,
        )

    def only(self, wanted: Collection[str], now: int | None) -> Snapshot:
        """
        Return the records as if only the columns *wanted* had been read.

        :param now: The time according to the dump's own clock, in nanoseconds since boot; ``None``
            if unknown.
        """
        chosen = {
            name: column
            for name, column in self.columns.items()
            if name in wanted or STORED[name].always
        }
        return replace(self, columns=chosen, facts=replace(self.facts, now_ns=latest(now, chosen)))

    def first(self, number: int) -> Snapshot:
        """Return the first *number* rows."""
        return self.select(np.arange(min(max(number, 0), len(self))))

    def used_pcs(self) -> Array:
        """Return every PC in the allocation stacks: ``uint64``, ascending and unique."""
        used = np.zeros(len(self.stacks) + 1, bool)
        for rows in slices(len(self)):
            # Number -1, no stack, is the last.
            used[self.stack_of(rows)] = True
        offsets, numbers = self.stacks.offsets, np.flatnonzero(used[:-1])
        places = ranges(offsets[numbers], offsets[numbers + 1] - offsets[numbers])
        result: Array = np.unique(self.stacks.pcs[places])
        return result

    def frame_lines(self, frame: Frame) -> list[str]:
        """
        Format *frame* as the kernel does (``%pS``).

        If :attr:`source_lines` has the PC, file and line are added, and each function that was
        inlined at the PC has a line of its own, innermost first.
        """
        known = self.source_lines.get(frame.pc)
        if not known:
            return [str(frame)]
        lines = [f"{f.function} (inlined) at {f.filename}:{f.line}" for f in known if f.inlined]
        own = next((f for f in known if not f.inlined), None)
        return [*lines, f"{frame} at {own.filename}:{own.line}" if own else str(frame)]

    def frames(self, pcs: Iterable[int]) -> list[Frame]:
        """Symbolize *pcs*; results are cached, so each PC is looked up only once."""
        wanted = list(pcs)
        try:
            return [self._frames[pc] for pc in wanted]
        except KeyError:
            pass
        new = np.array(sorted(set(wanted) - self._frames.keys()), np.uint64)
        if len(new):
            if self.symbolizer is None:
                named = [Frame(int(pc), None, 0, 0, None) for pc in new]
            else:
                named = self.symbolizer.symbolize(new)
            self._frames.update((frame.pc, frame) for frame in named)
        return [self._frames[pc] for pc in wanted]

    def stack_frames(self, index: int) -> list[Frame]:
        """Return the frames of the stack at *index* in :attr:`stacks`, innermost first, by
        :func:`~drgn_pageowner.model.stacks.frames_of_stack`."""
        return frames_of_stack(self.frames(self.stacks[index].tolist()))


def pfn_order(records: Snapshot) -> Array | slice:
    """Return what puts *records* into the order of PFNs: indices, or a slice if they are in it."""
    pfn = records["pfn"]

    def ascends(piece: slice) -> bool:
        values = pfn[piece.start : piece.stop + 1]
        return bool((values[1:] >= values[:-1]).all())

    if all(in_threads(ascends, slices(len(records) - 1))):
        return slice(None)
    return np.argsort(np.asarray(pfn), kind="stable")


def memcgs_by_path(memcgs: Sequence[Memcg], index: Array) -> tuple[tuple[Memcg, ...], Array]:
    """
    Sort memory cgroups by path, so that their order does not depend on the records that were read.

    :param index: Indices in *memcgs*, or -1: ``int32``, shape ``(n,)``.
    :return: The sorted memory cgroups, and the indices in these.
    """
    order = sorted(range(len(memcgs)), key=lambda place: (memcgs[place].path, memcgs[place].inode))
    if order == [*range(len(memcgs))]:
        return tuple(memcgs), index
    number = np.full(len(memcgs) + 1, -1, np.int32)
    number[order] = np.arange(len(memcgs))
    return tuple(memcgs[place] for place in order), number[index]


class SeenMemcgs:
    """
    The memory cgroups of records that come in parts, where indices of memory cgroups hold in one
    part only.
    """

    def __init__(self) -> None:
        self._number: dict[Memcg, int] = {}

    def indices(self, part: Snapshot) -> Array:
        """
        Return the column ``memcg`` of *part* with numbers that hold in all parts.

        :return: ``int32``, a row per record: a number in the order in which the memory cgroups were
            seen first, or -1.
        """
        numbers = [self._number.setdefault(memcg, len(self._number)) for memcg in part.memcgs]
        # The last element is for -1, no memory cgroup.
        found: Array = np.array([*numbers, -1], np.int32)[part["memcg"]]
        return found

    def by_path(self, index: Array) -> tuple[tuple[Memcg, ...], Array]:
        """
        Return the result of :func:`memcgs_by_path`.

        :param index: Results of :meth:`indices`.
        """
        return memcgs_by_path([*self._number], index)


def latest(now: int | None, columns: Mapping[str, Array]) -> int | None:
    """
    Return the time of the dump: *now* or the latest timestamp of the records, if that is later.

    Timestamps more than a minute after *now* are ignored.

    :param now: The time according to the dump's own clock, in nanoseconds since boot; ``None`` if
        unknown.
    :param columns: Columns of the records, by name.
    :return: Nanoseconds since boot; ``None`` if there is no time at all.
    """
    stamps = [
        int(columns[column.name].max())
        for column in STORED.values()
        if column.form is Form.TIME and len(columns.get(column.name, ()))
    ]
    if now is None:
        return max(stamps, default=None)
    # A timestamp more than a minute ahead belongs to a damaged record.
    return max([stamp for stamp in stamps if stamp < now + 60 * 10**9] + [now])


class Times:
    """The latest times of records that are read some at a time."""

    def __init__(self) -> None:
        self._latest: dict[str, Array] = {}

    def add(self, columns: Mapping[str, Array]) -> None:
        """Note the times of some records."""
        for name, column in STORED.items():
            if column.form is Form.TIME and len(columns.get(name, ())):
                largest = columns[name].max(keepdims=True)
                self._latest[name] = np.maximum(self._latest.get(name, largest), largest)

    def latest(self, now: int | None) -> int | None:
        """Return what :func:`latest` returns for all records."""
        return latest(now, self._latest)
