# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compute every part of a post-mortem of a machine's memory, each part once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np

from drgn_pageowner.analysis.account.account import Account, account
from drgn_pageowner.analysis.account.holders import HOLDERS, Holders, holders
from drgn_pageowner.analysis.account.page_class import PageClass, page_classes
from drgn_pageowner.analysis.account.page_owners import (
    AgeBand,
    ClassOwners,
    OwnerTable,
    ages_by_class,
    owner_table,
    owners_by_class,
    owners_of_cells,
    record_classes,
)
from drgn_pageowner.analysis.compare.diff import Diff
from drgn_pageowner.analysis.frag.alloc_check import COSTLY_ORDER, AllocCheck, alloc_check
from drgn_pageowner.analysis.frag.blockmap import BlockMap, block_map
from drgn_pageowner.analysis.frag.blocks import block_table
from drgn_pageowner.analysis.frag.contiguity import BlockSize, block_sizes
from drgn_pageowner.analysis.frag.culprits import Culprits, culprits
from drgn_pageowner.analysis.frag.mobility import Overlay, overlay
from drgn_pageowner.analysis.frag.zone_summary import ZoneSummary, zone_summaries
from drgn_pageowner.analysis.leaks.leaks import (
    NO_FINGERPRINTS,
    Leaks,
    MemoryReader,
    find_leaks,
    fingerprints_of,
    leak_search,
)
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.analysis.leaks.suspects import Suspect, suspects
from drgn_pageowner.analysis.owners.flame import Flame, flame
from drgn_pageowner.analysis.owners.group import Top, columns_for, top
from drgn_pageowner.analysis.owners.select import Filter
from drgn_pageowner.analysis.owners.summary import consistency
from drgn_pageowner.analysis.owners.sums import summed_by
from drgn_pageowner.errors import PageOwnerError, internal_error
from drgn_pageowner.model.arrays import Array, among, slices, sums
from drgn_pageowner.model.crash import Crash
from drgn_pageowner.model.heap import FileUse, Heap, Inventory, LeakSearch
from drgn_pageowner.model.info import Consistency
from drgn_pageowner.model.kept import kept, kept_as
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import AtOnce, one_after_another

__all__ = ("Frag", "Report", "ReportInputs", "ZoneMap", "report")

# Limits for charts and tables. The rest is summed up, so that the page stays small enough to mail.
_STACKS = 4000
_LISTED = 100
_OWNERS_OF_CLASS = 12
_OWNERS_OF_CELL = 3
_CELLS = 4096
# Memory of processes.
_PRIVATE = (PageClass.ANON, PageClass.HUGETLB, PageClass.ZSMALLOC)


@dataclass(frozen=True)
class ReportInputs:
    """The inputs of a report; a part that could not be read is ``None`` or empty."""

    facts: Facts
    crash: Crash | None = None
    modules: Sequence[str] = ()
    heap: Heap | LeakSearch | None = None
    """The graph of pointers, or the saved result of a search in it."""
    memory: MemoryReader | None = None
    """Reads the contents of lost pages; ``None`` if there is only a saved search."""
    inventory: Inventory | None = None
    """The use of every page; the same object as in :attr:`heap` if that has page_owner records."""
    records: Snapshot | None = None
    """The records of :attr:`inventory`, or the allocations with an allocation tag."""
    diff: Diff | None = None
    """Changes since an earlier dump, by stack."""
    problems: Sequence[str] = ()
    """One line per part that could not be read."""
    name: str | None = None
    """The name of the dump's file; ``None`` for a running kernel."""
    at_once: AtOnce = one_after_another
    """Calls functions, maybe at the same time."""


@dataclass(frozen=True)
class ZoneMap:
    """The map of a zone with the owners of each cell."""

    map: BlockMap
    owners: list[list[tuple[str, int]]]
    """The allocators with most pages in each cell, and their base pages."""


@dataclass(frozen=True)
class Frag:
    """Free memory, and the pages that prevent larger blocks."""

    zones: list[ZoneSummary]
    sizes: list[BlockSize]
    """Aligned blocks of every size in all zones together."""
    culprits: Culprits
    """The owners of unmovable pages, by allocator."""
    maps: list[ZoneMap]
    checks: list[AllocCheck] = field(default_factory=list)
    """Kernel allocations of one page and of the largest order that is not costly, on every node."""


