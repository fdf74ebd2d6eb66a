# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The tables of a dataset: many snapshots in plain Parquet files, which any query engine can read.

:data:`DATASET` describes the tables. The writer of datasets, the command ``sql`` and the tables in
docs/dataset.md (``python docs/tables.py``) are derived from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drgn_pageowner.model.columns import FIELDS, Form
from drgn_pageowner.model.stacks import Frame

__all__ = (
    "DATASET",
    "DATASET_SCHEMA",
    "PARTITIONS",
    "DatasetField",
    "day_of",
    "frame_line",
    "sql_type",
    "stack_id",
)

DATASET_SCHEMA = 1
"""Version of the tables; a reader accepts datasets with this version or an earlier one. Later
versions may add tables and columns; these columns are null for snapshots written before."""

PARTITIONS = ("kernel", "day")
"""Names of the hive partitions: release of the kernel, and day of the crash (UTC)."""


@dataclass(frozen=True)
class DatasetField:
    """A column of a table of a dataset."""

    name: str
    type: str
    """``bool``, ``int64``, ``uint64``, ``double``, ``string``, ``time`` (UTC, milliseconds),
    ``list<string>`` or ``list<int64>``."""
    doc: str


def sql_type(column: Any) -> str:
    """Return the type of a record column in SQL and in a dataset: the same for every kernel."""
    if column.form.is_text:
        return "string"
    # int64 has room for PFNs, pids, orders and handles of every kernel.
    return column.dtype if column.dtype in ("bool", "uint64") else "int64"


def _table(text: str) -> tuple[DatasetField, ...]:
    """Parse lines of the form ``name type meaning`` to fields."""
    return tuple(
        DatasetField(*line.split(maxsplit=2)) for line in text.strip().splitlines() if line.strip()
    )


_SNAPSHOT = DatasetField("snapshot", "string", "ID of the snapshot")
_STACK = DatasetField(
    "stack_id", "string", "ID of the stack: the same on every host and boot (below)"
)
_ALLOCATOR = _table("""
    allocator string first frame of the stack that is not the memory manager's own
    module string module of the innermost frame that is in one
""")

