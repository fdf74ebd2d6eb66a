# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The use of every page, and the graph of pointers between allocations. Contains no drgn objects.

An :class:`Inventory` has the data that determine the use of each page; a :class:`Heap` adds a graph
of pointers, whose nodes are records, slab objects and roots.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from drgn_pageowner.model.arrays import (
    Array,
    among,
    ascending,
    packed_pairs,
    ranges,
    slices,
    unpacked_pairs,
)
from drgn_pageowner.model.fingerprint import Fingerprint
from drgn_pageowner.model.kinds import Kind
from drgn_pageowner.model.object_facts import ObjectFacts
from drgn_pageowner.model.pages import FREE_STATES, Memory, Pages
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.session import AtOnce, one_after_another
from drgn_pageowner.model.types import Typing
from drgn_pageowner.units import pages_size

__all__ = (
    "HEAP_COLUMNS",
    "INVENTORY_COLUMNS",
    "INVENTORY_COLUMNS_OF_STACKS",
    "LOST",
    "OWNER_COLUMNS",
    "Area",
    "AreaKind",
    "Evidence",
    "Heap",
    "HeapTarget",
    "Inventory",
    "LeakSearch",
    "LostObjects",
    "Metadata",
    "PerCpu",
    "Reachability",
    "Role",
    "Slabs",
    "Word",
    "area_of_text",
    "covering",
    "record_of_row",
)

INVENTORY_COLUMNS = (
    "pfn", "order", "handle", "ts_nsec", "pid", "tgid", "comm", "migratetype", "tag",
)  # fmt: skip
"""The columns of :attr:`Inventory.records`."""

HEAP_COLUMNS = ("pfn", "order", "handle", "ts_nsec", "tag")
"""The columns that the search for leaks needs of all records."""

OWNER_COLUMNS = ("pid", "comm")
"""The columns that it needs of lost records alone."""

INVENTORY_COLUMNS_OF_STACKS = ("pfn", "order", "handle")
"""The columns that the records have at least, where tasks and times were not asked for."""


@dataclass
class Slabs:
    """All slabs of all caches, and which of their objects are allocated."""

    caches: Sequence[str]
    """Names of the caches."""
    cache: Array
    """``int32``, a row per slab: index in :attr:`caches`."""
    row: Array
    """``int64``: row in :class:`Pages` of the slab's first page; ascending."""
    pages: Array
    """``int64``: number of base pages of the slab."""
    first: Array
    """``int64``: offset of the first object in the slab, in bytes (the left red zone)."""
    stride: Array
    """``int64``: distance between the starts of two adjacent objects, in bytes."""
    size: Array
    """``int64``: ``object_size``, in bytes."""
    objects: Array
    """``int64``: number of objects in the slab."""
    start: Array
    """``int64``, shape ``(slabs + 1,)``: slab ``i`` has the objects ``start[i]`` to
    ``start[i + 1]``."""
    allocated: Array
    """``bool``, a row per object: whether it is allocated."""
    sheaves: Array
    """``uint64``: addresses of the sheaves, per-CPU and per-node arrays of free objects. Added
    in Linux kernel commit 2d517aa09bbc ("slab: add opt-in caching layer of percpu sheaves") (in
    v6.18)."""
    problems: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return int(self.start[-1])

    def __repr__(self) -> str:
        used, size = int(self.allocated.sum()), int((self.size * self.objects).sum())
        return (
            f"<Slabs: {len(self.row):,} of {len(self.caches):,} caches, {len(self):,} objects "
            f"({pages_size(size)}), {used:,} of them allocated>"
        )

    def slab_of(self, objects: Array) -> Array:
        """Return the index of the slab that contains each object, given by its index."""
        result: Array = np.searchsorted(self.start, objects, "right") - 1
        return result


class AreaKind(Kind):
    """The use of an :class:`Area`."""

    VMALLOC = 0, "vmalloc"
    VMAP = 1, "vmap"
    """A ``vmap()`` mapping of pages that were allocated separately."""
    STACK = 2, "stack of"
    """The stack of a task."""
    CACHED_STACK = 3, "cached stack"
    """A stack of a task that exited, cached for reuse by a new task."""
    MODULE = 4, "module"


