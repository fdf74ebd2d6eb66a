# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The table of record columns.

Everything that refers to the columns of a page_owner record by name is derived from
:data:`COLUMNS`: the dtypes of a :class:`~drgn_pageowner.model.records.Snapshot` and its
documentation, what the reader decodes, the fields of ``list`` in JSON and CSV, the keys of ``top
--by``, the filters, the columns of ``sql`` and of a saved snapshot, and the table in
docs/formats.md (``python docs/tables.py``).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

__all__ = (
    "COLUMNS",
    "FIELDS",
    "STORED",
    "Column",
    "Criterion",
    "Form",
    "Match",
    "Origin",
    "columns_of",
    "comm_text",
    "documentation",
    "name_at",
)


_DOC_WIDTH = 60


class Origin(enum.Enum):
    """Source of a column's values."""

    ENTRY = enum.auto()
    """The position and flags of the ``struct page_ext``; always available."""
    MEMBER = enum.auto()
    """The member of ``struct page_owner`` that has the column's name."""
    GFP_MASK = enum.auto()
    """The gfp mask of the record."""
    PAGE = enum.auto()
    """The ``struct page`` of the first page."""
    PAGEBLOCK = enum.auto()
    """The pageblock bitmap."""
    TAG = enum.auto()
    """The reference of the first page to its allocation tag."""
    TEXT = enum.auto()
    """A text file that is read instead of a dump."""
    SHOWN = enum.auto()
    """Another column (:attr:`Column.of`); computed when records are printed, never stored."""


class Form(enum.Enum):
    """Format in which a column's values are printed."""

    NUMBER = enum.auto()
    """A plain number; for ``bool`` columns, true or false."""
    PFN = enum.auto()
    """A PFN; values in adjacent rows are close together."""
    TIME = enum.auto()
    """Nanoseconds of ``local_clock()``; values in adjacent rows are close together."""
    HANDLE = enum.auto()
    """A ``depot_stack_handle_t``."""
    PAGES = enum.auto()
    """The number of base pages, ``2^order``, where the column has the order."""
    PAGEBLOCK = enum.auto()
    """The number of the pageblock that contains a PFN."""
    GFP = enum.auto()
    """The kernel's names of gfp flags."""
    MIGRATETYPE = enum.auto()
    """The kernel's name of a migratetype."""
    MIGRATE_REASON = enum.auto()
    """The kernel's name of an ``enum migrate_reason``."""
    PAGE_FLAGS = enum.auto()
    """The kernel's names of page flags."""
    ZONE = enum.auto()
    """The name of a zone; the column has its ``enum zone_type``."""
    COMM = enum.auto()
    """A task name."""
    MEMCG = enum.auto()
    """The path of a memory cgroup; the column has its index in ``Snapshot.memcgs``."""
    TAG = enum.auto()
    """An allocation tag as /proc/allocinfo prints it; the column has its index in
    ``Snapshot.tags``."""
    STACK = enum.auto()
    """The frames of a stack; the column has the stack's handle."""

    @property
    def is_text(self) -> bool:
        """Whether a value is printed as a string, rather than a number or a list."""
        return self in _TEXTS


_TEXTS = frozenset(
    (Form.GFP, Form.MIGRATETYPE, Form.MIGRATE_REASON, Form.PAGE_FLAGS, Form.ZONE, Form.COMM,
     Form.MEMCG, Form.TAG)
)  # fmt: skip


class Match(enum.Enum):
    """Comparison that a filter makes between a record and the filter's values."""

    NUMBERS = enum.auto()
    """Equal to one of several numbers."""
    NODES = enum.auto()
    """Equal to one of several node numbers, each of which must exist."""
    RANGE = enum.auto()
    """In a range of numbers, both ends included."""
    PFNS = enum.auto()
    """Overlapping a range of PFNs."""
    NAMES = enum.auto()
    """Equal to one of several names, which the kernel must know."""
    FLAGS = enum.auto()
    """Having all of several flags, given by name."""
    PATTERNS = enum.auto()
    """Matching one of several patterns with ``*``, ``?`` and ``[...]``."""


@dataclass(frozen=True)
class Criterion:
    """A filter: the option ``--NAME`` of ``list``, ``top``, ``watch`` and ``diff``."""

    name: str
    match: Match
    help: str


