# SPDX-License-Identifier: LGPL-2.1-or-later
"""Group the results of a search for leaks by allocation stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from drgn_pageowner.analysis.leaks.fingerprint import fingerprints
from drgn_pageowner.analysis.leaks.reach import Reach
from drgn_pageowner.analysis.leaks.unnamed import freed_init, module_is_gone
from drgn_pageowner.analysis.owners.allocator import allocator_of, modules_of
from drgn_pageowner.analysis.owners.stack_table import StackTable
from drgn_pageowner.escape import without_surrogates
from drgn_pageowner.model.arrays import (
    Array,
    among,
    equals,
    frequencies,
    grouped,
    looked_up,
    slices,
    sparse_zeros,
)
from drgn_pageowner.model.fingerprint import Contents, Fingerprint
from drgn_pageowner.model.heap import (
    LOST,
    Evidence,
    Inventory,
    LeakSearch,
    LostObjects,
    Reachability,
    Role,
)
from drgn_pageowner.model.kept import kept, kept_as
from drgn_pageowner.model.object_facts import ObjectFacts
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.model.tags import Tag
from drgn_pageowner.model.threads import from_threads
from drgn_pageowner.units import are, counted

__all__ = (
    "MOST_TASKS",
    "NO_FINGERPRINTS",
    "LeakGroup",
    "Leaks",
    "MemoryReader",
    "SlabLeak",
    "Task",
    "find_leaks",
    "fingerprints_of",
    "group_objects",
    "leak_search",
    "lost_objects",
    "owners_of",
    "tasks_of_groups",
)


class MemoryReader(Protocol):
    """The methods of a :class:`~drgn_pageowner.model.session.Session` that read contents of
    memory."""

    def contents(self, nodes: Array) -> Contents: ...

    def memory_at(self, addresses: Array, size: int) -> Sequence[bytes]: ...


NO_FINGERPRINTS: tuple[Array, Sequence[Fingerprint]] = (np.zeros(0, np.int32), ())
"""Result of :func:`fingerprints_of` if no contents of memory are read."""
MOST_TASKS = 10
"""Maximum number of tasks that are listed for a group."""
_PERCPU = "per-CPU memory"
# If an allocation is younger than this, the only pointer to it may still be in a register.
# Everything that the modules of the bundled guests leaked is older than 11 s.
_IN_FLIGHT_NS = 10**9
# Share of a stack's allocations. If fewer are lost, the same code keeps the others, so it may keep
# these in a way that the search does not recognize. On the bundled guests, 146 of the 148 groups
# that are leaked on purpose have a larger share; the other two have 8 %.
_FEW = 0.1
# If at least this share of the PFNs of about that size equal some word by chance, a lost page's PFN
# may be stored without the search recognizing it. The share is at most 0.47 on the bundled 64-bit
# guests, and 0.86 on the i386 guest.
_COMMON = 0.5


def _missing(pages: int) -> str:
    return f"{counted(pages, 'page')} of kernel memory {are(pages)} not in the dump"


@dataclass(frozen=True)
class Task:
    """A task that made some of the allocations of a group."""

    pid: int
    comm: str | None
    """``None`` if the kernel does not record it."""
    allocations: int
    alive: bool
    """Whether a task with this pid still exists. Its name may have changed: ``exec()`` renames a
    task."""
    now: str | None = None
    """The current name of the task with this pid, if it differs."""


@dataclass(frozen=True)
class LeakGroup:
    """Allocations of one stack that have the same verdict."""

    verdict: str
    """Label of a :class:`~drgn_pageowner.model.heap.Reachability`."""
    allocations: int
    pages: int
    """Number of base pages."""
    bytes: int
    pfns: list[int]
    """First PFN of every record; a split allocation has several."""
    allocator: str
    handle: int
    stack: list[Frame]
    confidence: str
    """Confidence that the memory is leaked: ``"high"``, ``"medium"`` or ``"low"``."""
    reasons: list[str]
    """The signs for and against a leak, in words."""
    of_stack: int
    """Total number of allocations of this stack, with any verdict."""
    oldest_ns: int | None
    """``ts_nsec`` of the oldest record; ``None`` where the kernel has none."""
    newest_ns: int | None
    tasks: list[Task]
    """The tasks that allocated most of it, at most 10, largest first."""
    modules: dict[str, bool]
    """Modules in the stack -> whether they are still loaded."""
    module_gone: bool
    """Whether a frame of the stack has no symbol because its module was unloaded."""
    tag: str | None = None
    """The allocation tag that most of its allocations have, as /proc/allocinfo prints it; ``None``
    without tags (:mod:`drgn_pageowner.model.tags`)."""
    fingerprint: Fingerprint | None = None
    """Clues to the owner in the contents of most of its allocations; ``None`` for reachable
    memory."""
    by_types: int | None = None
    """Number of allocations whose verdict is decided by types that are certain: they are reached by
    members that are pointers, or they are lost and words that equal their address are known to be
    numbers. ``None`` without types."""


@dataclass(frozen=True)
class SlabLeak:
    """Slab objects, or per-CPU memory, that nothing reaches."""

    cache: str
    """Name of the slab cache, or ``"per-CPU memory"``."""
    verdict: str
    objects: int
    bytes: int
    addresses: list[int]
    """Virtual addresses of the objects."""
    stack: list[Frame] | None
    """The stack that allocated them, if ``slub_debug=U`` recorded it."""
    pids: list[int] = field(default_factory=list)
    tag: str | None = None
    """Allocation tag of the objects, as /proc/allocinfo prints it; ``None`` for a kernel without
    tags."""
    fingerprint: Fingerprint | None = None
    """Clues to the owner in the contents of most of the objects."""
    memcgs: dict[str, int] = field(default_factory=dict)
    """Path of a memory cgroup -> number of the objects that are charged to it. Empty if the kernel
    has no ``struct slabobj_ext``."""


@dataclass(frozen=True)
class Leaks:
    """The leaks of a machine."""

    groups: list[LeakGroup]
    """The groups; lost ones first, then by the size of the stack's lost memory."""
    lost_allocations: int
    lost_pages: int
    reachable_allocations: int
    """Reachable allocations among the candidates of the search."""
    reachable_pages: int
    by_number_allocations: int
    """Allocations that are known only by PFN."""
    by_number_pages: int
    accounted_pages: int
    """Number of pages of records that are in use without a pointer to them: memory of processes and
    files, page tables, stacks."""
    now_ns: int | None
    slab: list[SlabLeak] | None = None
    pages_missing: int = 0
    """Base pages of kernel memory that are not in the dump; memory that only they refer to looks
    lost."""
    gaps: Sequence[str] = ()
    """One line for everything else that could not be searched for references."""

    @property
    def holes(self) -> str | None:
        """Return the memory that could not be searched, in words; ``None`` if all of it was."""
        missing = _missing(self.pages_missing) if self.pages_missing else ""
        return "; ".join(filter(None, [missing, *self.gaps])) or None

    @property
    def lost_groups(self) -> list[LeakGroup]:
        """Return the groups that no root reaches."""
        lost = {result.label for result in LOST}
        return [group for group in self.groups if group.verdict in lost]


