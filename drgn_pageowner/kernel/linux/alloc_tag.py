# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Memory allocation profiling: lib/alloc_tag.c and lib/codetag.c.

Since Linux kernel commit 22d407b164ff ("lib: add allocation tagging support for memory allocation
profiling") (in v6.10) every source line that allocates memory has a ``struct alloc_tag`` with
counters, and its allocations refer to that tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.linux.idr import idr_for_each

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.bulk import (
    find_object,
    find_type,
    gather,
    has_member,
    read_bulk,
    struct_dtype,
)
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.kernel import Kernel, once, once_per_reading
from drgn_pageowner.kernel.linux.formats import read_only_data
from drgn_pageowner.kernel.linux.topology import possible_cpus
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.tags import UNKNOWN, Profiling, Tag
from drgn_pageowner.units import counted

__all__ = (
    "PageReferences",
    "TagTable",
    "page_references",
    "profiling",
    "profiling_or_raise",
    "read_tag_table",
)

_FILE = "lib/alloc_tag.c"
# CODETAG_FLAG_INACCURATE of include/linux/codetag.h.
_INACCURATE = 1 << 0
# CODETAG_EMPTY of include/linux/alloc_tag.h, with CONFIG_MEM_ALLOC_PROFILING_DEBUG: marks memory
# that was deliberately allocated without a tag.
_EMPTY = 1
# CODETAG_ID_FIRST of include/linux/pgalloc_tag.h.
_ID_FIRST = 2
# Maximum plausible number of tags. A kernel has a few thousand, and the area for tags of modules
# has room for 100,000 (MODULE_ALLOC_TAG_VMAP_SIZE).
_MOST_TAGS = 1 << 20
_LONGEST_NAME = 1024
_NOT_COMPILED = (
    "this kernel was built without CONFIG_MEM_ALLOC_PROFILING (v6.10): it has no allocation tags"
)
_NEVER = (
    "memory allocation profiling is compiled in but was off for good when this kernel ran: boot "
    "with sysctl.vm.mem_profiling=1 (or =1,compressed) on the kernel command line to have tags"
)


@once_per_reading
def profiling(kernel: Kernel) -> Profiling:
    """
    Get the state of memory allocation profiling, and whether pages have tag indices in their flags.
    """
    types = find_object(kernel.prog, "alloc_tag_cttype", _FILE)
    if types is None or find_type(kernel.prog, "struct alloc_tag") is None:
        return Profiling("absent")
    try:
        pointer = int(types)
    except FaultError:
        return Profiling("absent")
    # The last 4095 values of a pointer are errors (IS_ERR_VALUE()).
    if not pointer or pointer >= (1 << 8 * kernel.word.itemsize) - 4095:
        return Profiling("never")
    key = find_object(kernel.prog, "mem_alloc_profiling_key")
    compressed = find_object(kernel.prog, "mem_profiling_compressed")
    return Profiling(
        "on" if key is None or _enabled(key) else "off",
        compressed is not None and _enabled(compressed),
    )


def _enabled(key: Object) -> bool:
    """Return whether a ``struct static_key_true`` or ``_false`` is enabled; true if unreadable."""
    try:
        return int(key.key.enabled.counter) > 0
    except DAMAGE as error:
        unless_mistaken(error)
        return True


@dataclass
class TagTable:
    """Table with a row for each allocation tag, including the tags of unloaded modules."""

    address: Array
    """``uint64``, shape ``(n,)``: address of the ``struct alloc_tag``."""
    places: list[Tag]
    """The source line and the function of each tag."""
    counters: Array
    """``uint64``, shape ``(n,)``: per-CPU pointer to the counters; 0 if the tag has none."""
    inaccurate: Array
    """``bool``, shape ``(n,)``: whether the kernel marked the counters as inaccurate."""
    listed: Array
    """``bool``, shape ``(n,)``: whether /proc/allocinfo prints the tag."""
    counted: Array
    """``bool``, shape ``(n,)``: whether the counters of the tag still exist."""
    problems: list[str]
    """Messages about tags that could not be read."""

    def __post_init__(self) -> None:
        self._order = np.argsort(self.address, kind="stable")

    def number(self, references: Array) -> Array:
        """
        Get the index in this table of the tag that each reference refers to.

        :param references: Addresses of ``struct codetag``: ``uint64``, of any shape.
        :return: ``int32``, the same shape; -1 for a reference without a tag, -2 for a tag that is
            not in this table.
        """
        if not len(self.address):
            return np.where(references > _EMPTY, -2, -1).astype(np.int32)
        ascending = self.address[self._order]
        place = np.searchsorted(ascending, references)
        place[place == len(ascending)] = 0
        known = ascending[place] == references
        number = np.where(known, self._order[place], np.where(references > _EMPTY, -2, -1))
        return number.astype(np.int32)


def profiling_or_raise(kernel: Kernel) -> Profiling:
    """
    Get the state of memory allocation profiling of a kernel that has allocation tags.

    :raises PageOwnerError: if this kernel has no tags
    """
    found = profiling(kernel)
    if found.state in ("absent", "never"):
        raise PageOwnerError(_NOT_COMPILED if found.state == "absent" else _NEVER)
    return found


def read_tag_table(kernel: Kernel) -> TagTable:
    """
    Read the tags of the kernel and its loaded modules, in the order of /proc/allocinfo.

    :raises PageOwnerError: if this kernel has no tags
    """
    profiling_or_raise(kernel)
    problems: list[str] = []
    dtype = _tag_dtype(kernel)
    parts = [
        _tags_at(kernel, start, count, dtype, problems)
        for start, count in _ranges(kernel, dtype.itemsize, problems)
    ]
    rows = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, dtype)
    address = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.uint64)
    return _table(kernel, address, rows, np.ones(len(rows), bool), problems)