@dataclass(frozen=True)
class FileUse:
    """A file with pages in the page cache, shared memory included."""

    path: str | None
    """``None`` if it is unknown, for example because the file was deleted."""
    filesystem: str | None
    """Name of the type of the file system: ``"ext4"``, ``"tmpfs"``."""
    inode: int | None
    """Number of the inode."""
    pages: int
    """Number of base pages in memory."""


@dataclass(frozen=True)
class Area:
    """A ``struct vm_struct``: a range of virtual addresses and the pages that it maps, in order."""

    start: int
    """First virtual address."""
    size: int
    """Size in bytes, without the guard page."""
    kind: AreaKind
    rows: Array
    """``int64``: row of each of its pages in :class:`Pages`; -1 for a page without a
    ``struct page``."""
    name: str = ""
    """The task (``"comm (pid 7)"``) or the module."""

    @property
    def text(self) -> str:
        """The kind and the name, as printed."""
        return f"{self.kind.label} {self.name}" if self.name else self.kind.label


def area_of_text(text: str, start: int, size: int, rows: Array) -> Area:
    """Return the area whose :attr:`Area.text` is *text*."""
    for kind in AreaKind:
        if text == kind.label:
            return Area(start, size, kind, rows)
    for kind in (AreaKind.STACK, AreaKind.MODULE):
        if text.startswith(kind.label + " "):
            return Area(start, size, kind, rows, text[len(kind.label) + 1 :])
    raise ValueError(f"no area is of the kind {text!r}")


class Metadata(enum.IntEnum):
    """Memory that the kernel uses for itself (values of :attr:`Inventory.metadata`)."""

    NONE = 0
    MEMMAP = 1
    PAGE_EXT = 2
    STACK_DEPOT = 3
    IMAGE = 4
    """Text, data and bss of the kernel."""
    STACK = 5
    """The stack of a task, or a cached stack of a task that exited."""
    PERCPU = 6
    """The first per-CPU chunk: static per-CPU variables, and allocations from its reserved and
    dynamic parts."""
    TABLE = 7
    """A page table of the kernel's own mappings."""
    SHADOW = 8
    """Shadow memory of KASAN: one byte for every eight bytes of memory."""
    KFENCE = 9
    """The pool of KFENCE: objects of slab caches, which are not in a slab, and guard pages."""
    USER_TABLE = 10
    """A page table of a process that is not marked as a page table in its ``struct page``."""


@dataclass
class Inventory:
    """Every page, and the data that determine its use."""

    memory: Memory
    records: Snapshot | None
    """Allocated records; ``None`` where page_owner is absent or off."""
    record_of_row: Array
    """``int32``, a row per page: the record that covers it, or -1."""
    slabs: Slabs
    areas: Sequence[Area]
    metadata: Array
    """``uint8``, a row per page: :class:`Metadata`."""
    buffers: Array
    """``bool``, a row per page: whether it is in the page cache of a block device."""
    modules: Sequence[str] = ()
    """Names of the loaded modules."""
    tasks: Mapping[int, str] = field(default_factory=dict)
    """Comm of every task, by pid."""
    command_lines: Mapping[int, str] = field(default_factory=dict)
    """Command line of every process, by process ID, where the dump has it."""
    files: Sequence[FileUse] = ()
    """The files with most pages in the page cache, largest first."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """The kernel's counters, summed over zones and nodes, by the name of their enumerator
    (``"NR_FILE_PAGES"``) or variable (``"nr_vmalloc_pages"``). Per-CPU differences are
    included."""
    stacks: Sequence[Area] = ()
    """Stacks of tasks in the direct map: all of them without ``CONFIG_VMAP_STACK``. There are none
    in a saved snapshot."""
    problems: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    """One line per part that could not be read and that may contain references. Memory that is
    referenced only from these parts is wrongly reported as lost."""

    def records_with(self, wanted: Collection[str]) -> Snapshot | None:
        """
        Return the records of an inventory with owners if they were read without problems, and with
        the columns *wanted* as far as this kernel has them; otherwise ``None``.
        """
        records = self.records
        if records is None or not len(records) or records.problems:
            return None
        return records if {*wanted} <= {*INVENTORY_COLUMNS} else None

    def __repr__(self) -> str:
        records = "no records" if self.records is None else f"{len(self.records):,} records"
        pages = self.memory.pages
        return (
            f"<Inventory: {len(pages):,} pages ({pages_size(len(pages) * pages.facts.page_size)}), "
            f"{records}, {len(self.slabs):,} slab objects, {len(self.areas):,} vmalloc areas, "
            f"{len(self.tasks):,} tasks, {len(self.modules):,} modules>"
        )


@dataclass
class PerCpu:
    """Allocations of per-CPU memory; the copies of all CPUs count as one allocation."""

    address: Array
    """``uint64``: virtual address of the first possible CPU's copy."""
    pointer: Array
    """``uint64``: the ``void __percpu *``, which is not the address of any copy."""
    size: Array
    """``int64``: size of the copy of one CPU, in bytes."""

    def __len__(self) -> int:
        return len(self.address)

    @classmethod
    def none(cls) -> PerCpu:
        """Return an empty set of allocations."""
        empty = np.zeros(0, np.uint64)
        return cls(empty, empty, np.zeros(0, np.int64))