_TABLES: Mapping[str, tuple[DatasetField, ...]] = {
    "meta": _table("""
        schema int64 version of the tables that the snapshot was written with
        tool string version of drgn-pageowner that wrote it
        release string `UTS_RELEASE`
        version string `init_uts_ns.name.version`
        hostname string name of the machine
        arch string architecture
        build_id string build ID of the kernel, in hex (`BUILD-ID` of VMCOREINFO)
        page_size int64 bytes of a page
        present int64 base pages of the machine
        now_ns int64 time of the dump on the clock of records, nanoseconds since boot
        crash_time time time of the crash (`CRASHTIME` of VMCOREINFO)
        live bool whether the kernel was running when it was read
        panic_message string last panic message of the kernel log
        page_owner string `on`, `off` or `absent`
        modules list<string> loaded modules
        cpus int64 CPUs that were online
        hardware string machine, as the kernel prints it in a backtrace
        command_line string command line of the kernel
        source string path of the dump when it was read
        dump_bytes int64 size of the dump's file
        records int64 records of allocated pages
        allocated_pages int64 base pages of these records
        problems list<string> what could not be read, a line each
    """),
    "records": (
        *(
            DatasetField(column.name, sql_type(column), column.doc)
            for column in FIELDS
            if column.form is not Form.STACK
        ),
        *_table("""
            allocations int64 number of allocations in the row: 1, unless a text with sums was read
            bytes int64 bytes of the allocation
            age_ns int64 `now_ns` minus `ts_nsec`
        """),
        *_ALLOCATOR,
        _STACK,
    ),
    "stacks": (
        *_table("""
            handle int64 `depot_stack_handle_t`
            allocations int64 records of allocated pages
            pages int64 base pages of these records
            bytes int64 bytes of these records
            kernel_pages int64 base pages by the kernel's own counter (since v6.9)
        """),
        *_ALLOCATOR,
        *_table("""
            depth int64 number of frames
            functions list<string> names of the frames' functions, innermost first
            frames list<string> frames as the kernel prints them
        """),
        _STACK,
    ),
    "pages": _table("""
        node int64 NUMA node
        zone string zone
        class string use of the pages: a class of `account`
        pages int64 base pages
        bytes int64 bytes of these pages
    """),
    "zones": _table("""
        node int64 NUMA node
        zone string zone
        start_pfn int64 first PFN
        spanned int64 base pages from its first to its last
        present int64 `present_pages`: base pages without holes
        managed int64 base pages that the buddy allocator manages
        free_pages int64 `NR_FREE_PAGES`: free base pages
        free_cma int64 `NR_FREE_CMA_PAGES`: free base pages in CMA areas
        pcp int64 base pages in per-CPU lists
        watermark_min int64 min watermark, in base pages
        watermark_low int64 low watermark, in base pages
        watermark_high int64 high watermark, in base pages
        free_blocks list<int64> number of free blocks of each order, from 0
    """),
    "leaks": (
        *_table("""
            kind string `pages` or `slab`: whether pages or slab objects are lost
            verdict string verdict of `leaks`
            confidence string `high`, `medium` or `low`
            cache string slab cache
            pages int64 base pages
            bytes int64 bytes
            allocations int64 allocations or objects
            handle int64 `depot_stack_handle_t`
            allocator string first frame that is not the memory manager's own
            tag string allocation tag (since v6.10)
            reasons list<string> reasons for the confidence
        """),
        _STACK,
    ),
    "suspects": (
        *_table("""
            allocator string first frame that is not the memory manager's own
            handle int64 `depot_stack_handle_t`
            score int64 number of reasons
            pages int64 base pages
            bytes int64 the same in bytes
            allocations int64 allocations
            pages_per_hour double growth between the oldest and the newest allocation
            reasons list<string> signs of a leak
        """),
        _STACK,
    ),
    "frag": _table("""
        node int64 NUMA node
        zone string zone
        managed int64 base pages that the buddy allocator manages
        free int64 free base pages
        free_cma int64 free base pages in CMA areas
        largest_free_run int64 length of the longest run of free pages, in base pages
        polluted int64 pageblocks that hold pages of another mobility
        costly_index int64 `extfrag_index` of order 3, in thousandths
        healthy bool whether the zone has no problems
        verdict string problems of the zone, in words
    """),
    "verdicts": _table("""
        area string `crash`, `oom`, `owners`, `leaks`, `growth`, `frag`, `unread` or `rule`
        level string `bad`, `warning`, `note` or `good`
        finding string kind of finding, if the verdict is one
        text string the verdict in one sentence
        detail string explanation
        rule string name of the rule that matched
        link string URL or file that describes the cause
        pages int64 base pages that the rule matched
    """),
    "tags": _table("""
        tag string allocation tag as /proc/allocinfo prints it
        file string source file
        line int64 line
        module string module
        function string function
        bytes int64 bytes by the kernel's counter
        calls int64 calls by the kernel's counter
        inaccurate bool whether the kernel calls the counter inaccurate
        listed bool whether /proc/allocinfo lists it
        pages int64 base pages with this tag
        objects int64 slab objects with this tag
        object_bytes int64 bytes of these objects
        percpu_bytes int64 bytes of per-CPU memory with this tag
    """),
    "runs": _table("""
        status string `ok`, `failed`, `timeout`, `memory`, `lost`, `no symbols` or `unreadable`
        reason string reason of a failure, in one line
        dump string path of the dump
        dump_bytes int64 size of the dump, in bytes
        release string `OSRELEASE` of VMCOREINFO
        build_id string `BUILD-ID` of VMCOREINFO, in hex
        symbols string path of the vmlinux
        attempts int64 number of attempts
        seconds double duration of the last attempt
        peak_bytes int64 maximum resident memory of the last attempt, in bytes
        worker string worker that made the last attempt
        finished time end of the last attempt
        tool string version of drgn-pageowner
    """),
}

DATASET: Mapping[str, tuple[DatasetField, ...]] = {
    name: (_SNAPSHOT, *fields) for name, fields in _TABLES.items()
}
"""The columns of every table, in order, without the hive partitions."""

# Name of a function without a symbol.
_UNKNOWN = "?"


def frame_line(frame: Frame, name: str | None) -> bytes:
    """
    Return the bytes by which *frame* contributes to the ID of its stack.

    :param name: Name of the function without suffixes that compilers append; ``None`` if unknown.
    """
    line = f"{frame.module or ''}:{_UNKNOWN if name is None else name}\n"
    return line.encode("utf-8", "surrogateescape")


def stack_id(lines: Sequence[bytes]) -> str:
    """
    Return the ID of a stack: a hash of the names of its functions and modules, innermost first.

    Addresses, offsets, sizes and suffixes that compilers append are not hashed, so a stack has the
    same ID regardless of KASLR, host and build.

    :param lines: :func:`frame_line` of each frame.
    :return: 16 hexadecimal digits; the empty string if there are no frames.
    """
    return hashlib.blake2b(b"".join(lines), digest_size=8).hexdigest() if lines else ""


def day_of(crash_time: int | None) -> str | None:
    """Return the day (UTC) of *crash_time*, in seconds since 1970, as ``2026-01-31``."""
    if crash_time is None:
        return None
    try:
        return datetime.fromtimestamp(crash_time, UTC).strftime("%Y-%m-%d")
    except (OverflowError, OSError, ValueError):
        return None