def leak_search(
    reach: Reach,
    lost: LostObjects | None = None,
    prints: tuple[Array, Sequence[Fingerprint]] = NO_FINGERPRINTS,
) -> LeakSearch:
    """
    Return the results of *reach* for the records, and for slab objects.

    :param lost: The result of :func:`lost_objects`, if slab objects are wanted.
    :param prints: The result of :func:`fingerprints_of`, if the content of pages is wanted.
    """
    return LeakSearch(
        inventory=reach.heap.inventory,
        records=reach.heap.records,
        allocation=reach.allocation,
        role=reach.role,
        verdict=reach.verdict[: len(reach.heap.records)],
        pages_missing=reach.heap.pages_missing,
        number_chance=reach.number_chance,
        lost=lost,
        evidence=reach.evidence[: len(reach.heap.records)],
        recorded=reach.heap.recorded,
        fingerprint=prints[0],
        fingerprints=prints[1],
    )


@kept
def fingerprints_of(reach: Reach, session: MemoryReader) -> tuple[Array, Sequence[Fingerprint]]:
    """
    Compute fingerprints of the lost pages from their contents.

    :param session: Reads the contents of memory.
    :return: ``int32``, a row per record: its fingerprint, or -1; and the fingerprints.
    """
    number = len(reach.heap.records)
    heads = np.flatnonzero(equals(reach.role, Role.CANDIDATE) & among(reach.verdict[:number], LOST))
    heads = heads[reach.allocation[heads] == heads]
    kinds = reach.verdict[heads].astype(np.int64) << 8 | reach.heap.records["order"][heads]
    known, found = fingerprints(session.contents(heads), kinds, session.memory_at)
    # Few are lost. Stored plus 1, so that the others take no memory.
    of_head = sparse_zeros(number, np.int32)
    of_head[heads] = known + 1
    # All records of an allocation have the fingerprint of the first one.
    result = looked_up(of_head, reach.allocation)
    result -= 1
    return result, found


