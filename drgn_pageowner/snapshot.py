"""
What was decoded, as columns: no drgn object survives here.

A :class:`Snapshot` has one row per page_owner record; stacks, names and memory cgroups are
kept once each and referred to by number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = (
    "Array",
    "BitField",
    "Facts",
    "Frame",
    "Memcg",
    "MemcgKind",
    "Names",
    "Snapshot",
    "SourceFrame",
    "Stacks",
    "Symbolizer",
    "TextFormats",
    "Zone",
    "latest",
)

Array = NDArray[Any]


class Zone(NamedTuple):
    """A ``struct zone`` that spans memory."""

    node: int
    type: int
    """``enum zone_type``: index in the node's zones."""
    name: str
    start_pfn: int
    spanned: int
    """``spanned_pages``, in base pages."""
    present: int
    """``present_pages``, in base pages."""
    managed: int
    """``managed_pages``, in base pages."""
    pageblock_flags: int = 0
    """Address of the zone's pageblock bitmap on FLATMEM; else 0."""


class BitField(NamedTuple):
    """A bit field of ``page.flags``."""

    name: str
    shift: int
    width: int
    base: int
    """10 or 16: how the kernel prints it."""

    def of(self, flags: Array) -> Array:
        """The field's value in every element of *flags*."""
        mask = flags.dtype.type((1 << self.width) - 1)
        result: Array = (flags >> flags.dtype.type(self.shift)) & mask
        return result


class MemcgKind:
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


class TextFormats(NamedTuple):
    """The printf formats of this kernel's own ``print_page_owner()``."""

    record: str
    """``"Page allocated via order %u, ..."``."""
    page: str
    """``"PFN ..."``."""
    migrated: str | None
    """``None`` where the kernel does not say that a page was migrated (before v4.6)."""
    charged: str | None
    """``None`` where the kernel prints no memory cgroup."""
    slab_cache_page: str | None
    from_dump: bool
    """Whether they were read from the dump; else they are our own, by layout."""
    frame: str = " %pS\n"
    """A line of a stack: ``%pS``, and in old kernels ``%p`` in front of it."""


@dataclass(frozen=True)
class Names:
    """The kernel's own tables of names."""

    gfp_flags: Sequence[tuple[int, str]] = ()
    """``(mask, name)`` in the order in which ``%pGg`` tries them."""
    page_flags: Sequence[tuple[int, str]] = ()
    """``(mask, name)`` in the order in which ``%pGp`` tries them."""
    page_flag_fields: Sequence[BitField] = ()
    page_flags_mask: int = 0
    """``PAGEFLAGS_MASK``: the part of ``page.flags`` that holds flags."""
    page_flag_fields_printed: bool = False
    """Whether ``%pGp`` of this kernel prints the fields too."""
    page_flag_bits: Mapping[str, int] = field(default_factory=dict)
    """Every name of ``enum pageflags`` in lower case without ``PG_``, aliases too -> bit."""
    zone_types: Sequence[str] = ()
    """``enum zone_type`` without ``ZONE_``, in order."""
    migratetypes: Sequence[str] = ()
    migrate_reasons: Sequence[str] = ()

    def flag_mask(self, name: str) -> int:
        """The mask of a page flag; 0 if this kernel has none of that name."""
        if name in self.page_flag_bits:
            return 1 << self.page_flag_bits[name]
        return next((mask for mask, text in self.page_flags if text == name), 0)


class SourceFrame(NamedTuple):
    """A function at a PC as DWARF has it, inlined ones first."""

    function: str
    filename: str
    line: int
    inlined: bool


class Frame(NamedTuple):
    """A PC in the kernel's own words (``%pS``)."""

    pc: int
    name: str | None
    """``None`` if no symbol holds the PC (say, of a module that is gone)."""
    offset: int
    size: int
    module: str | None

    def __str__(self) -> str:
        if self.name is None:
            return f"{self.pc:#x}"
        module = f" [{self.module}]" if self.module is not None else ""
        return f"{self.name}+{self.offset:#x}/{self.size:#x}{module}"


