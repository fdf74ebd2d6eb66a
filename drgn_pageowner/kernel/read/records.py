# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a :class:`~drgn_pageowner.model.records.Snapshot`: the page_owner records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple, cast

import numpy as np
from drgn import FaultError

from drgn_pageowner.errors import NO_RECORDS, PageOwnerError
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.live import Changes, is_live
from drgn_pageowner.kernel.dump.parallel import in_order
from drgn_pageowner.kernel.linux.alloc_tag import (
    add_unlisted,
    page_references,
    profiling,
    read_tag_table,
)
from drgn_pageowner.kernel.linux.formats import read_text_formats
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms
from drgn_pageowner.kernel.linux.memcg import MemcgTable
from drgn_pageowner.kernel.linux.names import read_names
from drgn_pageowner.kernel.linux.page import compound_words, page_dtype, read_memmap
from drgn_pageowner.kernel.linux.page_ext import page_ext_layout, page_owner_state
from drgn_pageowner.kernel.linux.page_owner import (
    OWNER_MEMBERS,
    OwnerCounts,
    gfp_migratetype,
    owner_dtype,
    read_owner_records,
)
from drgn_pageowner.kernel.linux.pageblock import pageblock_types
from drgn_pageowner.kernel.linux.printk import local_clock_ns
from drgn_pageowner.kernel.linux.sections import (
    Section,
    find_sections,
    page_ext_stride,
    section_problems,
)
from drgn_pageowner.kernel.linux.stackdepot import depot_layout, depot_use, read_stacks
from drgn_pageowner.kernel.linux.trace import TRACE_MEMBERS, intern_traces
from drgn_pageowner.kernel.linux.zones import page_flag_fields
from drgn_pageowner.kernel.read.covered import CoveredPages
from drgn_pageowner.kernel.read.kernel import read_facts
from drgn_pageowner.kernel.read.pages import read_all_pages
from drgn_pageowner.kernel.read.passed import PassedColumns
from drgn_pageowner.kernel.read.tags import page_tag_references, read_tagged, tags_of
from drgn_pageowner.model.arrays import Array, Growing, Narrow, values_of
from drgn_pageowner.model.columns import STORED, Form, Origin, columns_of
from drgn_pageowner.model.heap import record_of_row
from drgn_pageowner.model.kernel import BitField
from drgn_pageowner.model.pages import Pages
from drgn_pageowner.model.records import Memcg, Snapshot, latest, memcgs_by_path
from drgn_pageowner.model.stacks import Stacks
from drgn_pageowner.model.tags import Tags, tag_stacks
from drgn_pageowner.progress import progress
from drgn_pageowner.units import are, counted, have

__all__ = (
    "ALL_COLUMNS",
    "PageColumns",
    "PageCounts",
    "RecordReader",
    "SectionRecords",
    "bad_handles",
    "check_found",
    "joined",
    "no_rows",
    "owner_columns",
    "problems_of",
    "read_records",
    "read_section",
    "read_sections",
    "record_layout",
    "size_of",
)

_MEMMAP_COLUMNS = frozenset(columns_of(Origin.PAGE))

ALL_COLUMNS = frozenset(STORED)
"""Every column that a snapshot can have."""


def read_records(
    kernel: Kernel, *, columns: Iterable[str] | None = None, freed: bool = False
) -> Snapshot:
    """
    Decode the page_owner records; if there are none, make records from allocation tags.

    :param columns: Columns to decode, of :data:`ALL_COLUMNS`; all by default. Fewer columns
        take less time: the memmap is only read for columns of ``struct page``. ``pfn``, ``order``
        and ``allocated`` are always decoded.
    :param freed: Also keep the records of freed pages (column ``allocated``).
    :raises PageOwnerError: if the kernel has no CONFIG_PAGE_OWNER, page_owner is off, or the tables
        needed to find the records cannot be read
    """
    return RecordReader(kernel, columns=columns, freed=freed).read()


