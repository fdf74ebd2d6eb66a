# SPDX-License-Identifier: LGPL-2.1-or-later
"""page_owner records as columns.

A :class:`Snapshot` has one row per page_owner record; stacks, names and memory cgroups are
kept once each and referred to by number. No drgn object survives here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.kernel import Facts, Names
from drgn_pageowner.model.stacks import Frame, SourceFrame, Stacks, Symbolizer

__all__ = (
    "Memcg",
    "MemcgKind",
    "Snapshot",
    "latest",
)


class MemcgKind(enum.IntEnum):
    """What ``page.memcg_data`` says (values of the column ``memcg_kind``)."""

    NONE = 0
    CHARGED = 1
    """The page is charged to a memory cgroup."""
    OBJCG = 2
    """Charged through an obj_cgroup: kernel memory."""
    SLAB = 3
    """A slab page: its objects are charged one by one."""


class Memcg(NamedTuple):
    """A memory cgroup that some page is charged to."""

    name: str
    """The last component of :attr:`path`, as the kernel prints it."""
    path: str
    online: bool
    inode: int
    """Inode number of the cgroup's directory."""
    printed: bool = True
    """Whether the kernel's own text names it for a page charged to it directly."""


@dataclass
class Snapshot:
    """
    Every page_owner record that was asked for.

    :attr:`columns` may hold, each an array of shape ``(n,)``:

    ===================== ========== =============================================================
    column                dtype      meaning
    ===================== ========== =============================================================
    pfn                   ``int64``  first PFN of the allocation
    order                 ``uint8``  it has ``2^order`` base pages
    gfp_mask              ``uint32`` ``gfp_t``
    migratetype           ``uint8``  that *gfp_mask* asked for
    handle                ``uint32`` ``depot_stack_handle_t`` of the allocation; before v4.8 a
                                     number of ours: 1 and up, by the stacks' PCs
    free_handle           ``uint32`` ``depot_stack_handle_t`` of the last free (v5.4)
    last_migrate_reason   ``int16``  ``enum migrate_reason``, -1 for never
    ts_nsec, free_ts_nsec ``uint64`` ``local_clock()``, nanoseconds (v5.11, v5.13)
    pid, tgid             ``int32``  who allocated it (v5.11, v5.18)
    comm                  ``S16``    the same (v5.18)
    free_pid, free_tgid   ``int32``  who freed it last (v6.8)
    allocated             ``bool``   false: the page was freed, this is its last owner
    page_flags            ``uint64`` ``page.flags``
    node, zone            ``uint16``, ``uint8``
    pageblock_migratetype ``int8``   of the pageblock that the page is in; -1 if unreadable
    memcg                 ``int32``  index in :attr:`memcgs`, or -1
    memcg_kind            ``uint8``  :class:`MemcgKind`
    ===================== ========== =============================================================
    """

    facts: Facts
    names: Names
    columns: dict[str, Array]
    stacks: Stacks
    symbolizer: Symbolizer | None = None
    memcgs: Sequence[Memcg] = ()
    coverage: Mapping[str, Any] = field(default_factory=dict)
    """What could be read and what not, in base pages."""
    problems: list[str] = field(default_factory=list)
    """One line for everything that is wrong with the dump."""
    source_lines: dict[int, list[SourceFrame]] = field(default_factory=dict)
    """Inlined functions and source lines of PCs, where they were asked for."""
    _frames: dict[int, Frame] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.columns["pfn"])

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> Array:
        return self.columns[column]

    @property
    def pages(self) -> Array:
        """Base pages of every record: ``int64``, shape ``(n,)``."""
        result: Array = np.int64(1) << self.columns["order"].astype(np.int64)
        return result

    @property
    def stack(self) -> Array:
        """Number in :attr:`stacks` of every record's allocation stack, or -1: ``int64``."""
        return self.stacks.index(self.columns["handle"])

    def select(self, mask: Array) -> Snapshot:
        """The rows where *mask* is true (or the rows that *mask* numbers)."""
        columns = {name: column[mask] for name, column in self.columns.items()}
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
        )

    def first(self, number: int) -> Snapshot:
        """The first *number* rows."""
        return self.select(np.arange(min(max(number, 0), len(self))))

    def used_pcs(self) -> Array:
        """Every PC in the allocation stacks of the rows: ``uint64``, ascending and unique."""
        used = [self.stacks[number] for number in np.unique(self.stack).tolist()]
        result: Array = np.unique(np.concatenate(used)) if used else self.stacks.pcs[:0]
        return result

    def frame_lines(self, frame: Frame) -> list[str]:
        """
        *frame* as text: the kernel's ``%pS``, and where :attr:`source_lines` knows the PC a line
        for each function that was inlined there, innermost first, with file and line.
        """
        known = self.source_lines.get(frame.pc)
        if not known:
            return [str(frame)]
        lines = [f"{f.function} (inlined) at {f.filename}:{f.line}" for f in known if f.inlined]
        own = next((f for f in known if not f.inlined), None)
        return [*lines, f"{frame} at {own.filename}:{own.line}" if own else str(frame)]

    def frames(self, pcs: Iterable[int]) -> list[Frame]:
        """Name *pcs*, each only once in the life of the snapshot."""
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
        """The frames of the stack with number *index*, innermost first."""
        return self.frames(self.stacks[index].tolist())


def latest(now: int | None, columns: Mapping[str, Array]) -> int | None:
    """
    The clock that *columns* are stamped with: at least what the youngest record says.

    :param now: What the dump itself says, in nanoseconds since boot.
    """
    stamps = [
        int(columns[name].max())
        for name in ("ts_nsec", "free_ts_nsec")
        if name in columns and len(columns[name])
    ]
    if now is None:
        return max(stamps, default=None)
    # A damaged record must not set the clock: more than a minute ahead is none.
    return max([stamp for stamp in stamps if stamp < now + 60 * 10**9] + [now])
