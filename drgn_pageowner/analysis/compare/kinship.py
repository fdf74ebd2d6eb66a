# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Find out whether two snapshots are of one boot or build, and match their stacks.

Handles and PCs are only comparable within one boot. Within one build, stacks are matched by the
names and offsets of their frames; across builds, by the functions that asked for the memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from drgn_pageowner.analysis.owners.allocator import (
    is_allocation_function,
    kind_of_stack,
    plain_name,
)
from drgn_pageowner.model.arrays import Array, places_of, slices
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.records import Snapshot, pfn_order
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.model.threads import in_threads

__all__ = (
    "Common",
    "Relation",
    "common_records",
    "is_text",
    "relate",
    "share_names",
    "stack_identities",
)

# Minimum share of records that two dumps of one boot have in common, in percent of the smaller
# dump: allocations made at boot remain. linux-6.12/drip has 57 % after 60 s; two boots of one
# bundled kernel have none, because their timestamps differ by nanoseconds.
_COMMON_PERCENT = 1
# Number of frames, from the allocator outwards, that are compared between two builds. Further out,
# stacks differ in entry code and in where the trace was cut off.
_DEPTH = 8
# Frames that only some kernels have: system calls go through this function since Linux kernel
# commit 1e3ad78334a6 ("x86/syscall: Don't force use of indirect calls for system calls") (in v6.9).
_DISPATCH = frozenset(("x64_sys_call", "ia32_sys_call"))


@dataclass(frozen=True)
class Relation:
    """How the kernels of two snapshots are related."""

    same_build: bool
    same_boot: bool
    why: str
    """The evidence for or against one boot."""
    elapsed_ns: int | None
    """Time from the first to the second, on the clock of the records; negative if the second is
    older. ``None`` unless the boot is the same and both clocks are known."""
    records: bool = True
    """Whether both have records."""

    def per_hour(self, pages: int) -> float | None:
        """Return *pages* per hour. The sign is that of *pages*, whichever snapshot is older."""
        return pages * 3600e9 / abs(self.elapsed_ns) if self.elapsed_ns else None

    @property
    def addresses(self) -> bool:
        """Whether handles and PCs are comparable, if both are of one boot."""
        return True


class _TextRelation(Relation):
    """A relation in which at least one snapshot is a text, which has names instead of PCs."""

    @property
    def addresses(self) -> bool:
        return False


class Common(NamedTuple):
    """The records that two snapshots have in common."""

    records: int
    fewest: int
    """Number of records of the snapshot that has fewer."""


def relate(before: Snapshot, after: Snapshot, common: Common | None = None) -> Relation:
    """
    Find out how two snapshots are related.

    :param before: With the columns ``handle`` and, where the kernel has it, ``ts_nsec``; all
        records that are allocated.
    :param after: The same; if *common* is given, a record of each stack is enough.
    :param common: The records that both have, if already known.
    """
    text = is_text(before) or is_text(after)
    same_build = _same_uname(before.facts, after.facts) and _same_functions(before, after, text)
    same_boot, why = _same_boot(before, after, same_build, common)
    clocks = before.facts.now_ns, after.facts.now_ns
    known = same_boot and None not in clocks
    elapsed = (clocks[1] or 0) - (clocks[0] or 0) if known else None
    return (_TextRelation if text else Relation)(same_build, same_boot, why, elapsed)


def is_text(snapshot: Snapshot) -> bool:
    """Return whether *snapshot* is of a text, which has names instead of PCs."""
    return not snapshot.stacks.addresses or "text" in snapshot.facts.layout


def _same_uname(before: Facts, after: Facts) -> bool:
    """Return whether both may be of one build; a text does not contain its build."""
    names = [(facts.release, facts.version, facts.arch) for facts in (before, after)]
    return all(one == other or not (one and other) for one, other in zip(*names, strict=True))


def _same_functions(before: Snapshot, after: Snapshot, text: bool) -> bool:
    """
    Return whether functions of the kernel that occur in stacks of both have the same sizes.

    :param text: Whether this is the only evidence for one build, so that there must be such
        functions.
    """
    sizes = []
    for snapshot in (before, after):
        of_name: dict[str, set[int]] = {}
        for frame in snapshot.frames(snapshot.used_pcs().tolist()):
            if frame.name is not None and frame.module is None:
                of_name.setdefault(frame.name, set()).add(frame.size)
        sizes.append(of_name)
    common = sizes[0].keys() & sizes[1].keys()
    # Several static functions may have one name.
    return (bool(common) or not text) and all(sizes[0][name] & sizes[1][name] for name in common)


