# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which records: filters that combine."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drgn_pageowner.analysis.owners.allocator import per_stack
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame

__all__ = ("Filter", "select")


@dataclass(frozen=True)
class Filter:
    """
    What a record must be to be selected; every criterion that is given must hold.

    Of several values for one criterion, one must hold; of several functions, all must be in
    the stack.
    """

    pid: Sequence[int] = ()
    tgid: Sequence[int] = ()
    comm: Sequence[str] = ()
    """Patterns with ``*``, ``?`` and ``[...]``."""
    order: tuple[int, int] | None = None
    """First and last order."""
    gfp: Sequence[str] = ()
    """Names of gfp flags; a record has all of them."""
    migratetype: Sequence[str] = ()
    zone: Sequence[str] = ()
    node: Sequence[int] = ()
    module: Sequence[str] = ()
    """Names of modules, one of which has a frame in the stack; patterns allowed."""
    stack_contains: Sequence[str] = ()
    """Functions; patterns allowed."""
    handle: Sequence[int] = ()
    pfn: tuple[int, int] | None = None
    """First and last PFN; an allocation that overlaps the range is selected."""
    min_age_ns: int | None = None
    max_age_ns: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    freed: bool = False
    """Records of freed pages, instead of allocated ones."""
    memcg: Sequence[str] = ()
    """Names or paths of memory cgroups; patterns allowed."""

    def columns(self) -> frozenset[str]:
        """The columns that it takes to apply this."""
        needed = {
            "pid": self.pid,
            "tgid": self.tgid,
            "comm": self.comm,
            "gfp_mask": self.gfp,
            "migratetype": self.migratetype,
            "zone": self.zone,
            "node": self.node,
            "handle": self.module or self.stack_contains or self.handle,
            "memcg": self.memcg,
        }
        columns = {name for name, value in needed.items() if value}
        ages = (self.min_age_ns, self.max_age_ns, self.since_ns, self.until_ns)
        if any(age is not None for age in ages):
            columns.add("ts_nsec")
        return frozenset(columns)


def select(snapshot: Snapshot, wanted: Filter) -> Snapshot:
    """
    The records that *wanted* describes.

    :raises UsageError: if a name is not one of this kernel's, or this kernel does not record
        what is asked for
    :raises PageOwnerError: if a PFN is beyond memory
    """
    for column in sorted(wanted.columns() - snapshot.columns.keys()):
        raise UsageError(f"this kernel's page_owner does not record {column.removesuffix('_nsec')}")
    if wanted.pfn is not None and wanted.pfn[0] >= snapshot.facts.max_pfn:
        raise PageOwnerError(
            f"PFN {wanted.pfn[0]:#x} is beyond memory, which ends at PFN "
            f"{snapshot.facts.max_pfn - 1:#x}"
        )
    mask = snapshot["allocated"] != wanted.freed
    mask &= _who(snapshot, wanted)
    mask &= _what(snapshot, wanted)
    mask &= _where(snapshot, wanted)
    mask &= _when(snapshot, wanted)
    mask &= _stack(snapshot, wanted, mask)
    return snapshot.select(mask)


def _all(snapshot: Snapshot) -> Array:
    return np.ones(len(snapshot), bool)


def _who(snapshot: Snapshot, wanted: Filter) -> Array:
    mask = _all(snapshot)
    if wanted.pid:
        mask &= np.isin(snapshot["pid"], wanted.pid)
    if wanted.tgid:
        mask &= np.isin(snapshot["tgid"], wanted.tgid)
    if wanted.comm:
        mask &= _matches(snapshot["comm"], wanted.comm)
    if wanted.memcg:
        chosen = [
            index
            for index, memcg in enumerate(snapshot.memcgs)
            if any(
                fnmatch.fnmatchcase(name, pattern)
                for pattern in wanted.memcg
                for name in (memcg.name, memcg.path)
            )
        ]
        mask &= np.isin(snapshot["memcg"], chosen)
    return mask