def add_unlisted(kernel: Kernel, table: TagTable, references: Array) -> TagTable:
    """
    Return *table* extended by the tags of unloaded modules, which only *references* refer to.

    If memory that a module allocated is not freed when the module is unloaded, its tags are kept.
    Since Linux kernel commit 0db6f8d7820a ("alloc_tag: load module tags into separate contiguous
    memory") (in v6.13) they are in a separate area for the tags of modules, before that in the
    module's memory.

    :param references: Addresses of ``struct codetag``: ``uint64``, of any shape.
    """
    unknown = np.unique(references[table.number(references) == -2])
    dtype = _tag_dtype(kernel)
    rows, there = gather(kernel.prog, unknown, dtype)
    address, rows = unknown[there], rows[there]
    sane = (rows["lineno"] > 0) & (rows["lineno"] < 1 << 24)
    for name in ("function", "filename"):
        sane &= rows[name] >> np.uint64(8 * kernel.word.itemsize - 1) == 1
    address, rows = address[sane], rows[sane]
    more = _table(kernel, address, rows, np.zeros(len(rows), bool), [])
    # The area for tags of modules keeps tags and counters, but their names were in the memory of
    # the module. Older kernels keep the memory of the module, but not the counters.
    kept = _in_module_area(kernel, address)
    # The memory that the names were in may belong to another module now.
    for number in np.flatnonzero(kept).tolist():
        more.places[number] = Tag(UNKNOWN, more.places[number].lineno, UNKNOWN, UNKNOWN)
    named = np.array([tag.filename != UNKNOWN for tag in more.places], bool)
    problems = list(table.problems)
    chosen = np.flatnonzero(named | kept)
    lost = len(unknown) - len(chosen)
    if lost:
        problems.append(f"{counted(lost, 'reference')} to no allocation tag: damaged")
    if len(chosen):
        problems.append(
            f"{len(chosen)} tags are of modules that are gone; memory of theirs is still allocated"
        )
    return TagTable(
        np.concatenate([table.address, more.address[chosen]]),
        table.places + [more.places[number] for number in chosen.tolist()],
        np.concatenate([table.counters, more.counters[chosen]]),
        np.concatenate([table.inaccurate, more.inaccurate[chosen]]),
        np.concatenate([table.listed, more.listed[chosen]]),
        np.concatenate([table.counted, kept[chosen]]),
        problems,
    )