@dataclass(frozen=True)
class Report:
    """A post-mortem. A part that could not be computed is ``None``; :attr:`problems` says why."""

    facts: Facts
    crash: Crash | None
    modules: Sequence[str]
    account: Account | None = None
    owners: list[ClassOwners] | None = None
    """The allocators of every class."""
    tops: Mapping[str, Top] = field(default_factory=dict)
    """Largest groups of records by ``allocator``, ``stack``, ``comm`` and ``module``, as far as
    this kernel records these."""
    holders: Mapping[str, Holders] = field(default_factory=dict)
    """Largest holders by ``process`` and ``driver``, as far as this kernel records these."""
    files: Sequence[FileUse] = ()
    """The files with most pages in the page cache."""
    flame: Flame | None = None
    ages: list[AgeBand] | None = None
    leaks: Leaks | None = None
    suspects: Sequence[Suspect] | None = None
    """Stacks whose allocations look like a leak."""
    frag: Frag | None = None
    diff: Diff | None = None
    """Changes since an earlier dump, by stack."""
    coverage: Mapping[str, Any] = field(default_factory=dict)
    """Base pages whose records could be read, and those whose records could not."""
    consistency: Consistency | None = None
    """The kernel's own counts of pages per stack compared with the records, where it has them."""
    problems: Sequence[str] = ()
    """One line per part that could not be read or computed."""
    name: str | None = None
    """The name of the dump's file; ``None`` for a running kernel."""
    errors: Sequence[Exception] = ()
    """Internal errors, each of which is one of :attr:`problems` as well."""


def report(inputs: ReportInputs) -> Report:
    """Run every analysis that *inputs* allow; one that fails becomes a problem."""
    parts: dict[str, Any] = {}
    errors: list[Exception] = []
    problems = list(inputs.problems)

    def add(what: str, found: dict[str, Any] | Exception) -> None:
        if not isinstance(found, Exception):
            parts.update(found)
        elif isinstance(found, PageOwnerError):
            problems.append(f"{what}: {found}")
        else:
            errors.append(found)
            problems.append(f"{what}: {internal_error(found)}")

    inventory = inputs.inventory
    classes = cache(lambda: page_classes(inventory)) if inventory is not None else None
    found = _computed(inputs, classes)
    for what in _IN_ORDER:
        if what in found:
            add(what, found[what])
    if inventory is not None:
        parts["files"] = inventory.files
    return Report(
        facts=inputs.facts,
        crash=inputs.crash,
        modules=inputs.modules,
        diff=inputs.diff,
        problems=problems,
        errors=errors,
        name=inputs.name,
        **(parts | _marked(parts, inputs, classes)),
    )


_RECORDS, _PAGES, _HOLDERS = "owners by stack", "use of pages", "processes and drivers"
_SUSPECTS, _LEAKS = "suspects", "leaks"
_IN_ORDER = (_RECORDS, _PAGES, _HOLDERS, _SUSPECTS, _LEAKS)
"""The parts of a report, in the order of their problems."""


def _computed(
    inputs: ReportInputs, classes: Callable[[], Array] | None
) -> dict[str, dict[str, Any] | Exception]:
    """
    Compute the parts of a report, some of them at the same time.

    :param classes: Function that returns the class of every page; ``None`` if it is not known.
    :return: By the name in :data:`_IN_ORDER`: members of :class:`Report`, or why there are none.
    """
    parts = _parts(inputs, classes)
    own = os.getpid()

    def attempt(what: str) -> dict[str, Any] | Exception:
        try:
            return parts[what]()
        except MemoryError:
            raise
        except Exception as error:
            if os.getpid() != own:
                # The calling process computes the part again, and gets the error's traceback.
                raise
            return error

    known: dict[str, dict[str, Any] | Exception] = kept_as(
        ("parts of a report", id(inputs.records), id(inputs.inventory)),
        (inputs.records, inputs.inventory),
        dict,
    )
    missing = [what for what in parts if what not in known]
    # What refers to pages and records, and what is needed again, is computed in this process.
    here = {_SUSPECTS, _LEAKS} if _LEAKS in parts else {_SUSPECTS, _PAGES}
    mine, others = ([w for w in missing if (w in here) == wanted] for wanted in (True, False))
    if classes is not None and others:
        with suppress(Exception):
            # All processes need them. If there are none, each part says why.
            classes()
    first, *rest = inputs.at_once(
        [lambda: list(map(attempt, mine)), *(partial(attempt, what) for what in others)]
    )
    found = dict(zip([*mine, *others], [*first, *rest], strict=True))
    known.update((what, found[what]) for what in found if what not in (_SUSPECTS, _LEAKS))
    return known | found