def _same_boot(
    before: Snapshot, after: Snapshot, same_build: bool, common: Common | None
) -> tuple[bool, str]:
    if not same_build:
        return False, "they are of different kernels"
    text = is_text(before) or is_text(after)
    if before.facts.hostname != after.facts.hostname and not text:
        return False, f"they are of {before.facts.hostname} and {after.facts.hostname}"
    if not all(name in s for name in ("ts_nsec", "pfn") for s in (before, after)):
        of_text = any("text" in snapshot.facts.layout for snapshot in (before, after))
        whose = "a text's" if of_text else "this kernel's"
        return False, f"{whose} records have no time: one boot cannot be told from another"
    if common is None:
        common = Common(common_records(before, after), min(len(before), len(after)))
    number, fewest = common
    if not number or number * 100 < _COMMON_PERCENT * fewest:
        return False, f"{number:,} of {fewest:,} records are the same: they are of two boots"
    return True, f"{number:,} of {fewest:,} records are the same"


def common_records(before: Snapshot, after: Snapshot) -> int:
    """
    Return the number of records that both have, with the same time, and the same handle unless one
    of them is a text.

    :param before: With the columns ``pfn``, ``ts_nsec`` and ``handle``; *after* also.
    """
    text = is_text(before) or is_text(after)
    if len(before) > len(after):
        before, after = after, before
    order = pfn_order(after)
    if not isinstance(order, slice):
        after = after.select(order)
    pfn = after["pfn"]

    def count(rows: slice) -> int:
        place = np.minimum(places_of(pfn, before["pfn"][rows]), len(pfn) - 1)
        stamps = before["ts_nsec"][rows]
        # The clock is 0 early in every boot.
        equal = (pfn[place] == before["pfn"][rows]) & (stamps > 0)
        equal &= stamps == after["ts_nsec"][place]
        if not text:
            equal &= before["handle"][rows] == after["handle"][place]
        return int(np.count_nonzero(equal))

    return sum(in_threads(count, slices(len(before))))


class _SharedNames:
    """
    A symbolizer for two snapshots of one boot that prefers the symbols of the earlier one, so that
    frames of a module that was unloaded since keep their names, even if another module took its
    place.
    """

    def __init__(self, earlier: Snapshot, later: Snapshot) -> None:
        self._earlier = earlier
        self._later = later
        self._known = frozenset(earlier.stacks.pcs.tolist())

    def symbolize(self, pcs: Array) -> list[Frame]:
        wanted = pcs.tolist()
        return [
            old if old.name is not None and (old.pc in self._known or new.name is None) else new
            for old, new in zip(
                self._earlier.frames(wanted), self._later.frames(wanted), strict=True
            )
        ]


def share_names(before: Snapshot, after: Snapshot, relation: Relation) -> tuple[Snapshot, Snapshot]:
    """Return *before* and *after*; if they are of one boot, with the same symbols for frames."""
    if not (relation.same_boot and relation.addresses):
        return before, after
    swapped = relation.elapsed_ns is not None and relation.elapsed_ns < 0
    names = _SharedNames(after, before) if swapped else _SharedNames(before, after)
    named = [replace(s, symbolizer=names, _frames={}) for s in (before, after)]
    for snapshot in named:
        snapshot.frames(snapshot.used_pcs().tolist())
    return named[0], named[1]


def stack_identities(
    snapshot: Snapshot, handles: Iterable[int], relation: Relation
) -> dict[int, Hashable]:
    """
    Return, for the stack of each of *handles*, an identity that is comparable across both
    snapshots.

    :param handles: ``depot_stack_handle_t``; 0 and those that are unknown stand for no stack.
    """
    wanted = list(handles)
    numbers = snapshot.stacks.index(np.array(wanted, np.uint32)).tolist()
    if relation.same_boot and relation.addresses:
        return {h: snapshot.stacks[n].tobytes() for h, n in zip(wanted, numbers, strict=True)}
    identity = _of_one_build if relation.same_build else _of_two_builds
    return {h: identity(snapshot.stack_frames(n)) for h, n in zip(wanted, numbers, strict=True)}


def _of_one_build(frames: list[Frame]) -> Hashable:
    return tuple((f.name, f.offset if f.name is not None else 0, f.module) for f in frames)


def _of_two_builds(frames: list[Frame]) -> Hashable:
    first = 0
    while first < len(frames) - 1 and is_allocation_function(frames[first].name or ""):
        first += 1
    names = [
        (plain_name(frame.name) if frame.name is not None else None, frame.module)
        for frame in frames[first:]
        if frame.name not in _DISPATCH
    ]
    return kind_of_stack(frames), tuple(names[:_DEPTH])