def _in_module_area(kernel: Kernel, addresses: Array) -> Array:
    """Return which *addresses* of tags are in the area for the tags of modules: ``bool``."""
    area = find_object(kernel.prog, "module_tags")
    if area is None or not has_member(area.type_, "start_addr"):
        return np.zeros(len(addresses), bool)
    start, size = int(area.start_addr), int(area.size)
    result: Array = (addresses >= np.uint64(start)) & (addresses - np.uint64(start) < size)
    return result


def _tag_dtype(kernel: Kernel) -> np.dtype[np.void]:
    type_ = kernel.prog.type("struct alloc_tag")
    members = {
        name: f"ct.{name}" for name in ("flags", "lineno", "modname", "function", "filename")
    }
    return struct_dtype(kernel.prog, type_, {**members, "counters": "counters"})


def _ranges(kernel: Kernel, size: int, problems: list[str]) -> Iterator[tuple[int, int]]:
    """
    Yield the address and the number of the tags of the kernel and of each module.

    :param size: Size of a tag, in bytes.
    """
    types = kernel.prog.variable("alloc_tag_cttype", _FILE)
    pointer = kernel.prog.type("struct codetag_module *")
    try:
        for _, entry in idr_for_each(types.mod_idr.address_of_()):
            found = Object(kernel.prog, pointer, value=int(entry)).range
            start, stop = int(found.start), int(found.stop)
            number = (stop - start) // size
            if 0 <= number <= _MOST_TAGS:
                yield start, number
            else:
                problems.append(f"the allocation tags at {start:#x} have no end: damaged")
    except DAMAGE as error:
        unless_mistaken(error)
        problems.append(f"not all allocation tags can be found ({error})")


def _tags_at(
    kernel: Kernel, start: int, count: int, dtype: np.dtype[np.void], problems: list[str]
) -> tuple[Array, Array]:
    """Read *count* tags from *start* on: their addresses (``uint64``) and contents (*dtype*)."""
    bulk = read_bulk(kernel.prog, start, count * dtype.itemsize)
    rows = np.frombuffer(bulk.data, dtype, count)
    if bulk.missing:
        problems.append(f"some of the allocation tags at {start:#x} are not in the dump")
    offsets = np.arange(count, dtype=np.uint64) * np.uint64(dtype.itemsize)
    return np.uint64(start) + offsets, rows


def _table(
    kernel: Kernel, address: Array, rows: Array, listed: Array, problems: list[str]
) -> TagTable:
    names = _Strings(kernel)
    places = [
        Tag(names.at(filename) or UNKNOWN, lineno, names.at(module), names.at(function) or UNKNOWN)
        for filename, lineno, module, function in zip(
            *(rows[name].tolist() for name in ("filename", "lineno", "modname", "function")),
            strict=True,
        )
    ]
    # The strings of unloaded modules are gone.
    if names.missing and listed.all():
        problems.append(f"{names.missing} names of allocation tags are not in the dump")
    inaccurate = (rows["flags"] & _INACCURATE) != 0
    counters = rows["counters"].astype(np.uint64)
    return TagTable(address, places, counters, inaccurate, listed, listed.copy(), problems)


class _Strings:
    """Reads C strings, and caches them by address."""

    def __init__(self, kernel: Kernel) -> None:
        self._prog = kernel.prog
        self._known: dict[int, str | None] = {0: None}
        self.missing = 0

    def at(self, address: int) -> str | None:
        """
        Return the string at *address*.

        :return: ``None`` for a null pointer; :data:`UNKNOWN` if the string cannot be read.
        """
        if address not in self._known:
            try:
                text = self._prog.read_c_string(address, max_size=_LONGEST_NAME)
                # Memory that was freed may be zero now.
                self._known[address] = text.decode(errors="backslashreplace") or UNKNOWN
            except FaultError:
                self.missing += 1
                self._known[address] = UNKNOWN
        return self._known[address]