PROCESS_PAGES = "pages of processes and files"
"""Name of the root that has the ``struct page`` of every page of a process or file."""


@dataclass
class Heap:
    """
    The graph of pointers: its nodes are records, slab objects, per-CPU allocations and roots, in
    this order.
    """

    inventory: Inventory
    records: Snapshot
    """Record ``i`` is node ``i``."""
    roots: Sequence[str]
    """Root ``i`` is node ``first_root + i``: ``"kernel image"``, a task, ..."""
    holder: Array
    """``int32``, a row per edge: the node that has the pointer. If the heap was read with types,
    only pointers whose offset in the node is unknown; :attr:`Typing.pointers` has the others."""
    target: Array
    """``int32``, a row per edge: the node that the pointer points to. Edges are sorted by holder,
    and there is at most one edge from one node to another."""
    bookkeeping: Array
    """``int32``: nodes whose pointers do not keep their targets alive: the kernel's lists of all
    vmalloc areas, sheaves, and the records that debugging code keeps about each object."""
    pfn_holder: Array
    """``int32``, a row for each word that equals the PFN or the physical address of a record's
    page: the node that contains the word."""
    pfn_target: Array
    """``int32``, a row for each of these words: the record that the page belongs to."""
    pfn_offset: Array
    """``int32``, a row for each of these words: its offset in the slab object that contains it, in
    bytes; -1 if it is not in a slab object."""
    pages_read: int = 0
    """Number of base pages whose words were read."""
    pages_missing: int = 0
    """Number of base pages whose words should have been read, but are not in the dump."""
    percpu: PerCpu = field(default_factory=PerCpu.none)
    """Allocation ``i`` is node ``first_percpu + i``."""
    typing: Typing | None = None
    """The data for inferring the types of nodes; ``None`` if not requested."""
    recorded: bool = True
    """Whether :attr:`records` are page_owner records. Otherwise they are allocations that were
    found from the state of each ``struct page``."""
    unlisted: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    """``int32``: records whose first page has never been on a list since boot. A free block is on a
    free list by its first page, so these pages belong to a larger block that was split while it
    was allocated. Filled in only if :attr:`recorded` is false."""
    at_once: AtOnce = field(default=one_after_another, repr=False)
    """Calls functions that look at the heap, maybe at the same time."""

    def __repr__(self) -> str:
        size = self.inventory.memory.pages.facts.page_size
        pointers = len(self.target) + (len(self.typing.pointers) if self.typing is not None else 0)
        return (
            f"<Heap: {len(self.records):,} records, {len(self.slabs):,} slab objects, "
            f"{len(self.percpu):,} per-CPU allocations, {len(self.roots):,} roots; "
            f"{pointers:,} pointers between them, in {self.pages_read:,} pages read "
            f"({pages_size(self.pages_read * size)})>"
        )

    def untyped(self) -> Heap:
        """Return the same heap as if it had been read without types."""
        if self.typing is None:
            return self
        pairs = np.concatenate(
            [packed_pairs(self.holder, self.target), packed_pairs(*self.typed_edges())]
        )
        holder, target = unpacked_pairs(ascending(pairs))
        return replace(self, holder=holder, target=target, typing=None)

    def typed_edges(self, chosen: Array | None = None) -> tuple[Array, Array]:
        """
        Return the source and target nodes of :attr:`Typing.pointers`: ``int32``. A record stands
        for all of its allocation.

        :param chosen: The pointers to return: ``bool``, a row per pointer, or their indices; by
            default, all.
        """
        if self.typing is None:
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        place, target = self.typing.pointers.place, self.typing.pointers.target
        if chosen is not None:
            place, target = place[chosen], target[chosen]
        holder = np.minimum(place, self.nodes - 1)
        variable = np.flatnonzero(place >= self.nodes)
        holder[variable] = self.typing.variables.node[place[variable] - self.nodes]
        return holder, target

    @property
    def slabs(self) -> Slabs:
        """Object ``i`` is node ``first_object + i``."""
        return self.inventory.slabs

    @property
    def first_object(self) -> int:
        """The node of slab object 0."""
        return len(self.records)

    @property
    def first_percpu(self) -> int:
        """The node of per-CPU allocation 0."""
        return len(self.records) + len(self.slabs)

    @property
    def first_root(self) -> int:
        """The node of root 0."""
        return self.first_percpu + len(self.percpu)

    @property
    def process_pages(self) -> int:
        """The node of the root :data:`PROCESS_PAGES`; -1 if there is none."""
        if PROCESS_PAGES not in self.roots:
            return -1
        return self.first_root + list(self.roots).index(PROCESS_PAGES)

    @property
    def nodes(self) -> int:
        return self.first_root + len(self.roots)