class RecordReader:
    """Reader of the records that may begin before its result is needed."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        columns: Iterable[str] | None = None,
        freed: bool = False,
        covering: bool = False,
        narrow: bool = False,
    ) -> None:
        """
        The arguments are those of :func:`read_records`.

        :param covering: Whether to find the record that covers each page, too
            (:meth:`record_of_row`).
        :param narrow: Whether to hold PFNs in four bytes
            (:class:`~drgn_pageowner.model.arrays.Narrow`), unless that is too little, and
            ``allocated`` in none.
        """
        self._kernel = kernel
        self._all = columns is None
        self._wanted = ALL_COLUMNS if columns is None else frozenset(columns)
        self._covered: CoveredPages | None = None
        self._of_tags = (
            page_owner_state(kernel) in NO_RECORDS and page_references(kernel) is not None
        )
        if self._of_tags:
            return
        # Fail before anything is read.
        page_ext_layout(kernel)
        self._facts = read_facts(kernel)
        end = max((section.end_pfn for section in find_sections(kernel)), default=0)
        self._narrow = narrow and not freed and end <= np.iinfo(np.uint32).max
        self._counts, self._changes = OwnerCounts(), Changes()
        self._pages = PageColumns(kernel, self._wanted)
        if covering and not is_live(kernel.prog):
            size = size_of(kernel, self._pages)
            self._covered = CoveredPages(kernel, self._facts.max_pfn, size=size)
        self._parts: Iterator[dict[str, Array]] = read_sections(
            kernel, owner_columns(self._wanted), self._counts, self._changes, self._pages,
            freed=freed, covered=self._covered,
        )  # fmt: skip

    def begin(self) -> None:
        """
        Read the first records; if several processes read them, they are started and read on until
        :meth:`read` is called, as far as there is room for the results.
        """
        if not self._of_tags and not is_live(self._kernel.prog):
            # Processes are started for the second section.
            self._parts = chain(list(islice(self._parts, 2)), self._parts)

    def read(self) -> Snapshot:
        """
        Return the records.

        :raises PageOwnerError: if there are none, because their arrays are not in the dump
        """
        kernel, wanted = self._kernel, self._wanted
        if self._of_tags:
            return _read_tag_rows(kernel, wanted)
        facts, counts, changes, pages = self._facts, self._counts, self._changes, self._pages
        dtype = owner_dtype(kernel)
        result = _collected(_narrowed(self._parts) if self._narrow else self._parts)
        check_found(counts)
        if not result:
            result = no_rows(dtype, owner_columns(wanted))
        elif self._narrow:
            result["allocated"] = np.broadcast_to(np.True_, len(result["pfn"]))
            result["pfn"] = cast(Array, Narrow(result["pfn"]))
        memcgs = pages.finish(result)
        if is_live(kernel.prog):
            # Read the clock again after the records, because ages and rates are relative to it.
            facts.now_ns = local_clock_ns(kernel)
        pages.finish_migratetype(result)
        problems = [*facts.problems, *section_problems(kernel)]
        problems += [*problems_of(counts, pages), *changes.problems("records")]
        coverage = asdict(counts)
        coverage["live"] = (
            {"page_ext": asdict(changes), "memmap": asdict(pages.counts.changes)}
            if is_live(kernel.prog)
            else None
        )
        stacks, depot = _read_stacks(kernel, result, coverage, problems)
        symbolizer = load_kallsyms(kernel)
        tags = pages.take_tags(result)

        facts.now_ns = latest(facts.now_ns, result)
        facts.formats = read_text_formats(kernel, dtype.names or ()) if self._all else None
        facts.layout = record_layout(kernel, depot)
        return Snapshot(
            facts=facts,
            names=read_names(kernel),
            columns=result,
            stacks=stacks,
            symbolizer=symbolizer,
            memcgs=memcgs,
            coverage=coverage,
            problems=kernel.problems(problems),
            tags=tags,
        )

    def record_of_row(self, pages: Pages, records: Snapshot) -> Array:
        """
        Return the record that covers each page, once after :meth:`read`.

        :param records: The result of :meth:`read`.
        :return: ``int32``, a row per page; -1 for free pages and pages without a record.
        """
        found = self._covered.take(pages) if self._covered is not None else None
        return record_of_row(pages, records) if found is None else found


def _narrowed(parts: Iterable[dict[str, Array]]) -> Iterator[dict[str, Array]]:
    """Yield *parts* with PFNs of four bytes, and without ``allocated``, which is always true."""
    for part in parts:
        del part["allocated"]
        yield part | {"pfn": part["pfn"].astype(np.uint32)}


def _collected(parts: Iterable[dict[str, Array]]) -> dict[str, Array]:
    """
    Concatenate the columns of *parts*, each part as soon as there is one.

    :param parts: Columns by name, all with the same names; they are emptied.
    :return: Columns; none if there are no parts.
    """
    columns: dict[str, Growing] = {}
    several: dict[str, list[Array]] = {}
    for part in parts:
        for name in list(part):
            values = part.pop(name)
            if values.ndim > 1:
                several.setdefault(name, []).append(values)
                continue
            if name not in columns:
                columns[name] = Growing(values.dtype)
            columns[name].add(values)
    result = {name: columns.pop(name).take() for name in list(columns)}
    result |= {name: np.concatenate(several.pop(name)) for name in list(several)}
    return result


def _read_tag_rows(kernel: Kernel, wanted: frozenset[str]) -> Snapshot:
    """
    Make a snapshot with a row for every allocation whose first page has a tag.

    The stack of each row is one frame: the function of the tag.
    """
    facts, names = read_facts(kernel), read_names(kernel)
    memory = read_all_pages(kernel, columns=("head",))
    tagged = read_tagged(kernel, memory.pages, None)
    everything = {
        "pfn": memory.pages.pfns(tagged.row),
        "order": np.log2(tagged.pages).astype(np.uint8),
        "tag": tagged.tag,
        "handle": (tagged.tag + 1).astype(np.uint32),
        "allocated": np.ones(len(tagged.row), bool),
    }
    pages = PageColumns(kernel, wanted - {"tag"})
    parts = []
    for section in find_sections(kernel):
        low, high = np.searchsorted(everything["pfn"], (section.start_pfn, section.end_pfn))
        if low < high:
            part = {name: column[low:high] for name, column in everything.items()}
            pages.read(section, part, pages.counts)
            parts.append(part)
    result = joined(parts) if parts else everything
    memcgs = pages.finish(result)
    stacks, frames, lines = tag_stacks(tagged.tags)
    facts.layout = {"tags": profiling(kernel).state}
    why = "page_owner is off" if facts.page_owner == "off" else "this kernel has no page_owner"
    return Snapshot(
        facts=facts,
        names=names,
        columns=result,
        stacks=stacks,
        memcgs=memcgs,
        problems=[
            *facts.problems,
            f"{why}: rows are allocations of pages that bear a tag, and a stack is the tag's "
            "function alone",
            *tagged.problems,
        ],
        source_lines=lines,
        tags=tagged.tags,
        _frames=frames,
    )


class SectionRecords(NamedTuple):
    """The records of one section, and what was counted on the way."""

    columns: dict[str, Array]
    counts: OwnerCounts
    changes: Changes
    pages: PageCounts
    number: int = 0
    whole: bool = True
    """What :meth:`CoveredPages.fill` returned."""

    def add_to(self, counts: OwnerCounts, changes: Changes, pages: PageCounts) -> None:
        """Add what was counted to the numbers of other sections."""
        counts.add(self.counts)
        changes.add(self.changes)
        pages.add(self.pages)


def read_sections(
    kernel: Kernel,
    columns: frozenset[str],
    counts: OwnerCounts,
    changes: Changes,
    pages: PageColumns,
    *,
    freed: bool,
    covered: CoveredPages | None = None,
) -> Iterator[dict[str, Array]]:
    """
    Yield the records of each section that has some, in PFN order, with the columns of *pages*.

    If there is much to read, several processes read it.

    :param columns: See :func:`~drgn_pageowner.kernel.linux.page_owner.read_owner_records`.
    :param counts: The numbers of pages of all sections are added to this.
    :param changes: The numbers of records that a running kernel changed are added to this.
    :param freed: Whether to return records of freed pages, too.
    :param covered: The pages of the records are marked in this.
    """

    def read(section: Section) -> SectionRecords:
        found = read_section(kernel, section, columns, pages, freed=freed)
        if found.columns and covered is not None:
            pfn, order = found.columns["pfn"], found.columns["order"]
            return found._replace(number=len(pfn), whole=covered.fill(section, pfn, order))
        return found

    sections = find_sections(kernel)
    results = in_order(kernel, read, sections, size=size_of(kernel, pages))
    results = progress(results, description="page_ext", total=len(sections), unit=" section")
    for section, found in zip(sections, results, strict=True):
        if covered is not None:
            covered.add(section, found.number, found.whole)
        found.add_to(counts, changes, pages.counts)
        if found.columns:
            yield found.columns


def read_section(
    kernel: Kernel, section: Section, columns: frozenset[str], pages: PageColumns, *, freed: bool
) -> SectionRecords:
    """
    Read the records of one section. The parameters are those of :func:`read_sections`.

    :return: Without columns if the section has no records.
    """
    found = SectionRecords(PassedColumns(), OwnerCounts(), Changes(), PageCounts())
    part = read_owner_records(kernel, section, columns, found.counts, found.changes, freed=freed)
    if part and len(part["pfn"]):
        found.columns.update(part)
        pages.read(section, found.columns, found.pages)
        pages.add_migratetype(found.columns)
    return found


def size_of(kernel: Kernel, pages: PageColumns) -> int:
    """Return the number of bytes that :func:`read_sections` reads."""
    size = sum(s.end_pfn - s.start_pfn for s in find_sections(kernel) if s.page_ext)
    return size * (page_ext_stride(kernel) + pages.bytes_per_page)


def owner_columns(wanted: frozenset[str]) -> frozenset[str]:
    """Return the members of ``struct page_owner`` that the columns *wanted* need."""
    columns = (wanted & frozenset(OWNER_MEMBERS)) | {"order"}
    if "migratetype" in wanted:
        columns |= {"gfp_mask"}
    if "handle" in wanted:
        columns |= frozenset(TRACE_MEMBERS)
    return columns


def check_found(counts: OwnerCounts) -> None:
    """
    Check, when all sections have been read, that the dump has a page_ext array.

    :raises PageOwnerError: if it has none
    """
    if counts.covered and counts.missing == counts.covered:
        raise PageOwnerError(
            "none of the page_ext arrays is in this dump: it was filtered or cut off; "
            "take it with makedumpfile -d 31 or less, which keeps them"
        )


def joined(parts: list[dict[str, Array]]) -> dict[str, Array]:
    """
    Concatenate the columns of *parts*.

    :param parts: Columns by name, all with the same names; they are emptied, so that no more than
        one column is in memory twice.
    """
    return {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}


def _read_stacks(
    kernel: Kernel, columns: dict[str, Array], coverage: dict[str, Any], problems: list[str]
) -> tuple[Stacks, str | None]:
    """
    Read the stacks of the records; return them and the name of the stack depot's layout.

    If the records contain the stacks themselves, these are replaced by ``handle`` in *columns*.
    """
    if "trace_entries" not in columns:
        return _read_depot(kernel, columns, coverage, problems)
    columns["handle"], stacks, bad = intern_traces(
        columns.pop("nr_entries"), columns.pop("trace_entries")
    )
    if bad:
        problems.append(f"{bad} records claim more frames than fit: only those that do are shown")
    return stacks, None


def _read_depot(
    kernel: Kernel, columns: dict[str, Array], coverage: dict[str, Any], problems: list[str]
) -> tuple[Stacks, str | None]:
    """
    Read the stacks of the handles in *columns*; return them and the name of the depot's layout.

    Adds the size of the depot to *coverage*, and its unreadable parts to *problems*.
    """
    handles = [
        columns[column.name]
        for column in STORED.values()
        if column.form is Form.HANDLE and column.name in columns
    ]
    if not handles:
        return Stacks.empty(), None
    try:
        depot = depot_layout(kernel)
        unique = values_of(handles)
        stacks, bad = read_stacks(kernel, unique)
        if len(bad) and is_live(kernel.prog):
            # On a running kernel, stacks saved during the first attempt are found by the second.
            stacks, bad = read_stacks(kernel, unique)
        if len(bad):
            records = int(np.isin(columns["handle"], bad).sum()) if "handle" in columns else 0
            problems.append(bad_handles(len(bad), records))
        coverage["stack_depot"] = depot_use(kernel)
    except (PageOwnerError, FaultError) as error:
        problems.append(f"the stack depot cannot be read, so stacks are unknown: {error}")
        return Stacks.empty(), None
    return stacks, depot.name


@dataclass
class PageCounts:
    """Accumulates what was noticed while columns of ``struct page`` were read."""

    missing: int = 0
    """Number of records whose ``struct page`` is not in the dump."""
    changes: Changes = field(default_factory=Changes)
    """The numbers of pages that a running kernel changed."""

    def add(self, other: PageCounts) -> None:
        """Add the numbers of other pages."""
        self.missing += other.missing
        self.changes.add(other.changes)


class PageColumns:
    """Reader of the columns from ``struct page`` and the pageblock bitmaps."""

    def __init__(self, kernel: Kernel, wanted: frozenset[str]) -> None:
        self._kernel = kernel
        self._fields = {field.name: field for field in page_flag_fields(kernel)}
        self._wanted = wanted
        self._memcg = bool(wanted & {"memcg", "memcg_kind"})
        members = ("flags", "memcg_data", "compound_head") if self._memcg else ("flags",)
        self._dtype = page_dtype(kernel, members)
        self._memcg = self._memcg and "memcg_data" in (self._dtype.names or ())
        self._memmap = bool(wanted & _MEMMAP_COLUMNS)
        self._table: MemcgTable | None = None
        self._tags = "tag" in wanted and page_references(kernel) is not None
        self.counts = PageCounts()
        """What was noticed in all sections."""

    @property
    def bytes_per_page(self) -> int:
        """Number of bytes of a ``struct page`` if the columns need it, otherwise 0."""
        return self._dtype.itemsize if self._memmap else 0

    def read(self, section: Section, part: dict[str, Array], counts: PageCounts) -> None:
        """
        Add the columns to *part*, whose records are those of *section*.

        :param counts: What is noticed is added to this.
        """
        pfn = part["pfn"]
        if self._memmap:
            first, last = int(pfn[0]), int(pfn[-1]) + 1
            rows, bulk = read_memmap(
                self._kernel, section, self._dtype, first, last, counts.changes
            )
            for offset, size in bulk.missing:
                low = first + offset // self._dtype.itemsize
                high = first + (offset + size) // self._dtype.itemsize
                counts.missing += int(np.count_nonzero((pfn >= low) & (pfn < high)))
            flags = rows["flags"][pfn - first]
            self._flag_columns(flags, part)
            if self._memcg:
                # In a tail page, the word at memcg_data is the folio's number of pages.
                chosen = rows[pfn - first]
                head = (compound_words(self._kernel, chosen) & 1) == 0
                part["memcg_data"] = chosen["memcg_data"] * head
        if "pageblock_migratetype" in self._wanted:
            part["pageblock_migratetype"] = pageblock_types(self._kernel, section, pfn)
        if self._tags:
            number = int(pfn[-1]) + 1 - section.start_pfn
            references = page_tag_references(self._kernel, section, number)
            part["tag"] = references[pfn - section.start_pfn]

    def add_migratetype(self, part: dict[str, Array]) -> None:
        """Add the migratetypes of the records' gfp masks, and drop these if nothing else needs
        them."""
        if "migratetype" in self._wanted:
            part["migratetype"] = gfp_migratetype(self._kernel, part["gfp_mask"])
            if "gfp_mask" not in self._wanted:
                del part["gfp_mask"]

    def finish_migratetype(self, result: dict[str, Array]) -> None:
        """Add the migratetypes if there are no records, and put them last."""
        if "migratetype" in self._wanted:
            if "migratetype" not in result:
                self.add_migratetype(result)
            result["migratetype"] = result.pop("migratetype")

    def _flag_columns(self, flags: Array, part: dict[str, Array]) -> None:
        if "page_flags" in self._wanted:
            part["page_flags"] = flags.astype(np.uint64)
        for name in ("node", "zone"):
            if name in self._wanted:
                field: BitField | None = self._fields.get(name)
                value = field.of(flags) if field is not None else np.zeros(len(flags))
                part[name] = value.astype(STORED[name].dtype)

    def take_tags(self, result: dict[str, Array]) -> Tags | None:
        """
        Replace the addresses in column ``tag`` of *result* by indices of tags.

        :return: The tags; ``None`` if *result* has no such column.
        """
        references = result.pop("tag", None)
        if references is None:
            return None
        table = add_unlisted(self._kernel, read_tag_table(self._kernel), references)
        result["tag"] = np.maximum(table.number(references), -1).astype(np.int32)
        return tags_of(self._kernel, table)

    def finish(self, result: dict[str, Array]) -> tuple[Memcg, ...]:
        """
        Replace ``memcg_data`` in *result* by the columns ``memcg`` and ``memcg_kind``.

        :return: The memory cgroups, sorted by path, that column ``memcg`` has indices of.
        """
        data = result.pop("memcg_data", None)
        if data is None:
            return ()
        if self._table is None:
            self._table = MemcgTable(self._kernel)
        result["memcg"], result["memcg_kind"] = self._table.columns(data)
        memcgs, result["memcg"] = memcgs_by_path(self._table.memcgs, result["memcg"])
        return memcgs

    @property
    def unknown_memcgs(self) -> int:
        return self._table.unknown if self._table is not None else 0

    @property
    def memcgs_in_doubt(self) -> set[str]:
        """
        Return the paths of memory cgroups of which it is unknown whether the kernel's own
        page_owner file prints their names.
        """
        return self._table.in_doubt if self._table is not None else set()


def record_layout(kernel: Kernel, depot: str | None) -> dict[str, Any]:
    """
    Return :attr:`Facts.layout <drgn_pageowner.model.kernel.Facts.layout>` of page_owner records.

    :param depot: Name of the layout of stack depot handles; ``None`` if there is no stack depot.
    """
    layout = page_ext_layout(kernel)
    return {
        "page_ext_size": layout.stride,
        "page_owner_offset": layout.owner_offset,
        "record": layout.owner_type,
        "members": _members_in_order(owner_dtype(kernel)),
        "stack_depot": depot,
    }


def _members_in_order(dtype: np.dtype[np.void]) -> list[str]:
    """Return the members of a record that are decoded, in the order in which they are in memory."""
    fields = dict(dtype.fields or {})
    known = (name for name in (*OWNER_MEMBERS, *TRACE_MEMBERS) if name in fields)
    return sorted(known, key=lambda name: fields[name][1])


def no_rows(dtype: np.dtype[np.void], columns: frozenset[str]) -> dict[str, Array]:
    """Return the columns of records, without rows."""
    fields = dict(dtype.fields or {})
    names = (columns & fields.keys()) | {"pfn", "allocated"}
    return {
        name: np.zeros(0, STORED[name].dtype if name in STORED else fields[name][0])
        for name in names
    }


def problems_of(counts: OwnerCounts, pages: PageColumns) -> list[str]:
    """Return a line for each part of the records that could not be read."""
    problems = []
    if counts.missing:
        problems.append(
            f"{counts.missing} of {counts.covered} pages have no readable page_ext: "
            "the dump lacks that memory"
        )
    if counts.bad_order:
        problems.append(
            f"{counted(counts.bad_order, 'record')} {have(counts.bad_order)} an impossible order: "
            "each is counted as one page"
        )
    missing = pages.counts.missing
    if missing:
        problems.append(
            f"{counted(missing, 'record')} {have(missing)} no readable struct page: "
            "flags, zone and memory cgroup are unknown"
        )
    if pages.unknown_memcgs:
        problems.append(
            f"{pages.unknown_memcgs} values of page.memcg_data point to no memory cgroup"
        )
    if pages.memcgs_in_doubt:
        problems.append(
            "whether this kernel's own text names the memory cgroup "
            f"{', '.join(sorted(pages.memcgs_in_doubt))} of pages charged to it directly is not "
            "known: 6.12.114 does not, and neither does list --format debugfs"
        )
    return problems


def bad_handles(number: int, records: int) -> str:
    """
    Say that the stack depot lacks some stacks.

    :param number: Number of handles without a stack.
    :param records: Number of records with these handles.
    """
    return (
        f"{counted(number, 'stack handle')} (of {counted(records, 'record')}) {are(number)} "
        "not in the stack depot: what they stand for is unknown"
    )