def read_tag_counters(kernel: Kernel, counters: Array) -> tuple[Array, Array]:
    """
    Read the counters of all tags, summed over all possible CPUs, as ``alloc_tag_read()`` does.

    :param counters: Per-CPU pointer to the counters of each tag: ``uint64``, shape ``(n,)``; 0 for
        a tag without counters.
    :return: Number of bytes, and number of allocations, of each tag: ``int64``, shape ``(n,)``.
    """
    type_ = find_type(kernel.prog, "struct alloc_tag_counters")
    assert type_ is not None
    dtype = struct_dtype(kernel.prog, type_, ("bytes", "calls"))
    offsets = kernel.prog["__per_cpu_offset"]
    totals = np.zeros((2, len(counters)), np.uint64)
    known = np.flatnonzero(counters)
    mask = np.uint64((1 << 8 * kernel.word.itemsize) - 1)
    for cpu in possible_cpus(kernel):
        # The sum of the per-CPU pointer and the CPU's offset may wrap around.
        addresses = (counters[known] + np.uint64(int(offsets[cpu]))) & mask
        rows, _ = gather(kernel.prog, addresses, dtype)
        totals[0, known] += rows["bytes"]
        totals[1, known] += rows["calls"]
    return totals[0].astype(np.int64), totals[1].astype(np.int64)


@once
def text_version(kernel: Kernel) -> str:
    """
    Get the version of the text of /proc/allocinfo: ``"1.0"``, or ``"2.0"``, which marks inaccurate
    counters with "accurate:no".
    """
    match = re.search(rb"\0allocinfo - version: ([^\0\n]+)\n\0", read_only_data(kernel))
    return match[1].decode(errors="replace") if match is not None else "1.0"


@dataclass(frozen=True)
class PageReferences:
    """Location of the references from pages to their allocation tags."""

    offset: int = 0
    """Offset of the reference in a ``struct page_ext`` entry, in bytes."""
    shift: int = -1
    """Lowest bit of the index in ``page.flags``; -1 if the reference is in the page_ext."""
    mask: int = 0
    """Mask of the index, after ``page.flags`` is shifted right by :attr:`shift`."""
    kernel_tags: int = 0
    """Address of the kernel's first tag, which has the index 2."""
    kernel_count: int = 0
    """Number of the kernel's tags."""
    module_tags: int = 0
    """Address of the first tag in the area for the tags of modules, whose indices follow those of
    the kernel's tags."""
    size: int = 0
    """Size of a tag, in bytes."""

    def addresses(self, indices: Array) -> Array:
        """
        Get the addresses of tags from their indices in page flags.

        :return: ``uint64``, the shape of *indices*; 0 for an index that means no tag.
        """
        number = indices.astype(np.int64) - _ID_FIRST
        in_kernel = number < self.kernel_count
        base = np.where(in_kernel, np.uint64(self.kernel_tags), np.uint64(self.module_tags))
        place = np.where(in_kernel, number, number - self.kernel_count)
        result = base + (place * self.size).astype(np.uint64)
        result[number < 0] = 0
        return result


@once_per_reading
def page_references(kernel: Kernel) -> PageReferences | None:
    """Find where pages refer to their tags; return ``None`` if they have no references."""
    found = profiling(kernel)
    if found.state in ("absent", "never"):
        return None
    if not found.compressed:
        operations = find_object(kernel.prog, "page_alloc_tagging_ops")
        return PageReferences(offset=int(operations.offset)) if operations is not None else None
    # Page flags can have tag indices since Linux kernel commit 4835f747d334 ("alloc_tag: support
    # for page allocation tag compression") (in v6.13).
    tags, modules = kernel.prog["kernel_tags"], find_object(kernel.prog, "module_tags")
    has_modules = modules is not None and has_member(modules.type_, "start_addr")
    return PageReferences(
        shift=int(kernel.prog["alloc_tag_ref_offs"]),
        mask=int(kernel.prog["alloc_tag_ref_mask"]),
        kernel_tags=int(tags.first_tag),
        kernel_count=int(tags.count),
        module_tags=int(modules.start_addr) if modules is not None and has_modules else 0,
        size=int(kernel.prog.type("struct alloc_tag").size),
    )