@dataclass(frozen=True)
class Word:
    """A word of memory or a register that refers to a node of the heap."""

    kind: str
    """The kind of memory that contains it: ``"kernel image"``, ``"per-CPU"``, ``"boot memory"``,
    ``"stack"``, ``"register"``, ``"slab object"``, ``"page"``, ``"module"``, ``"vmalloc"``,
    ``"struct page"`` or ``"page table"``."""
    name: str
    """The symbol, task, cache or page that contains the word, and the offset of the word in it."""
    node: int
    """The node that contains the word."""
    target: int
    """The node that it refers to."""
    address: int | None
    """Virtual address of the word; ``None`` for a register."""
    value: int
    by: str = "address"
    """How it refers to the node: ``"address"``, ``"struct page"``, ``"per-CPU pointer"``,
    ``"PFN"``, ``"physical address"`` or ``"page table entry"``."""
    place: int = -1
    """Number of the node or variable that contains the word (see
    :attr:`drgn_pageowner.model.types.Pointers.place`); -1 if unknown, or if the heap was read
    without types."""
    offset: int = -1
    """Offset of the word in that node or variable, in bytes; -1 if unknown."""
    expression: str | None = None
    """The drgn expression for the word: a member of a variable or an object, if its type is
    known; ``None`` for a register."""
    type: str | None = None
    """The type of the object or variable that contains it."""
    leads_to: str | None = None
    """The type of the target."""
    width: int | None = None
    """Size of the word in bytes, if that is not the size of an address: of a 32-bit PFN, or an
    entry of a page table."""
    target_expression: str | None = None
    """The drgn expression for an address in the target: for a PFN or a pointer to a ``struct
    page``, the address of the page; for a per-CPU pointer, that of CPU 0's copy. ``None`` for a
    register."""
    cpu: int | None = None
    """The CPU whose copy of per-CPU memory contains it."""


@dataclass(frozen=True)
class HeapTarget:
    """The page or slab object that the user named, and its node in the heap."""

    what: str
    """The name, as the user wrote it."""
    pfn: int
    node: int | None
    """Number of the node; ``None`` for a free page, a page of boot memory, or a free object."""
    state: str
    """The state of the page or object in words, if it is not a node."""


class Role(enum.IntEnum):
    """How a search for leaks treats a record (values of :attr:`LeakSearch.role`)."""

    CANDIDATE = 0
    """Leaked if no pointer to it is found."""
    ROOT = 1
    """A root of the search: boot memory, per-CPU areas, modules, mapped pages."""
    ACCOUNTED = 2
    """Known to be in use without a pointer: page tables, stacks, pages of processes and files."""


