# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Memory allocation profiling: lib/alloc_tag.c and lib/codetag.c.

Since Linux kernel commit 22d407b164ff ("lib: add allocation tagging support for memory allocation
profiling") (in v6.10) every place in the source that allocates has a ``struct alloc_tag`` with
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
# A kernel has a few thousand tags, and there is room for 100,000 of modules
# (MODULE_ALLOC_TAG_VMAP_SIZE).
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
    """Return whether this kernel counts allocations by tag, and where the tags of its pages are."""
    types = find_object(kernel.prog, "alloc_tag_cttype", _FILE)
    if types is None or find_type(kernel.prog, "struct alloc_tag") is None:
        return Profiling("absent")
    try:
        pointer = int(types)
    except FaultError:
        return Profiling("absent")
    # A pointer that is an error is one of the last 4095 (IS_ERR_VALUE()).
    if not pointer or pointer >= (1 << 8 * kernel.word.itemsize) - 4095:
        return Profiling("never")
    key = find_object(kernel.prog, "mem_alloc_profiling_key")
    compressed = find_object(kernel.prog, "mem_profiling_compressed")
    return Profiling(
        "on" if key is None or _enabled(key) else "off",
        compressed is not None and _enabled(compressed),
    )


def _enabled(key: Object) -> bool:
    """Return whether a static key is enabled."""
    try:
        return int(key.key.enabled.counter) > 0
    except DAMAGE as error:
        unless_mistaken(error)
        return True


@dataclass
class TagTable:
    """The tags of a kernel, including those of unloaded modules, and their addresses."""

    address: Array
    """``uint64``, shape ``(n,)``: address of every ``struct alloc_tag``."""
    places: list[Tag]
    counters: Array
    """``uint64``, shape ``(n,)``: per-CPU pointer to the counters; 0 for none."""
    inaccurate: Array
    """``bool``, shape ``(n,)``."""
    listed: Array
    """``bool``, shape ``(n,)``: whether /proc/allocinfo prints it."""
    counted: Array
    """``bool``, shape ``(n,)``: whether its counters still exist."""
    problems: list[str]

    def __post_init__(self) -> None:
        self._order = np.argsort(self.address, kind="stable")

    def number(self, references: Array) -> Array:
        """
        Return the index of the tag that each of *references* refers to.

        :param references: ``uint64``: address of the ``struct codetag``.
        :return: ``int32``, the same shape: -1 for none, -2 if the tag is unknown.
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
    :raises PageOwnerError: if this kernel has no tags
    """
    found = profiling(kernel)
    if found.state in ("absent", "never"):
        raise PageOwnerError(_NOT_COMPILED if found.state == "absent" else _NEVER)
    return found


def read_tag_table(kernel: Kernel) -> TagTable:
    """
    Read every tag, in the order of /proc/allocinfo.

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
    Return *table* extended by the tags that only *references* refer to: those of unloaded modules.
    If memory of a module is still allocated when it is unloaded, its tags are kept: since Linux
    kernel commit 0db6f8d7820a ("alloc_tag: load module tags into separate contiguous memory") (in
    v6.13) in an area of their own, before that in the module's memory.

    :param references: ``uint64``, of any shape: addresses of ``struct codetag``.
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
    # The area for modules' tags keeps tags and counters, but the names were in the module. Older
    # kernels keep the module's memory, but not the counters.
    kept = _in_module_area(kernel, address)
    # The memory that the names were in may be that of another module now.
    for number in np.flatnonzero(kept).tolist():
        more.places[number] = Tag(UNKNOWN, more.places[number].lineno, UNKNOWN, UNKNOWN)
    named = np.array([tag.filename != UNKNOWN for tag in more.places], bool)
    problems = list(table.problems)
    chosen = np.flatnonzero(named | kept)
    lost = len(unknown) - len(chosen)
    if lost:
        problems.append(f"{lost} references lead to no allocation tag: damaged")
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
    """Return which tags are in the area reserved for the tags of modules: ``bool``."""
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
    """Return address and number of the tags of the kernel and of each module, in their order."""
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
    """Read *count* tags: their addresses and contents."""
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
    """Reader of C strings that reads each string once."""

    def __init__(self, kernel: Kernel) -> None:
        self._prog = kernel.prog
        self._known: dict[int, str | None] = {0: None}
        self.missing = 0

    def at(self, address: int) -> str | None:
        """
        Return the string at *address*; ``None`` for a null pointer, :data:`UNKNOWN` if it cannot be
        read.
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

    :param counters: ``uint64``, shape ``(n,)``: per-CPU pointers; 0 for none.
    :return: Bytes and calls: ``int64``, shape ``(n,)``.
    """
    type_ = find_type(kernel.prog, "struct alloc_tag_counters")
    assert type_ is not None
    dtype = struct_dtype(kernel.prog, type_, ("bytes", "calls"))
    offsets = kernel.prog["__per_cpu_offset"]
    totals = np.zeros((2, len(counters)), np.uint64)
    known = np.flatnonzero(counters)
    mask = np.uint64((1 << 8 * kernel.word.itemsize) - 1)
    for cpu in possible_cpus(kernel):
        # Additions of pointers may wrap around.
        addresses = (counters[known] + np.uint64(int(offsets[cpu]))) & mask
        rows, _ = gather(kernel.prog, addresses, dtype)
        totals[0, known] += rows["bytes"]
        totals[1, known] += rows["calls"]
    return totals[0].astype(np.int64), totals[1].astype(np.int64)


@once
def text_version(kernel: Kernel) -> str:
    """Return the version of allocinfo's text: ``"1.0"``, or ``"2.0"`` with "accurate:no"."""
    match = re.search(rb"\0allocinfo - version: ([^\0\n]+)\n\0", read_only_data(kernel))
    return match[1].decode(errors="replace") if match is not None else "1.0"


@dataclass(frozen=True)
class PageReferences:
    """Location of a page's reference to its tag."""

    offset: int = 0
    """Offset of the reference in a ``struct page_ext`` entry, in bytes."""
    shift: int = -1
    """Lowest bit of the index in ``page.flags``; -1 if the reference is in the page_ext."""
    mask: int = 0
    kernel_tags: int = 0
    """Address of the first tag of the kernel, and the number of tags; they have the indices from
    2 on."""
    kernel_count: int = 0
    module_tags: int = 0
    """Address of the first tag of a module; these tags have the indices after those of the
    kernel."""
    size: int = 0
    """Size of a tag, in bytes."""

    def addresses(self, indices: Array) -> Array:
        """Convert *indices* from page flags to references: ``uint64``; 0 for none."""
        number = indices.astype(np.int64) - _ID_FIRST
        in_kernel = number < self.kernel_count
        base = np.where(in_kernel, self.kernel_tags, self.module_tags).astype(np.uint64)
        place = np.where(in_kernel, number, number - self.kernel_count)
        result = base + (place * self.size).astype(np.uint64)
        result[number < 0] = 0
        return result


@once_per_reading
def page_references(kernel: Kernel) -> PageReferences | None:
    """Find the location of the pages' references; return ``None`` if pages have none."""
    found = profiling(kernel)
    if found.state in ("absent", "never"):
        return None
    if not found.compressed:
        operations = find_object(kernel.prog, "page_alloc_tagging_ops")
        return PageReferences(offset=int(operations.offset)) if operations is not None else None
    # Linux kernel commit 4835f747d334 ("alloc_tag: support for page allocation tag compression")
    # (in v6.13).
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