@dataclass(frozen=True)
class Column:
    """A column of the records, or a field that is computed from one when records are printed."""

    name: str
    """Its name in snapshots, JSON, CSV, SQL and Parquet files."""
    doc: str
    """The meaning of its values."""
    origin: Origin
    dtype: str = "int64"
    """The NumPy dtype."""
    form: Form = Form.NUMBER
    of: str = ""
    """For :attr:`Origin.SHOWN`, the column that it is computed from."""
    since: str = ""
    """First mainline release with this column; empty if all releases have it."""
    none: int | None = None
    """The value that means "none" (``null`` in JSON)."""
    none_if: str = ""
    """The condition under which a record has the value :attr:`none`."""
    listed: bool = True
    """Whether ``list --format json`` prints the column."""
    key: str = ""
    """Key for ``top --by``; empty if records cannot be grouped by the column."""
    criterion: Criterion | None = None
    """The filter that selects records by the column, if there is such a filter."""
    word: str = ""
    """The word before the value in /sys/kernel/debug/page_owner."""

    @property
    def always(self) -> bool:
        """Whether every snapshot has the column, even if it was not requested."""
        return self.origin is Origin.ENTRY or self.name == "order"

    @property
    def differences(self) -> bool:
        """Whether differences of adjacent rows are smaller than the values (for delta encoding)."""
        return self.form in (Form.PFN, Form.TIME)


# Origin.MEMBER columns are the members of struct page_owner in all kernel versions; the reader
# decodes those that this kernel has. order and gfp_mask have existed from the start, when the
# record was still part of struct page_ext:
# 48c96a368579 ("mm/page_owner: keep track of page owners") (in v3.19).
COLUMNS = (
    Column(
        "pfn", "first PFN of the allocation", Origin.ENTRY, "int64", Form.PFN, word="PFN",
        criterion=Criterion("pfn", Match.PFNS, "holding these PFNs"),
    ),
    Column(
        "order", "order of the allocation, which has `2^order` base pages", Origin.MEMBER, "uint8",
        key="order", criterion=Criterion("order", Match.RANGE, "of this order"), word="order",
    ),
    Column("pages", "number of base pages", Origin.SHOWN, form=Form.PAGES, of="order"),
    Column(
        "gfp_mask", "`gfp_t` of the allocation, as a number", Origin.MEMBER, "uint32", key="gfp",
        criterion=Criterion(
            "gfp", Match.FLAGS, "with these flags, as in GFP_KERNEL,__GFP_ZERO or a|b"
        ),
        word="mask",
    ),
    Column(
        "gfp_flags", "names of the flags in the gfp mask (kernels before v4.6 have no table of "
        "names; the names of v4.6 are used)", Origin.SHOWN, "uint32", Form.GFP, of="gfp_mask",
    ),
    Column(
        "migratetype", "migratetype that the gfp mask asked for", Origin.GFP_MASK, "uint8",
        Form.MIGRATETYPE, key="migratetype",
        criterion=Criterion(
            "migratetype", Match.NAMES, "of these migratetypes, as gfp_mask asked for"
        ),
    ),
    Column(
        "pageblock", "number of the pageblock that `pfn` is in", Origin.SHOWN, form=Form.PAGEBLOCK,
        of="pfn", word="Block",
    ),
    Column(
        "pageblock_migratetype", "migratetype of the pageblock", Origin.PAGEBLOCK, "int8",
        Form.MIGRATETYPE, none=-1, none_if="it cannot be read", word="type",
    ),
    Column(
        "page_flags", "`page.flags` of `pfn`", Origin.PAGE, "uint64", Form.PAGE_FLAGS, word="Flags"
    ),
    Column(
        "node", "number of the NUMA node", Origin.PAGE, "uint16", key="node",
        criterion=Criterion("node", Match.NODES, "on these nodes"),
    ),
    Column(
        "zone", "zone (`enum zone_type`)", Origin.PAGE, "uint8", Form.ZONE, key="zone",
        criterion=Criterion("zone", Match.NAMES, "in these zones"),
    ),
    # Added in Linux kernel commit 9cc7e96aa846 ("mm/page_owner: record timestamp and pid") (in
    # v5.11).
    Column(
        "pid", "thread that allocated it", Origin.MEMBER, "int32", since="v5.11", key="pid",
        criterion=Criterion("pid", Match.NUMBERS, "allocated by these threads"), word="pid",
    ),
    # Added in Linux kernel commit bf215eab785a ("mm/page_owner.c: record tgid") (in v5.18).
    Column(
        "tgid", "process that allocated it", Origin.MEMBER, "int32", since="v5.18", key="tgid",
        criterion=Criterion("tgid", Match.NUMBERS, "allocated by these processes"), word="tgid",
    ),
    # Added in Linux kernel commit 865ed6a32786 ("mm/page_owner: record task command name") (in
    # v5.18).
    Column(
        "comm", "name of the task that allocated it", Origin.MEMBER, "S16", Form.COMM,
        since="v5.18", key="comm",
        criterion=Criterion(
            "comm", Match.PATTERNS, "allocated by tasks of these names (* ? [] match)"
        ),
    ),
    Column(
        "ts_nsec", "time of the allocation", Origin.MEMBER, "uint64", Form.TIME, since="v5.11",
        word="ts",
    ),
    # Added in Linux kernel commit 866b48526217 ("mm/page_owner: record the timestamp of all pages
    # during free") (in v5.13).
    Column(
        "free_ts_nsec", "time of the last free of the page: before this allocation, or, of a freed "
        "page, after it", Origin.MEMBER, "uint64", Form.TIME, since="v5.13", word="free_ts",
    ),
    # Added in Linux kernel commit f2ca0b557107 ("mm/page_owner: use stackdepot to store
    # stacktrace") (in v4.8).
    Column(
        "handle", "`depot_stack_handle_t` of the allocation's stack (since v4.8); on older "
        "kernels, whose records contain the stack, a number that drgn-pageowner assigns: from 1 "
        "on, the same for every command on a dump", Origin.MEMBER, "uint32", Form.HANDLE,
        criterion=Criterion("handle", Match.NUMBERS, "with these stack depot handles"),
    ),
    Column(
        "allocated", "false only with `--freed`: the page was freed, and this is its last owner",
        Origin.ENTRY, "bool",
    ),
    # Added in Linux kernel commit 7cd12b4abfd2 ("mm, page_owner: track and print last migrate
    # reason") (in v4.6). An int before 6b4c54e3787b ("mm/page_owner.c: reduce
    # page_owner structure size") (in v4.15).
    Column(
        "last_migrate_reason", "reason of the last migration (`enum migrate_reason`)",
        Origin.MEMBER, "int16", Form.MIGRATE_REASON, since="v4.6", none=-1,
        none_if="it was never migrated",
    ),
    Column(
        "memcg", "memory cgroup that is charged", Origin.PAGE, "int32", Form.MEMCG, none=-1,
        none_if="none is charged", key="memcg",
        criterion=Criterion(
            "memcg", Match.PATTERNS, "charged to these memory cgroups (name or path; * ? [])"
        ),
    ),
    Column(
        "memcg_kind", "kind of the charge (`MemcgKind`)", Origin.PAGE, "uint8", listed=False
    ),
    Column(
        "stack", "frames of the allocation's stack as the kernel prints them, innermost first",
        Origin.SHOWN, form=Form.STACK, of="handle",
    ),
    # Added in Linux kernel commit 1b5c65b64cd4 ("mm/page_owner: record and dump free_pid and
    # free_tgid") (in v6.8).
    Column(
        "free_pid", "thread that freed it last", Origin.MEMBER, "int32", since="v6.8"
    ),
    Column(
        "free_tgid", "process that freed it last", Origin.MEMBER, "int32", since="v6.8"
    ),
    # Added in Linux kernel commit 8974558f49a6 ("mm, page_owner, debug_pagealloc: save and dump
    # freeing stack trace") (in v5.4).
    Column(
        "free_handle", "`depot_stack_handle_t` of the stack that freed it last", Origin.MEMBER,
        "uint32", Form.HANDLE, since="v5.4",
    ),
    # Added in Linux kernel commit 22d407b164ff ("lib: add allocation tagging support for memory
    # allocation profiling") (in v6.10).
    Column(
        "tag", "allocation tag: the source line that allocates", Origin.TAG, "int32",
        Form.TAG, since="v6.10", none=-1, none_if="it has none", key="tag",
        criterion=Criterion(
            "tag", Match.PATTERNS, "with these allocation tags (FILE:LINE func:F; * ? [] match)"
        ),
    ),
    Column(
        "fallback", "whether the pageblock has another migratetype than the allocation asked for; "
        "only for texts of kernels before v4.6", Origin.TEXT, "bool", listed=False,
    ),
    Column(
        "allocations", "number of records in the row; only for texts with sums, which may have a "
        "column `pages`, too", Origin.TEXT, "int64", listed=False,
    ),
)  # fmt: skip
"""Every column, in the order of the fields in JSON and CSV."""