@kept
def find_leaks(found: Reach | LeakSearch, *, everything: bool = False) -> Leaks:
    """
    Group the results of a search, including slab objects if it has :attr:`LeakSearch.lost`.

    :param everything: Return reachable groups, too.
    """
    search = leak_search(found) if isinstance(found, Reach) else found
    # Searches with slab objects and without have the rest in common.
    own = search.allocation, search.fingerprint
    leaks = kept_as(
        ("leaks of records", *map(id, own), everything),
        own,
        lambda: _leaks_of_records(search, everything),
    )
    if search.lost is None:
        return leaks
    return replace(leaks, slab=group_objects(search.inventory.slabs.caches, search.lost))


def _leaks_of_records(found: LeakSearch, everything: bool) -> Leaks:
    """Group the results of a search, without slab objects: see :func:`find_leaks`."""
    records, inventory = found.records, found.inventory
    candidate = equals(found.role, Role.CANDIDATE)
    wanted = candidate if everything else candidate & ~equals(found.verdict, Reachability.REACHABLE)
    chosen = np.flatnonzero(wanted)
    some = records.select(chosen)
    stack = some.stack
    key = _owners(found, chosen, some) * len(Reachability) + found.verdict[chosen]
    keys, members = grouped(key)
    heads, pages = _counted(found, candidate)
    head = heads[_LOST] | heads[_HELD] | heads[_BY_NUMBER]
    per_stack = np.zeros(len(records.stacks) + 1, np.int64)

    def heads_of_stacks(part: slice) -> Array:
        numbers = records.stack_of(np.flatnonzero(head[part]) + part.start)
        return frequencies(numbers + 1, len(per_stack))

    for counts in from_threads(heads_of_stacks, slices(len(records))):
        per_stack += counts
    first = np.array([rows[0] for rows in members], np.int64)
    numbers = stack[first]
    table = StackTable.of(records, numbers)
    of_stack = zip(
        numbers.tolist(),
        per_stack[numbers + 1].tolist(),
        module_is_gone(table).tolist(),
        table.any(freed_init(table)).tolist(),
        strict=True,
    )
    typed = found.evidence is not None and not equals(found.evidence, Evidence.UNTYPED).all()
    groups = [
        _group(
            found, some.select(rows), chosen[rows], int(code) % len(Reachability), _Of(*one), typed
        )
        for code, rows, one in zip(keys.tolist(), members, of_stack, strict=True)
    ]

    lost, held, by_number = (int(np.count_nonzero(mine)) for mine in heads)
    return Leaks(
        groups=_in_order(groups),
        lost_allocations=lost,
        lost_pages=pages[_LOST],
        reachable_allocations=held,
        reachable_pages=pages[_HELD],
        by_number_allocations=by_number,
        by_number_pages=pages[_BY_NUMBER],
        accounted_pages=pages[_ACCOUNTED],
        now_ns=inventory.memory.pages.facts.now_ns,
        pages_missing=found.pages_missing,
        gaps=inventory.gaps,
    )