def _parts(
    inputs: ReportInputs, classes: Callable[[], Array] | None
) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return functions that compute the parts of a report, by the name in :data:`_IN_ORDER`."""
    records, inventory, heap = inputs.records, inputs.inventory, inputs.heap
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    if records is not None:
        parts[_RECORDS] = lambda: _of_records(records)
    if inventory is None or classes is None:
        return parts
    parts[_PAGES] = lambda: _of_pages(inventory, classes())
    if inventory.records is not None:
        parts[_HOLDERS] = lambda: _of_holders(inventory, classes())
        parts[_SUSPECTS] = lambda: {"suspects": suspects(inventory, classes())}
    if heap is not None:
        parts[_LEAKS] = lambda: {"leaks": _leaks(heap, classes(), inputs.memory)}
    return parts


def _marked(
    parts: Mapping[str, Any], inputs: ReportInputs, classes: Callable[[], Array] | None
) -> dict[str, Any]:
    """
    Add to the flame graph how many pages of each stack are lost, and how many belong to processes.

    :param parts: Parts of the report that were computed, by name.
    :param classes: Function that returns the class of every page; ``None`` if it is not known.
    :return: The flame graph as ``{"flame": ...}``; empty if there is none.
    """
    whole: Flame | None = parts.get("flame")
    if whole is None:
        return {}
    lost: dict[int, int] = {}
    leaks: Leaks | None = parts.get("leaks")
    for group in leaks.lost_groups if leaks is not None else ():
        lost[group.handle] = lost.get(group.handle, 0) + group.pages
    private: dict[int, int] = {}
    inventory, records = inputs.inventory, inputs.records
    if inventory is not None and records is not None and classes is not None and len(records):
        mine = among(record_classes(inventory, records, classes()), _PRIVATE)
        pages = np.zeros(len(records.stacks) + 1, np.int64)
        for piece in slices(len(records)):
            some = records.select(piece).select(mine[piece])
            pages += sums(some.stack + 1, some.pages, len(pages))
        pages = pages[1:]
        private = dict(zip(records.stacks.handles.tolist(), pages.tolist(), strict=True))
    stacks = [
        replace(stack, lost=lost.get(stack.handle, 0), process=private.get(stack.handle, 0))
        for stack in whole.stacks
    ]
    return {"flame": replace(whole, stacks=stacks)}


@kept
def _of_holders(inventory: Inventory, classes: Array) -> dict[str, Any]:
    records, found = inventory.records, {}
    assert records is not None
    for by in HOLDERS:
        # Not every kernel records who allocated.
        if by == "driver" or "pid" in records:
            found[by] = holders(records, inventory, classes, by, limit=_LISTED)
    return {"holders": found}


@kept
def _leaks(heap: Heap | LeakSearch, classes: Array, memory: MemoryReader | None) -> Leaks:
    if isinstance(heap, LeakSearch):
        return find_leaks(heap, everything=False)
    # Without page_owner records, reach() computes the classes anew, because the heap adds to what
    # is known.
    found = reach(heap, classes if heap.recorded else None)
    prints = fingerprints_of(found, memory) if memory is not None else NO_FINGERPRINTS
    return find_leaks(leak_search(found, prints=prints), everything=False)


@kept
def _of_records(records: Snapshot) -> dict[str, Any]:
    of_stacks = summed_by(records, ["stack"], Filter(), columns_for(["stack"]))
    by_stack = top(of_stacks, ["stack"], limit=_STACKS)
    tops = {"stack": replace(by_stack, groups=by_stack.groups[:_LISTED])}
    for key in ("allocator", "tag", "comm", "module"):
        columns = columns_for([key])
        if not columns <= records.columns.keys() | {"ts_nsec"}:
            continue
        rows = of_stacks
        if columns != columns_for(["stack"]):
            rows = summed_by(records, [key], Filter(), columns)
        tops[key] = top(rows, [key], limit=_LISTED)
    return {
        "tops": tops,
        "flame": flame(by_stack),
        "coverage": records.coverage,
        "consistency": consistency(records),
    }


@kept
def _of_pages(inventory: Inventory, classes: Array) -> dict[str, Any]:
    owners = owner_table(inventory, classes)
    return {
        "account": account(inventory, classes),
        "owners": owners_by_class(owners, _OWNERS_OF_CLASS),
        "ages": ages_by_class(inventory, classes),
        "frag": _frag(inventory, owners),
    }


def _frag(inventory: Inventory, owners: OwnerTable) -> Frag:
    joined = overlay(inventory.memory, inventory.records, inventory.record_of_row)
    table, facts = block_table(joined), inventory.memory.pages.facts
    types = list(inventory.memory.pages.names.migratetypes)
    maps = block_map(facts, types, table, _CELLS)
    of_cells = owners_of_cells(owners, table, joined.block, maps, _OWNERS_OF_CELL)
    sizes = block_sizes(joined, table)
    return Frag(
        zones=zone_summaries(joined, table),
        sizes=[size for size in sizes if size.zone is None],
        culprits=culprits(joined, by="allocator", limit=_LISTED),
        maps=[ZoneMap(one, cells) for one, cells in zip(maps, of_cells, strict=True)],
        checks=_checks(joined),
    )


def _checks(joined: Overlay) -> list[AllocCheck]:
    if "GFP_KERNEL" not in {name for _, name in joined.memory.pages.names.gfp_flags}:
        return []
    return [
        alloc_check(joined, order, ["GFP_KERNEL"], node, limit=0)
        for order in (0, COSTLY_ORDER)
        for node in joined.memory.zonelists
    ]