class Reachability(Kind):
    """The result of a search for one node (values of :attr:`LeakSearch.verdict`)."""

    REACHABLE = 0, "reachable"
    PFN_ONLY = 1, "known only by PFN"
    UNREACHABLE = 2, "unreachable"
    FROM_UNREACHABLE = 3, "only reachable from unreachable"
    ITSELF = 4, "held by nothing but itself"


class Evidence(enum.IntEnum):
    """The evidence for a verdict (values of :attr:`LeakSearch.evidence`)."""

    UNTYPED = 0
    """Words that equal the address of the record's page. No types were inferred."""
    WORDS = 1
    """Words that equal the address of the record's page and are in memory of unknown type, so it is
    not certain that they are pointers."""
    TYPES = 2
    """Types that are certain. A reachable record is reached by members that are pointers; a lost
    record has no such reference, and words that equal its address are known not to be pointers."""


LOST = (Reachability.UNREACHABLE, Reachability.FROM_UNREACHABLE, Reachability.ITSELF)
"""Results that are reported as leaks."""


@dataclass
class LostObjects:
    """Allocated slab objects and per-CPU memory that no root reaches: one row each."""

    cache: Array
    """``int32``: index in :attr:`Slabs.caches`; -1 for per-CPU memory."""
    size: Array
    """``int64``: ``object_size``; for per-CPU memory, the size of one copy."""
    verdict: Array
    """``uint8``: :class:`Reachability`."""
    facts: ObjectFacts
    """Stack, task, tag and memory cgroup of each allocation, where known."""
    fingerprint: Array
    """``int32``: index in :attr:`fingerprints`; -1 if it has none."""
    fingerprints: Sequence[Fingerprint]


@dataclass
class LeakSearch:
    """
    Result of a search for leaks, as it is saved in a snapshot.

    A snapshot does not contain the memory, so the search cannot be made again.
    """

    inventory: Inventory
    records: Snapshot
    allocation: Array
    """``int32``, a row per record: the first record of the same allocation."""
    role: Array
    """``uint8``, a row per record: :class:`Role`."""
    verdict: Array
    """``uint8``, a row per record: :class:`Reachability`."""
    pages_missing: int
    """Number of base pages of kernel memory that are not in the dump."""
    number_chance: list[float]
    """Probability that some word equals a PFN by chance; element *k* is for PFNs from ``2^k``
    on."""
    lost: LostObjects | None = None
    evidence: Array | None = None
    """``uint8``, a row per record: :class:`Evidence`; ``None`` for snapshots saved by versions
    without it."""
    recorded: bool = True
    """Whether :attr:`records` are page_owner records, as :attr:`Heap.recorded`."""
    fingerprint: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    """``int32``, a row per record: index in :attr:`fingerprints`; -1 if it has none. Empty if
    fingerprints were not requested."""
    fingerprints: Sequence[Fingerprint] = ()


# Number of records that are looked at together.
_PIECE = 1 << 18


def covering(pages: Pages, records: Snapshot) -> Array:
    """
    Return the index of the record whose pages include each page, free or not.

    :return: ``int32``, a row per page; -1 for none.
    """
    covered = np.full(len(pages), -1, np.int32)
    several = records["order"] != 0 if "order" in records else records.pages > 1
    for part in slices(len(records), _PIECE):
        rows = pages.rows(records["pfn"][part])
        known = rows >= 0
        if known.all():
            covered[rows] = np.arange(part.start, part.stop)
        else:
            covered[rows[known]] = np.flatnonzero(known) + part.start
    # Records of several pages override those of one.
    for chosen in np.array_split(np.flatnonzero(several), len(records) // _PIECE + 1):
        piece = records.select(chosen)
        rows = pages.rows(piece["pfn"])
        known = rows >= 0
        number, rows, sizes = chosen[known], rows[known], piece.pages[known]
        sizes = np.minimum(sizes, len(pages) - rows)
        covered[ranges(rows, sizes)] = np.repeat(number, sizes)
    return covered


def record_of_row(pages: Pages, records: Snapshot | None) -> Array:
    """
    Return the index of the record that covers each page.

    :return: ``int32``, a row per page; -1 for free pages and pages without a record.
    """
    if records is None or not len(records):
        return np.full(len(pages), -1, np.int32)
    covered = covering(pages, records)
    covered[among(pages.state, FREE_STATES)] = -1
    return covered