_LOST, _HELD, _BY_NUMBER, _ACCOUNTED = range(4)


def _counted(found: LeakSearch, candidate: Array) -> tuple[list[Array], list[int]]:
    """
    Count what is lost, held, known by number and accounted.

    :param candidate: Which records are candidates: ``bool``.
    :return: The first records of the allocations of each kind but the last: ``bool``, a row per
        record; and the number of pages of each kind.
    """
    of_verdict = np.full(len(Reachability), _LOST, np.uint8)
    of_verdict[Reachability.REACHABLE], of_verdict[Reachability.PFN_ONLY] = _HELD, _BY_NUMBER
    heads = [np.zeros(len(candidate), bool) for _ in range(_ACCOUNTED)]

    def count(piece: slice) -> Array:
        """Count the records of each kind and order; mark the first of each allocation."""
        kind = of_verdict[found.verdict[piece]]
        kind[~candidate[piece]] = _ACCOUNTED
        for number, head in enumerate(heads):
            # Threads write the same value.
            head[found.allocation[piece][kind == number]] = True
        keys = kind.astype(np.uint16) << 8 | found.records["order"][piece]
        return frequencies(keys, _ACCOUNTED + 1 << 8).reshape(-1, 256)

    numbers = np.zeros((_ACCOUNTED + 1, 256), np.int64)
    for some in from_threads(count, slices(len(candidate))):
        numbers += some
    pages = [sum(some << order for order, some in enumerate(kind)) for kind in numbers.tolist()]
    return heads, pages


def _owners(found: LeakSearch, rows: Array, records: Snapshot) -> Array:
    """
    Assign a number to the owner of each record: its stack (or allocation tag), otherwise its
    fingerprint and order.

    :param rows: ``int64``, shape ``(n,)``: indices of the *records*.
    :return: ``int64``, shape ``(n,)``.
    """
    stack = records.stack
    if not len(found.fingerprint):
        return stack + 1
    content = (found.fingerprint[rows].astype(np.int64) + 1) << 6 | records["order"]
    return np.where(stack >= 0, stack + 1, content + len(records.stacks) + 1)


def _in_order(groups: list[LeakGroup]) -> list[LeakGroup]:
    """Sort lost groups first, then those known by PFN; within them the largest stacks first."""
    lost = {Reachability(verdict).label for verdict in LOST}
    total: dict[tuple[int, int, str], int] = {}

    def rank(group: LeakGroup) -> int:
        if group.verdict in lost:
            return 0
        return 1 if group.verdict == Reachability.PFN_ONLY.label else 2

    def content(group: LeakGroup) -> str:
        """Return text that distinguishes groups without a stack; empty for groups with a stack."""
        known = group.handle == 0 and group.fingerprint is not None
        return f"{group.fingerprint.example:x}" if known and group.fingerprint else ""

    for group in groups:
        key = (rank(group), group.handle, content(group))
        total[key] = total.get(key, 0) + group.pages
    return sorted(
        groups,
        key=lambda g: (
            rank(g),
            -total[rank(g), g.handle, content(g)],
            g.handle,
            content(g),
            -g.pages,
            g.verdict,
        ),
    )


class _Of(NamedTuple):
    """Facts about the allocation stack of a group."""

    number: int
    allocations: int
    """Allocations of this stack in all groups."""
    gone: bool
    """Whether the stack contains a module that was unloaded."""
    freed_init: bool


