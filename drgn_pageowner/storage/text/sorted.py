# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the output of page_owner_sort: groups of equal records, with their number and pages."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.kernel import Facts
from drgn_pageowner.model.records import Snapshot, latest
from drgn_pageowner.storage.text.page_owner import FIRST_LINE, first_line_columns
from drgn_pageowner.storage.text.records import Bodies, TextNames, numbers
from drgn_pageowner.storage.text.source import Damage, TextFile

__all__ = ("read_sorted",)

# page_owner_sort prints the number of pages since Linux kernel commit f7df2b1cf03a
# ("tools/vm/page_owner_sort.c: count and sort by mem") (in v5.16), and "allocated by" since
# f09654bb8812 ("tools/vm/page_owner_sort.c: provide allocator labelling and update --cull and
# --sort options") (in v5.19). The colon is missing if --cull omits the stack; such a group is not
# followed by a blank line. Old versions of page_owner_sort do not remove the lines with PFNs.
_GROUP = re.compile(
    rb"^(\d{1,15}) times(?:, (\d{1,15}) pages)?(?:, PID (-?\d{1,10}))?(?:, TGID (-?\d{1,10}))?"
    rb"(, task_comm_name: [\s\S]{0,15}?)?(?:, allocated by [A-Z ]+)?(?: \((?:UN)?RELEASED\))?"
    rb" ?(:?)\n(?:" + FIRST_LINE + rb"(?:PFN [^\n]*\n)?)?((?:[ PCS][^\n]*\n)*)(\n?)",
    re.MULTILINE,
)
_GROUPS = (
    "times", "pages", "PID", "TGID", "COMM", "colon", "order", "gfp_mask", "gfp", "pid", "tgid",
    "comm", "ts_nsec", "free_ts_nsec", "body", "end",
)  # fmt: skip
_FIRST_LINE = ("order", "gfp", "pid", "tgid", "ts_nsec", "free_ts_nsec")
_CULLED = ("PID", "TGID", "COMM")
_NAME = b", task_comm_name: "
_HUGE_ORDER = 47

Columns = dict[str, Array]


def read_sorted(file: TextFile, facts: Facts) -> tuple[Snapshot, Bodies]:
    """
    Read the groups of a text: one row per group.

    The columns ``allocations`` and ``pages`` have the number of records and of base pages in each
    group. Data that --cull omitted from the text have no column.

    :param facts: Facts about the kernel that are known without the records.
    """
    names, damage = TextNames(), Damage()
    bodies = Bodies(names)
    groups: dict[str, list[bytes]] = {name: [] for name in _GROUPS}
    line = 1
    for piece in file.pieces(b"\n", damage):
        line = _read(piece, groups, bodies, damage, line)
    rows = len(groups["times"])
    shape = {name: bool(rows) and all(groups[name]) for name in ("pages", *_FIRST_LINE, *_CULLED)}
    columns: Columns = {
        "allocations": numbers(groups["times"], np.int64),
        "allocated": np.ones(rows, bool),
    }
    if shape["pages"]:
        columns["pages"] = numbers(groups["pages"], np.int64)
    elif shape["order"]:
        orders = numbers(groups["order"], np.int64)
        columns["pages"] = columns["allocations"] << np.minimum(orders, _HUGE_ORDER)
    if shape["order"]:
        columns |= first_line_columns(groups, shape, names)
    for culled, name in (("PID", "pid"), ("TGID", "tgid")):
        if shape[culled]:
            columns[name] = numbers(groups[culled], np.int64).astype(np.int32)
    if shape["COMM"]:
        columns["comm"] = np.array([text.removeprefix(_NAME) for text in groups["COMM"]], "S16")
    if any(groups["body"]):
        columns |= bodies.columns(bodies.numbers(groups["body"]), reasons=False)
    facts.now_ns = latest(None, columns)
    facts.layout = {"text": "sorted", "members": sorted(columns)}
    snapshot = Snapshot(
        facts=facts,
        names=names.names(),
        columns=columns,
        stacks=bodies.stacks.table(),
        symbolizer=bodies.stacks.frames.symbols(),
        memcgs=tuple(bodies.memcgs),
        problems=damage.problems(),
    )
    return snapshot, bodies


def _read(
    piece: bytes, groups: dict[str, list[bytes]], bodies: Bodies, damage: Damage, line: int
) -> int:
    """Add the groups of *piece*, which begins at *line*; return the line after it."""
    found = _GROUP.findall(piece)
    columns: Sequence[Sequence[bytes]] = list(zip(*found, strict=True)) or [()] * len(_GROUPS)
    for name, values in zip(_GROUPS, columns, strict=True):
        groups[name] += values
    position = 0
    for match in _GROUP.finditer(piece):
        line = _gap(piece[position : match.start()], damage, line)
        first = line + piece.count(b"\n", match.start(), match.start(15))
        for index in bodies.bad_lines(int(bodies.numbers([match.group(15)])[0])):
            damage.add(first + index)
        line += piece.count(b"\n", match.start(), match.end())
        position = match.end()
    return _gap(piece[position:], damage, line)


def _gap(text: bytes, damage: Damage, line: int) -> int:
    lines = text.split(b"\n")[:-1]
    for index, content in enumerate(lines):
        if content:
            damage.add(line + index)
    return line + len(lines)