def _matches(comm: Array, patterns: Sequence[str]) -> Array:
    found, inverse = np.unique(comm, return_inverse=True)
    names = [name.split(b"\0", 1)[0].decode(errors="surrogateescape") for name in found.tolist()]
    right = [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names]
    result: Array = np.array(right, bool)[inverse]
    return result


def _what(snapshot: Snapshot, wanted: Filter) -> Array:
    mask = _all(snapshot)
    names = snapshot.names
    if wanted.order is not None:
        mask &= (snapshot["order"] >= wanted.order[0]) & (snapshot["order"] <= wanted.order[1])
    if wanted.gfp:
        by_name = {name: flag for flag, name in names.gfp_flags}
        flags = np.uint32(0)
        for name in wanted.gfp:
            flags |= np.uint32(by_name[_known(name, by_name, "gfp flag")])
        mask &= (snapshot["gfp_mask"] & flags) == flags
    if wanted.migratetype:
        numbers = [
            list(names.migratetypes).index(_known(name, names.migratetypes, "migratetype"))
            for name in wanted.migratetype
        ]
        mask &= np.isin(snapshot["migratetype"], numbers)
    return mask


def _known(name: str, names: Sequence[str] | dict[str, int], what: str) -> str:
    """The kernel's spelling of *name*."""
    for known in names:
        if known.lower() == name.lower():
            return known
    raise UsageError(f"unknown {what} {name!r}: this kernel has {', '.join(names)}")


def _where(snapshot: Snapshot, wanted: Filter) -> Array:
    mask = _all(snapshot)
    zones = snapshot.facts.zones
    if wanted.zone:
        numbers = {zone.name: zone.type for zone in zones}
        chosen = [numbers[_known(name, numbers, "zone")] for name in wanted.zone]
        mask &= np.isin(snapshot["zone"], chosen)
    if wanted.node:
        nodes = sorted({zone.node for zone in zones})
        for node in wanted.node:
            if node not in nodes:
                raise UsageError(
                    f"unknown node {node}: this kernel has {', '.join(map(str, nodes))}"
                )
        mask &= np.isin(snapshot["node"], wanted.node)
    if wanted.pfn is not None:
        first, last = wanted.pfn
        mask &= (snapshot["pfn"] <= last) & (snapshot["pfn"] + snapshot.pages > first)
    return mask


def _when(snapshot: Snapshot, wanted: Filter) -> Array:
    mask = _all(snapshot)
    since, until = wanted.since_ns, wanted.until_ns
    now = snapshot.facts.now_ns
    if wanted.min_age_ns is not None or wanted.max_age_ns is not None:
        if now is None:
            raise UsageError("ages are not known: the dump does not say when it was taken")
        if wanted.min_age_ns is not None:
            oldest = now - wanted.min_age_ns
            until = oldest if until is None else min(until, oldest)
        if wanted.max_age_ns is not None:
            youngest = now - wanted.max_age_ns
            since = youngest if since is None else max(since, youngest)
    if until is not None and until < 0:
        return ~mask
    if since is not None:
        mask &= snapshot["ts_nsec"] >= np.uint64(max(since, 0))
    if until is not None:
        mask &= snapshot["ts_nsec"] <= np.uint64(until)
    return mask


def _stack(snapshot: Snapshot, wanted: Filter, candidates: Array) -> Array:
    mask = _all(snapshot)
    if wanted.handle:
        mask &= np.isin(snapshot["handle"], wanted.handle)
    if not wanted.stack_contains and not wanted.module:
        return mask
    functions = [re.compile(fnmatch.translate(name)) for name in wanted.stack_contains]
    modules = [re.compile(fnmatch.translate(name)) for name in wanted.module]

    def wanted_stack(frames: list[Frame]) -> str:
        names = [frame.name for frame in frames if frame.name is not None]
        if not all(any(map(function.match, names)) for function in functions):
            return ""
        owners = [frame.module for frame in frames if frame.module is not None]
        if modules and not any(module.match(owner) for module in modules for owner in owners):
            return ""
        return "yes"

    rows = np.flatnonzero(mask & candidates)
    chosen = per_stack(snapshot, snapshot.stack[rows], wanted_stack) == "yes"
    mask[:] = False
    mask[rows[chosen]] = True
    return mask