def _group(
    found: LeakSearch, records: Snapshot, rows: Array, verdict: int, of: _Of, typed: bool
) -> LeakGroup:
    """
    Describe the allocations *records*, which have the same stack and verdict, as a group.

    :param rows: Their indices in :attr:`LeakSearch.records`.
    :param of: Facts about their stack.
    :param typed: Whether the search inferred types.
    """
    inventory = found.inventory
    stack = of.number
    frames = records.stack_frames(stack)
    pages = int(records.pages.sum())
    allocations = len(np.unique(found.allocation[rows]))
    times = np.asarray(records["ts_nsec"]) if "ts_nsec" in records else None
    newest = int(times.max()) if times is not None else None
    modules = {name: name in inventory.modules for name in modules_of(frames)}
    tasks = owners_of(records, inventory)
    tag = _tag(records)
    gone = of.gone or (
        tag is not None and tag.module is not None and tag.module not in inventory.modules
    )
    # Without a stack, the total number of allocations of this owner is unknown.
    in_all = of.allocations if stack >= 0 or found.recorded else allocations
    signs = _Signs(
        share=allocations / max(in_all, 1),
        age=_age(inventory, newest),
        nobody=bool(tasks) and not any(task.alive for task in tasks),
        gone=gone,
        freed_init=of.freed_init,
        missing_pages=found.pages_missing,
        gaps=inventory.gaps,
        chance=_chance(found, records["pfn"]),
    )
    confidence, reasons = _confidence(verdict, signs)
    by_types = _by_types(found, rows) if typed else None
    if by_types and Reachability(verdict) in LOST:
        reasons.append(f"words that equal an address of {by_types:,} are numbers by their type")
    return LeakGroup(
        verdict=Reachability(verdict).label,
        allocations=allocations,
        pages=pages,
        bytes=pages * inventory.memory.pages.facts.page_size,
        pfns=records["pfn"].tolist(),
        allocator=str(allocator_of(frames) or ("(no stack)" if found.recorded else "(unknown)")),
        handle=int(records.stacks.handles[stack]) if stack >= 0 else 0,
        stack=frames,
        confidence=confidence,
        reasons=reasons,
        of_stack=in_all,
        oldest_ns=int(times.min()) if times is not None else None,
        newest_ns=newest,
        tasks=tasks,
        modules=modules,
        module_gone=gone,
        by_types=by_types,
        tag=str(tag) if tag is not None else None,
        fingerprint=_commonest(found.fingerprints, found.fingerprint, rows),
    )


def _tag(records: Snapshot) -> Tag | None:
    """Return the allocation tag that most of *records* have; ``None`` if most have no tag."""
    if "tag" not in records or records.tags is None:
        return None
    tags, counts = np.unique(records["tag"], return_counts=True)
    number = int(tags[np.argmax(counts)])
    return records.tags.places[number] if number >= 0 else None


def _commonest(prints: Sequence[Fingerprint], numbers: Array, rows: Array) -> Fingerprint | None:
    """Return the most frequent fingerprint of *rows*; :attr:`Fingerprint.shared` is its number of
    rows."""
    if not len(numbers):
        return None
    found, counts = np.unique(numbers[rows], return_counts=True)
    found, counts = found[found >= 0], counts[found >= 0]
    if not len(found):
        return None
    which = int(np.argmax(counts))
    return replace(prints[int(found[which])], shared=int(counts[which]))


def _by_types(found: LeakSearch, rows: Array) -> int:
    """Count the allocations among *rows* whose verdict was decided by types."""
    assert found.evidence is not None
    return len(np.unique(found.allocation[rows[found.evidence[rows] == Evidence.TYPES]]))


def _chance(found: LeakSearch, pfns: Array) -> float:
    """Return the highest probability among *pfns* that some word equals the PFN by chance."""
    sizes = np.unique(np.log2(np.maximum(pfns, 1)).astype(np.int64)).tolist()
    return max((found.number_chance[k] for k in sizes if k < len(found.number_chance)), default=0.0)


def _age(inventory: Inventory, stamp: int | None) -> int | None:
    now = inventory.memory.pages.facts.now_ns
    return None if now is None or stamp is None else max(now - stamp, 0)