class Symbolizer(Protocol):
    """Names PCs as the kernel does."""

    def symbolize(self, pcs: Array) -> list[Frame]:
        """
        :param pcs: ``uint64`` array of shape ``(n,)``.
        :return: One frame per PC.
        """
        ...


class Stacks:
    """
    Every stack of a snapshot, interned: number ``i`` is the stack of ``handles[i]``.

    Number -1 stands for "no stack": a handle of 0, or one that the stack depot does not have.
    """

    def __init__(
        self,
        handles: Array,
        offsets: Array,
        pcs: Array,
        counts: Array | None = None,
    ) -> None:
        """
        :param handles: ``uint32``, shape ``(n,)``, ascending ``depot_stack_handle_t``.
        :param offsets: ``int64``, shape ``(n + 1,)``: stack ``i`` is
            ``pcs[offsets[i]:offsets[i + 1]]``.
        :param pcs: ``uint64``, return addresses, innermost frame first.
        :param counts: ``int64``, shape ``(n,)``: base pages that ``stack_record.count`` says the
            stack holds, or ``None`` on kernels before v6.9.
        """
        self.handles = handles
        self.offsets = offsets
        self.pcs = pcs
        self.counts = counts

    @classmethod
    def empty(cls) -> Stacks:
        return cls(np.zeros(0, np.uint32), np.zeros(1, np.int64), np.zeros(0, np.uint64))

    def __len__(self) -> int:
        return len(self.handles)

    def __getitem__(self, index: int) -> Array:
        """PCs of the stack with number *index*: ``uint64``, shape ``(depth,)``."""
        if index < 0:
            return self.pcs[:0]
        result: Array = self.pcs[self.offsets[index] : self.offsets[index + 1]]
        return result

    def index(self, handles: Array) -> Array:
        """
        The stack number of every element of *handles*.

        :return: ``int64`` of the same shape; -1 where there is no such stack.
        """
        if not len(self.handles):
            return np.full(len(handles), -1, np.int64)
        position = np.searchsorted(self.handles, handles)
        position[position == len(self.handles)] = 0
        position[self.handles[position] != handles] = -1
        result: Array = position.astype(np.int64, copy=False)
        return result

    def depths(self) -> Array:
        """Number of frames of every stack: ``int64``, shape ``(n,)``."""
        result: Array = np.diff(self.offsets)
        return result


@dataclass
class Facts:
    """What is known of the kernel as a whole."""

    release: str
    """``UTS_RELEASE``."""
    page_size: int
    """``PAGE_SIZE``, in bytes."""
    max_page_order: int
    """``MAX_PAGE_ORDER``: of the largest blocks that the buddy allocator has."""
    pageblock_order: int
    version: str = ""
    """``init_uts_ns.name.version``."""
    hostname: str = ""
    arch: str = ""
    min_low_pfn: int = 0
    max_pfn: int = 0
    memory_model: str = ""
    now_ns: int | None = None
    """The clock that records are stamped with (``local_clock()``), at the dump; nanoseconds
    since boot."""
    live: bool = False
    panic_message: str | None = None
    zones: Sequence[Zone] = ()
    page_owner: str = "on"
    """``"absent"``, ``"off"`` or ``"on"``."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    """What the decoder found: sizes, offsets, stack depot format."""
    formats: TextFormats | None = None
    problems: Sequence[str] = ()
    """What of this could not be read, a line each."""


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
    source: dict[int, list[SourceFrame]] = field(default_factory=dict)
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
            self.source,
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
        *frame* as text: the kernel's ``%pS``, and where :attr:`source` knows the PC a line
        for each function that was inlined there, innermost first, with file and line.
        """
        known = self.source.get(frame.pc)
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