STORED = {column.name: column for column in COLUMNS if column.origin is not Origin.SHOWN}
"""The columns that a snapshot can have, by name."""

FIELDS = tuple(column for column in COLUMNS if column.listed)
"""The fields of ``list --format json`` and ``csv``, in order."""


def columns_of(*origins: Origin) -> tuple[str, ...]:
    """Return the names of the columns whose values come from *origins*."""
    return tuple(column.name for column in COLUMNS if column.origin in origins)


def comm_text(comm: bytes) -> str:
    """Return a task name as text; bytes that are not UTF-8 become surrogates."""
    return comm.split(b"\0", 1)[0].decode(errors="surrogateescape")


def name_at(names: Sequence[str], index: int) -> str:
    """Return ``names[index]``, or ``unknown(INDEX)`` for a number that has no name."""
    return names[index] if 0 <= index < len(names) else f"unknown({index})"


def documentation() -> str:
    """Return the stored columns as a table in reStructuredText."""
    rows = [("column", "dtype", "since", "meaning")]
    for column in STORED.values():
        none = "" if column.none is None else f"; {column.none} if {column.none_if}"
        first, *more = wrap(column.doc.replace("`", "``") + none, _DOC_WIDTH)
        rows.append((column.name, f"``{column.dtype}``", column.since, first))
        rows += [("", "", "", line) for line in more]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    rule = " ".join("=" * width for width in widths)
    lines = [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join((rule, lines[0], rule, *lines[1:], rule))