@dataclass(frozen=True)
class _Signs:
    """The signs for and against a leak that a group of lost allocations shows."""

    share: float
    """Return the share of its stack's allocations that is lost."""
    age: int | None
    """Return the time since the newest allocation, in nanoseconds."""
    nobody: bool
    """Return whether none of the tasks that allocated it still exist."""
    gone: bool
    freed_init: bool
    missing_pages: int
    gaps: Sequence[str]
    chance: float

    @property
    def holes(self) -> bool:
        """
        Whether some memory could not be searched, so that memory that only it refers to looks lost.
        """
        return bool(self.missing_pages or self.gaps)

    def reasons(self) -> list[str]:
        found = ["no address of it is in anything that a root leads to"]
        if self.gone:
            found.append("a module in its stack is gone")
        if self.freed_init and not self.gone:
            # This explains the frame; it is neither evidence for nor against a leak.
            found.append("its stack has a module's init code, which was freed once it had run")
        if self.nobody:
            found.append("the tasks that allocated it are gone")
        return found

    def doubts(self) -> list[str]:
        found = []
        if self.missing_pages:
            found.append(_missing(self.missing_pages))
        if self.gaps:
            found.append("the dump lacks memory that may hold it")
        if self.age is not None and self.age < _IN_FLIGHT_NS:
            found.append("allocated in the last second: the only pointer may be in a register")
        if self.share < _FEW:
            found.append("more than 9 in 10 allocations of this stack are held")
        if self.chance >= _COMMON:
            found.append(
                f"{self.chance:.0%} of such PFNs are words by chance: references by PFN "
                "cannot be recognized"
            )
        return found


def _confidence(verdict: int, signs: _Signs) -> tuple[str, list[str]]:
    """Return the confidence that the memory is leaked, and the reasons."""
    if verdict == Reachability.REACHABLE:
        return "low", ["a chain of pointers leads to it from a root"]
    if verdict == Reachability.PFN_ONLY:
        return "low", ["its PFN or physical address is in memory that is held: that may be enough"]
    reasons, doubts = signs.reasons(), signs.doubts()
    if not doubts:
        return "high", reasons
    return "medium" if len(doubts) == 1 and not signs.holes else "low", reasons + doubts


def owners_of(records: Snapshot, inventory: Inventory) -> list[Task]:
    """Return the tasks that allocated *records*, by number of records, largest first."""
    rows = np.arange(len(records))
    return next(tasks_of_groups(records, rows, np.zeros(len(rows), np.int64), 1, inventory))


def tasks_of_groups(
    records: Snapshot, rows: Array, groups: Array, number: int, inventory: Inventory
) -> Iterator[list[Task]]:
    """
    Find the tasks that allocated the records of each group, as :func:`owners_of` does.

    :param rows: ``int64``, shape ``(n,)``: indices of the records.
    :param groups: ``int64``, shape ``(n,)``: group of each of *rows*, ascending.
    :param number: Number of groups.
    :return: The tasks of one group after another.
    """
    if "pid" not in records:
        yield from ([] for _ in range(number))
        return
    pids = records["pid"][rows].astype(np.int64)
    least = int(pids.min(initial=0))
    pairs, first, counts = np.unique(
        groups << 33 | (pids - least), return_index=True, return_counts=True
    )
    of_group = pairs >> 33
    order = np.lexsort((-counts, of_group))
    of_group, first, counts = of_group[order], first[order], counts[order]
    place = np.arange(len(order)) - np.searchsorted(of_group, of_group)
    most = place < MOST_TASKS
    of_group, first, counts = of_group[most], first[most], counts[most]
    with_comm = "comm" in records
    comms = records["comm"][rows[first]].tolist() if with_comm else [None] * len(first)
    known: dict[tuple[int, bytes | None], tuple[str | None, bool, str | None]] = {}
    tasks = []
    for pid, raw, allocations in zip(pids[first].tolist(), comms, counts.tolist(), strict=True):
        if (pid, raw) not in known:
            known[pid, raw] = _task(pid, raw, inventory)
        comm, alive, now = known[pid, raw]
        tasks.append(Task(pid, comm, allocations, alive, now))
    ends = np.searchsorted(of_group, np.arange(number), "right").tolist()
    start = 0
    for end in ends:
        yield tasks[start:end]
        start = end


