# SPDX-License-Identifier: LGPL-2.1-or-later
"""Print free memory as the kernel does, character for character."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from drgn_pageowner.analysis.frag.buddy import PageTypeInfo, fragmentation_index, unusable_index
from drgn_pageowner.model.kernel import Facts, Names, Zone
from drgn_pageowner.model.pages import Memory
from drgn_pageowner.render.table import table
from drgn_pageowner.render.terminal import columns

__all__ = ("buddyinfo_text", "extfrag_text", "fitted", "pagetypeinfo_text", "unusable_text")

# A row of these files, and the headers that some of them have.
_ROW = re.compile(r"Node +(\d+), zone +(\S+?)(?:, type +(\S+))? +(.*)")
_HEADERS = re.compile(r"(Free pages .* at order|Number of .*?) {2,}(.*)")

_LONGEST_LIST = 100000
"""Number of blocks at which ``pagetypeinfo_showfree_print()`` stops counting."""


def _populated(memory: Memory) -> Iterator[tuple[int, Zone]]:
    for number, zone in enumerate(memory.pages.facts.zones):
        if memory.zones[number].populated:
            yield number, zone


def _heading(zone: Zone) -> str:
    return f"Node {zone.node}, zone {zone.name:>8} "


def buddyinfo_text(memory: Memory) -> Iterator[str]:
    """Print ``/proc/buddyinfo``, as ``frag_show_print()`` of mm/vmstat.c does."""
    for number, zone in _populated(memory):
        counts = "".join(f"{count:6d} " for count in memory.zones[number].nr_free)
        yield f"{_heading(zone)}{counts}\n"


def fitted(text: Iterable[str]) -> Iterator[str]:
    """
    Yield *text* as it is, or the same numbers in tables if a line is wider than the terminal.

    :param text: What one of the other functions of this module yields.
    """
    lines = "".join(text).splitlines()
    if max(map(len, lines), default=0) <= columns():
        yield from (f"{line}\n" for line in lines)
        return
    headers: list[str] = []
    for are_rows, some in groupby(lines, lambda line: _ROW.match(line) is not None):
        if are_rows:
            yield _narrow(list(some), headers)
            continue
        for line in some:
            title = _HEADERS.match(line)
            if title is not None:
                headers = title[2].split()
            yield (line if title is None else title[1]) + "\n"


def _narrow(lines: Sequence[str], headers: Sequence[str]) -> str:
    """
    Format rows of one of the kernel's files as a table.

    :param headers: Those of the numbers; empty if these are by order, and the file has none.
    """
    parts = [match.groups() for match in map(_ROW.match, lines) if match is not None]
    rows = [[*filter(None, names), *numbers.split()] for *names, numbers in parts]
    keys = 2 if parts[0][2] is None else 3
    named = headers or [str(order) for order in range(len(rows[0]) - keys)]
    first = ("node", "zone", "type")[:keys]
    return table(rows, [*first, *named], right=(0, *range(keys, len(rows[0]))), keys=keys)


def _index_text(
    memory: Memory, index: Callable[[Sequence[int], int], int], form: str
) -> Iterator[str]:
    for number, zone in _populated(memory):
        nr_free = memory.zones[number].nr_free
        values = (index(nr_free, order) for order in range(len(nr_free)))
        # Divide as C does: round towards zero; the remainder has the sign of the dividend.
        parts = ((abs(v) // 1000 * (-1 if v < 0 else 1), abs(v) % 1000 * (-1 if v < 0 else 1))
                 for v in values)  # fmt: skip
        yield _heading(zone) + "".join(form % part for part in parts) + "\n"


def unusable_text(memory: Memory) -> Iterator[str]:
    """Print ``/sys/kernel/debug/extfrag/unusable_index``."""
    return _index_text(memory, unusable_index, "%d.%03d ")


def extfrag_text(memory: Memory) -> Iterator[str]:
    """Print ``/sys/kernel/debug/extfrag/extfrag_index``."""
    return _index_text(memory, fragmentation_index, memory.extfrag_format)


def pagetypeinfo_text(memory: Memory, info: PageTypeInfo) -> Iterator[str]:
    """
    Print ``/proc/pagetypeinfo``, as ``pagetypeinfo_show()`` of mm/vmstat.c does, node by node.
    """
    facts, names = memory.pages.facts, memory.pages.names
    for node in sorted({zone.node for zone in facts.zones}):
        zones = [(number, zone) for number, zone in _populated(memory) if zone.node == node]
        if zones:
            yield from _node_text(facts, names, info, zones)


def _node_text(
    facts: Facts, names: Names, info: PageTypeInfo, zones: list[tuple[int, Zone]]
) -> Iterator[str]:
    yield f"Page block order: {facts.pageblock_order}\n"
    yield f"Pages per block:  {1 << facts.pageblock_order}\n\n"
    yield f"{'Free pages count per migrate type at order':<43} "
    yield "".join(f"{order:6d} " for order in range(facts.max_page_order + 1)) + "\n"
    for number, zone in zones:
        for kind, name in enumerate(names.migratetypes):
            yield f"Node {zone.node:4d}, zone {zone.name:>8}, type {name:>12} "
            for count in info.free[number, kind].tolist():
                over = count >= _LONGEST_LIST
                yield f"{'>' if over else ''}{min(count, _LONGEST_LIST):6d} "
            yield "\n"
    yield from _counts(names, "Number of blocks type ", info.blocks.tolist(), zones)
    if info.mixed is not None:
        yield from _counts(names, "Number of mixed blocks ", info.mixed.tolist(), zones)


def _counts(
    names: Names, title: str, counts: list[list[int]], zones: list[tuple[int, Zone]]
) -> Iterator[str]:
    yield f"\n{title:<23}" + "".join(f"{name:>12} " for name in names.migratetypes) + "\n"
    for number, zone in zones:
        yield _heading(zone) + "".join(f"{count:12d} " for count in counts[number]) + "\n"
