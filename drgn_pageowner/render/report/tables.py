# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the tables of a report, for any format: every number as text and as a sort key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from drgn_pageowner.analysis.account.holders import Holder, Holders
from drgn_pageowner.analysis.compare.diff import Change, Diff
from drgn_pageowner.analysis.leaks.leaks import LeakGroup, Leaks
from drgn_pageowner.analysis.leaks.owners import LeakOwner, leak_owners
from drgn_pageowner.analysis.owners.allocator import allocator_name, without_offset
from drgn_pageowner.analysis.owners.group import Group, Top
from drgn_pageowner.analysis.report import Frag, Report
from drgn_pageowner.model.heap import FileUse
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.render.blockmap import CELL_CLASSES, cell_class
from drgn_pageowner.render.holders import classes_text, command_text, holder_text
from drgn_pageowner.render.leaks import pfns_text, tasks_text
from drgn_pageowner.render.table import age, ages, are, counted, pages_size, share
from drgn_pageowner.render.text import kernel_text

__all__ = ("Row", "Table", "TableCell", "tables")

_LEAKS = 200
# Maximum number of groups of an owner for which the evidence is listed.
_GROUPS = 4
_CHANGES = 100


@dataclass(frozen=True)
class TableCell:
    """A cell of a table."""

    text: str
    value: float | str | None = None
    """The sort key; the text itself if there is none."""
    code: bool = False
    """Whether the text is a name from the kernel, to be shown as code."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    cells: Sequence[TableCell]
    notes: Sequence[str] = ()
    """Sentences about the row."""
    stack: Sequence[str] = ()
    """Frames, innermost first."""


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    name: str
    title: str
    columns: Sequence[str]
    numeric: Sequence[int]
    """Indices of the columns that contain numbers."""
    rows: Sequence[Row]
    whole: int = 0
    """Number of rows before the smallest ones were omitted."""
    note: str = ""
    notes: Sequence[str] = field(default_factory=list)


def number(value: int | None) -> TableCell:
    """Return a cell with digits in groups of three."""
    return TableCell("-" if value is None else f"{value:,}", value)


def name(text: str | None) -> TableCell:
    """Return a cell with a name from the kernel."""
    return TableCell(text if text else "-", code=bool(text))


def size(pages: int, facts: Facts) -> TableCell:
    """Return a cell with the size of base pages."""
    return TableCell(pages_size(pages * facts.page_size), pages * facts.page_size)


def part(one: int, whole: int) -> TableCell:
    """Return a cell with a percentage."""
    return TableCell(share(one, whole), one / whole if whole else 0.0)


def tables(report: Report) -> dict[str, Table]:
    """Return every table of a report, by name, in the order of the sections."""
    found: list[Table] = []
    if report.account is not None:
        found += _account(report)
    found += [_holders(one, report.facts) for one in report.holders.values()]
    if report.files:
        found.append(_files(report.files, report.facts))
    found += [_top(key, top, report.facts) for key, top in _in_order(report)]
    if report.leaks is not None:
        found.append(_leaks(report.leaks, report.facts))
    if report.diff is not None:
        found.append(_changes(report.diff, report.facts))
    if report.ages:
        found.append(_ages(report))
    if report.frag is not None:
        found += _frag(report.frag, report.facts)
    return {table.name: table for table in found}


def _account(report: Report) -> Iterator[Table]:
    account, facts = report.account, report.facts
    assert account is not None
    rows, caches = [], []
    for kind in account.classes:
        counter = kind.counter
        cells = [
            TableCell(kind.name),
            number(kind.pages),
            size(kind.pages, facts),
            part(kind.pages, account.present),
            number(counter.pages if counter is not None else None),
            number(counter.difference if counter is not None else None),
            TableCell(counter.name if counter is not None else "-"),
        ]
        rows.append(Row(cells, [counter.note] if counter is not None and counter.note else []))
        caches += kind.slab_caches or []
    columns = ("class", "pages", "size", "share", "kernel's count", "difference", "counter")
    yield Table("classes", "Every page in one class", columns, (1, 2, 3, 4, 5), rows, len(rows))
    if caches:
        whole = sum(pages for _, pages in caches)
        listed = [
            Row([name(cache), number(pages), size(pages, facts), part(pages, whole)])
            for cache, pages in caches
        ]
        headers = ("cache", "pages", "size", "share of slab")
        yield Table("caches", "Slab caches", headers, (1, 2, 3), listed, len(listed))


_HOLDER_TITLES = {
    "process": "Processes, each with all its threads",
    "driver": "Drivers: modules, each with the memory that it lies in",
}
_CLASSES = 48


def _holders(result: Holders, facts: Facts) -> Table:
    grouped = any(one.cgroup is not None for one in result.holders)
    rows = []
    for one in result.holders:
        oldest = None
        if result.now_ns is not None and one.oldest_ns is not None:
            oldest = result.now_ns - one.oldest_ns
        cells = [
            TableCell(holder_text(one, result.by)),
            number(one.pages),
            size(one.pages, facts),
            part(one.pages, result.pages),
            TableCell(classes_text(one.classes, facts.page_size, _CLASSES)),
            TableCell(ages(one.oldest_ns, one.newest_ns, result.now_ns), oldest),
        ]
        if grouped:
            charged = one.cgroup_pages
            cells.append(TableCell(one.cgroup or "-"))
            cells.append(TableCell("-") if charged is None else size(charged, facts))
        command = command_text(one)
        more = [f"Command line: {command}"] if command is not None else []
        rows.append(Row(cells, [*more, *_all_classes(one, facts)]))
    columns = [result.by, "pages", "size", "share", "holds", "age"]
    numeric = [1, 2, 3, 5]
    if grouped:
        columns += ["cgroup", "charged to it"]
        numeric.append(7)
    note = "By who allocated it, in all classes; the share is that of all recorded pages."
    if result.threads_apart:
        note += " This kernel does not record the process of a thread: threads are apart."
    title = _HOLDER_TITLES[result.by]
    return Table(result.by, title, columns, numeric, rows, result.number_of_holders, note)


def _files(files: Sequence[FileUse], facts: Facts) -> Table:
    rows = [
        Row(
            [
                name(file.path) if file.path is not None else TableCell("(no path)"),
                number(file.pages),
                size(file.pages, facts),
                TableCell(file.filesystem or "-"),
                TableCell("-" if file.inode is None else str(file.inode), file.inode),
            ]
        )
        for file in files
    ]
    columns = ("file", "pages", "size", "file system", "inode")
    note = "Page cache and shared memory, whoever read or wrote it."
    return Table("files", "Files in memory", columns, (1, 2, 4), rows, len(rows), note)


def _all_classes(one: Holder, facts: Facts) -> list[str]:
    """Return one sentence with all classes of a holder's memory; empty if there is only one
    class."""
    if len(one.classes) < 2:
        return []
    return [
        ", ".join(f"{kind} {pages_size(n * facts.page_size)}" for kind, n in one.classes.items())
    ]


_TOPS = {
    "allocator": ("Owners by function", "allocator"),
    "stack": ("Owners by stack", "allocator"),
    "tag": ("Owners by allocation tag", "tag"),
    "comm": ("Owners by task", "task"),
    "module": ("Owners by module", "module"),
}


def _in_order(report: Report) -> Iterator[tuple[str, Top]]:
    for key in _TOPS:
        top = report.tops.get(key)
        # Skip the table if no memory belongs to a module.
        if top is not None and any(group.key[key] for group in top.groups):
            yield key, top


def _top(key: str, top: Top, facts: Facts) -> Table:
    title, column = _TOPS[key]
    rows = [_group(key, group, top, facts) for group in top.groups]
    columns = (column, "pages", "size", "share", "allocations", "age", "handle")
    return Table(key, title, columns, (1, 2, 3, 4, 5, 6), rows, top.number_of_groups)


def _group(key: str, group: Group, top: Top, facts: Facts) -> Row:
    who = group.key[key] if key != "stack" else allocator_name(group.stack)
    if key == "module" and not who:
        who = "(no module)"
    oldest = None if top.now_ns is None or group.oldest_ns is None else top.now_ns - group.oldest_ns
    return Row(
        [
            name(str(who) if who else "(no stack)"),
            number(group.pages),
            size(group.pages, facts),
            part(group.pages, top.pages),
            number(group.allocations),
            TableCell(ages(group.oldest_ns, group.newest_ns, top.now_ns), oldest),
            TableCell(str(group.handle or "-"), group.handle),
        ],
        # The largest stack of a task or module tells little; leaving it out keeps the page small.
        stack=[str(frame) for frame in group.stack] if key in ("allocator", "stack") else (),
    )


def _leaks(leaks: Leaks, facts: Facts) -> Table:
    owners = leak_owners(leaks.groups, "allocator")
    rows = [_leak(owner, leaks, facts) for owner in owners[:_LEAKS]]
    columns = ("owner", "pages", "size", "allocations", "stacks", "age", "confidence", "verdict")
    note = (
        f"{counted(leaks.reachable_pages, 'page')} that somebody must hold "
        f"{are(leaks.reachable_pages)} reachable, {leaks.accounted_pages:,} "
        f"{are(leaks.accounted_pages)} held otherwise (processes, files, page tables, stacks)."
    )
    return Table("leaks", "Leaked and known only by PFN", columns, (1, 2, 3, 4, 5), rows,
                 len(owners), note)  # fmt: skip


_CONFIDENCE = {"high": 2, "medium": 1, "low": 0}


def _leak(owner: LeakOwner, leaks: Leaks, facts: Facts) -> Row:
    oldest = None
    if leaks.now_ns is not None and owner.oldest_ns is not None:
        oldest = leaks.now_ns - owner.oldest_ns
    notes = [note for group in owner.groups[:_GROUPS] for note in _about(group)]
    largest = max(owner.groups, key=lambda group: group.pages)
    verdict = owner.verdict + (f" and {owner.verdicts - 1} more" if owner.verdicts > 1 else "")
    return Row(
        [
            name(owner.owner),
            number(owner.pages),
            size(owner.pages, facts),
            number(owner.allocations),
            number(len({group.handle for group in owner.groups})),
            TableCell(ages(owner.oldest_ns, owner.newest_ns, leaks.now_ns), oldest),
            TableCell(owner.confidence, _CONFIDENCE[owner.confidence]),
            TableCell(verdict),
        ],
        list(dict.fromkeys(notes)),
        [str(frame) for frame in largest.stack],
    )


def _about(group: LeakGroup) -> Iterator[str]:
    """Yield the evidence about a group of lost allocations, a sentence each."""
    yield "; ".join(group.reasons)
    if group.tasks:
        yield f"by {tasks_text(group.tasks)}"
    if group.tag is not None:
        yield f"tag {group.tag}"
    if group.fingerprint is not None:
        yield f"content: {group.fingerprint.text}"
    handle = f"handle {group.handle}: " if group.handle else ""
    yield f"{handle}{pfns_text(group.pfns)}"


def _changes(diff: Diff, facts: Facts) -> Table:
    # Two boots have no rates.
    rates = any(change.pages_per_hour is not None for change in diff.changes)
    rows = [_change(change, facts, rates) for change in diff.changes[:_CHANGES]]
    columns = ("allocator", "growth", "size", *["an hour"] * rates, "before", "after",
               "allocations", "state")  # fmt: skip
    known = diff.relation
    between = f", {age(abs(known.elapsed_ns))} apart" if known.elapsed_ns is not None else ""
    note = (
        f"In pages, by stack. Before: {kernel_text(diff.before.release)}, "
        f"{counted(diff.before.total.pages, 'page')}; "
        f"after: {counted(diff.after.total.pages, 'page')}. "
        f"{'One boot' if known.same_boot else 'Not one boot'} ({known.why}){between}."
    )
    whole = sum(diff.states.values()) - diff.states.get("same", 0)
    return Table(
        "changes", "Growth by stack", columns, range(1, len(columns) - 1), rows, whole, note
    )


def _change(change: Change, facts: Facts, rates: bool) -> Row:
    rate = change.pages_per_hour
    return Row(
        [
            name(allocator_name(change.stack) or "(no stack)"),
            TableCell(f"{change.growth.pages:+,}", change.growth.pages),
            size(change.growth.pages, facts),
            *[TableCell("-" if rate is None else f"{rate:+,.0f}", rate)] * rates,
            number(change.before.pages),
            number(change.after.pages),
            number(change.growth.allocations),
            TableCell(change.state),
        ],
        stack=[str(frame) for frame in change.stack],
    )


def _ages(report: Report) -> Table:
    bands = report.ages or []
    whole = sum(band.pages for band in bands)
    rows, so_far = [], 0
    for place, band in enumerate(bands):
        so_far += band.pages
        most = ", ".join(
            f"{kind} {pages_size(pages * report.facts.page_size)}"
            for kind, pages in list(band.classes.items())[:4]
        )
        cells = [
            TableCell(band.age, place),
            number(band.pages),
            size(band.pages, report.facts),
            part(band.pages, whole),
            part(so_far, whole),
            number(band.allocations),
            TableCell(most or "-"),
        ]
        rows.append(Row(cells))
    columns = ("age", "pages", "size", "share", "up to here", "allocations", "largest classes")
    return Table("ages", "Age of what is allocated", columns, (0, 1, 2, 3, 4, 5), rows, len(rows))


def _frag(frag: Frag, facts: Facts) -> Iterator[Table]:
    yield _zones(frag, facts)
    yield _free(frag, facts)
    yield _sizes(frag, facts)
    yield _culprits(frag, facts)
    yield _map(frag)


def _zones(frag: Frag, facts: Facts) -> Table:
    rows = [
        Row([number(z.node), TableCell(z.zone), number(z.managed), number(z.free),
             part(z.free, z.managed),
             TableCell(" / ".join(f"{mark:,}" for mark in z.watermarks), z.watermarks[0]),
             number(z.largest_free_run),
             TableCell(f"{z.unusable / 1000:.3f}", z.unusable), number(z.polluted),
             TableCell(z.verdict)])
        for z in frag.zones
    ]  # fmt: skip
    columns = ("node", "zone", "managed", "free", "free share", "min / low / high",
               "largest run", "unusable", "polluted", "verdict")  # fmt: skip
    note = (
        "In pages. Unusable is the share of free memory that cannot serve an allocation of a "
        "pageblock; polluted are Movable and CMA pageblocks with unmovable pages in them."
    )
    return Table("zones", "Zones", columns, (0, 2, 3, 4, 5, 6, 7, 8), rows, len(rows), note)


def _free(frag: Frag, facts: Facts) -> Table:
    orders = range(facts.max_page_order + 1)
    rows = [
        Row(
            [
                number(zone.node),
                TableCell(zone.zone),
                TableCell(kind),
                *(number(count) for count in counts),
            ]
        )
        for zone in frag.zones
        for kind, counts in zone.free_by_type.items()
        if any(counts)
    ]
    columns = ("node", "zone", "type", *map(str, orders))
    numeric = (0, *range(3, 3 + len(orders)))
    return Table("free", "Free blocks by order", columns, numeric, rows, len(rows))


def _sizes(frag: Frag, facts: Facts) -> Table:
    rows = [
        Row([TableCell(pages_size(facts.page_size << s.order), s.order), number(s.order),
             number(s.blocks), number(s.free), number(s.movable), number(s.blocked),
             number(s.unknown), number(s.in_the_way), number(s.for_half)])
        for s in frag.sizes
    ]  # fmt: skip
    columns = ("block", "order", "blocks", "free", "movable", "blocked", "unknown",
               "unmovable pages", "in the way of half")  # fmt: skip
    note = (
        "A movable block could be freed by compaction. The last column is the fewest pages that "
        "would have to go to free half of the blocked ones."
    )
    return Table("sizes", "Large blocks", columns, range(9), rows, len(rows), note)


def _culprits(frag: Frag, facts: Facts) -> Table:
    rows = []
    for one in frag.culprits.blocking:
        oldest = None
        if facts.now_ns is not None and one.oldest_ns is not None:
            oldest = facts.now_ns - one.oldest_ns
        rows.append(
            Row(
                [name(without_offset(one.allocator)), TableCell(one.kind), number(one.blocks),
                 number(one.only_blocker), number(one.pages), number(one.in_movable),
                 TableCell(ages(one.oldest_ns, one.newest_ns, facts.now_ns), oldest),
                 TableCell(str(one.handle or "-"), one.handle or 0)],
                stack=[str(frame) for frame in one.stack],
            )
        )  # fmt: skip
    columns = ("allocator", "kind", "pageblocks", "only blocker of", "pages",
               "in movable blocks", "age", "handle")  # fmt: skip
    return Table("culprits", "Who blocks pageblocks", columns, (2, 3, 4, 5, 6, 7), rows, len(rows))


_CELLS = {
    "free": "all free",
    "movable": "movable",
    "reclaimable": "reclaimable",
    "polluted": "polluted",
    "some": "partly unmovable",
    "most": "mostly unmovable",
    "unknown": "not in the dump",
}


def _map(frag: Frag) -> Table:
    rows = []
    for zone in frag.maps:
        counts = dict.fromkeys(CELL_CLASSES, 0)
        for cell in zone.map.cells:
            counts[cell_class(cell)] += 1
        cells = (number(count) for count in counts.values())
        rows.append(
            Row([number(zone.map.node), TableCell(zone.map.zone), number(zone.map.blocks_per_cell),
                 *cells])
        )  # fmt: skip
    columns = ("node", "zone", "pageblocks a cell", *(_CELLS[name] for name in CELL_CLASSES))
    numeric = (0, *range(2, len(columns)))
    return Table("map", "Cells of the map", columns, numeric, rows, len(rows))