def _task(pid: int, raw: bytes | None, inventory: Inventory) -> tuple[str | None, bool, str | None]:
    """
    Return :attr:`Task.comm`, :attr:`Task.alive` and :attr:`Task.now` of a task.

    :param raw: Its comm in the record; ``None`` if the kernel does not record it.
    """
    comm = None
    if raw is not None:
        comm = raw.split(b"\0", 1)[0].decode(errors="surrogateescape")
    now = inventory.tasks.get(pid)
    # In a snapshot, bytes of names that are not UTF-8 are escaped.
    same = comm is None or (now is not None and without_surrogates(now) == without_surrogates(comm))
    return comm, now is not None, None if same else now


def lost_objects(
    reach: Reach,
    describe: Callable[[Array], ObjectFacts],
    session: MemoryReader | None = None,
) -> LostObjects:
    """
    Find allocated slab objects and per-CPU memory that nothing reaches.

    :param describe: Takes numbers of slab objects (``int64``); returns what is known of their
        allocation.
    :param session: Reads the contents of the objects, for fingerprints; ``None`` for no
        fingerprints.
    """
    heap = reach.heap
    verdict = reach.verdict[heap.first_object : heap.first_percpu]
    objects = np.flatnonzero(np.isin(verdict, LOST) & heap.slabs.allocated)
    slab = heap.slabs.slab_of(objects)
    of_percpu = reach.verdict[heap.first_percpu : heap.first_root]
    percpu = np.flatnonzero(np.isin(of_percpu, LOST))
    cache = np.concatenate([heap.slabs.cache[slab], np.full(len(percpu), -1, np.int32)])
    judged = np.concatenate([verdict[objects], of_percpu[percpu]])
    numbers, found = np.full(len(cache), -1, np.int32), list[Fingerprint]()
    if session is not None:
        nodes = np.concatenate([objects + heap.first_object, percpu + heap.first_percpu])
        kinds = cache.astype(np.int64) << 8 | judged
        numbers, found = fingerprints(session.contents(nodes), kinds, session.memory_at)
    return LostObjects(
        cache=cache,
        size=np.concatenate([heap.slabs.size[slab], heap.percpu.size[percpu]]),
        verdict=judged,
        facts=describe(objects).and_unknown(heap.percpu.address[percpu]),
        fingerprint=numbers,
        fingerprints=found,
    )


def group_objects(caches: Sequence[str], lost: LostObjects) -> list[SlabLeak]:
    """
    Group lost slab objects and per-CPU memory by cache, verdict and owner: the tag, else the stack,
    else what is in them.
    """
    facts = lost.facts
    # The kind of the number is part of the key, because numbers of tags, stacks and fingerprints
    # overlap.
    kind = np.where(facts.tag >= 0, 0, np.where(facts.stack >= 0, 1, 2))
    owner = np.choose(kind, (facts.tag, facts.stack, lost.fingerprint)).astype(np.int64)
    columns = (lost.cache.astype(np.int64), lost.verdict.astype(np.int64), kind, owner)
    _, which = np.unique(np.stack(columns), axis=1, return_inverse=True)
    found = []
    for members in grouped(which.ravel())[1]:
        first = int(members[0])
        cache, stack, tag = (int(c[first]) for c in (lost.cache, facts.stack, facts.tag))
        pids = facts.pid[members]
        memcgs, counts = np.unique(facts.memcg[members], return_counts=True)
        found.append(
            SlabLeak(
                cache=caches[cache] if cache >= 0 else _PERCPU,
                verdict=Reachability(lost.verdict[first]).label,
                objects=len(members),
                bytes=int(lost.size[members].sum()),
                addresses=facts.address[members].tolist(),
                stack=facts.stacks[stack] if stack >= 0 else None,
                pids=np.unique(pids[pids >= 0]).tolist(),
                tag=facts.tags[tag] if tag >= 0 else None,
                fingerprint=_commonest(lost.fingerprints, lost.fingerprint, members),
                memcgs={
                    facts.memcgs[number]: count
                    for number, count in zip(memcgs.tolist(), counts.tolist(), strict=True)
                    if number >= 0
                },
            )
        )
    return sorted(
        found, key=lambda leak: (-leak.bytes, leak.cache, leak.verdict, leak.addresses[:1])
    )
