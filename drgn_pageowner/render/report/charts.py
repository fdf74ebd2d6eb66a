# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Build the charts of the page: figures for plotly, and data for the page's own script.

Figures are plain dictionaries in plotly's own words. Colours are named by role (``"role:free"``);
the page defines them for light and dark mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from drgn_pageowner.analysis.account.page_owners import NO_RECORD, AgeBand, ClassOwners
from drgn_pageowner.analysis.owners.flame import Flame
from drgn_pageowner.analysis.report import Frag, Report
from drgn_pageowner.escape import escaped
from drgn_pageowner.render.blockmap import CELL_CLASSES, cell_class
from drgn_pageowner.render.table import pages_size, share

__all__ = ("chart_data",)

_MIB = 1 << 20

# Colours by class; other classes are kernel memory that stays as long as the kernel runs.
_ROLES = {
    "free": "free", "free (per-CPU lists)": "free", "anonymous": "anon", "hugetlb": "anon",
    "zsmalloc": "anon", "page cache": "file", "buffers": "file", "shmem": "shmem",
    "slab": "slab", "large kmalloc": "slab", "page tables": "tables", "kernel stacks": "stacks",
    "vmalloc": "vmalloc", "modules": "vmalloc", "per-CPU": "vmalloc", "page_pool": "driver",
    "driver or other kernel": "driver", "unknown": "unknown",
}  # fmt: skip
_FIXED = "fixed"
_DRAWN_CLASSES = 8


def chart_data(report: Report) -> dict[str, Any]:
    """Return the data that the script of the page draws."""
    figures: dict[str, Any] = {}
    data: dict[str, Any] = {"page_size": report.facts.page_size, "figures": figures}
    if report.owners:
        figures["treemap"] = _treemap(report.owners, report.facts.page_size)
    if report.ages and any(band.pages for band in report.ages):
        figures["ages"] = _ages(report)
    if report.frag is not None:
        figures["free"] = _free(report.frag, report)
        data["map"] = _map(report.frag)
    if report.flame is not None and report.flame.pages:
        data["flame"] = _flame(report.flame)
    return data


def role_of(name: str) -> str:
    """Return the colour of a class."""
    return "role:" + _ROLES.get(name, _FIXED)


def html_text(text: str) -> str:
    """Escape *text* for plotly, which reads some of HTML in labels."""
    return escaped(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _is_pale(role: str) -> bool:
    return role in ("role:free", "role:surface")


def _treemap(owners: Iterable[ClassOwners], page_size: int) -> dict[str, Any]:
    nodes: list[tuple[str, str, str, int, str]] = []
    whole = sum(kind.pages for kind in owners)
    nodes.append(("all", "", "all memory", whole, "role:surface"))
    for kind in owners:
        own = f"c/{kind.name}"
        nodes.append((own, "all", kind.name, kind.pages, role_of(kind.name)))
        if [name for name, _ in kind.owners] == [NO_RECORD]:
            continue
        for name, pages in kind.owners:
            nodes.append((f"{own}/{name}", own, name, pages, role_of(kind.name)))
        if kind.other_owners:
            text = f"{kind.other_owners:,} others"
            nodes.append((f"{own}//", own, text, kind.other_pages, role_of(kind.name)))
    trace = {
        "type": "treemap",
        "branchvalues": "total",
        "ids": [html_text(node[0]) for node in nodes],
        "parents": [html_text(node[1]) for node in nodes],
        "labels": [html_text(node[2]) for node in nodes],
        "values": [node[3] * page_size for node in nodes],
        "customdata": [
            [pages_size(node[3] * page_size), share(node[3], whole), f"{node[3]:,}"]
            for node in nodes
        ],
        "marker": {
            "colors": [node[4] for node in nodes],
            "line": {"color": "role:surface", "width": 1},
            "pad": {"t": 20, "l": 3, "r": 3, "b": 3},
        },
        "textfont": {
            "color": ["role:text" if _is_pale(node[4]) else "role:on-chart" for node in nodes]
        },
        "hovertemplate": "<b>%{label}</b><br>%{customdata[0]} (%{customdata[2]} pages)<br>"
        "%{customdata[1]} of all memory<extra></extra>",
        "tiling": {"packing": "squarify", "pad": 1},
        "maxdepth": 3,
        "pathbar": {"visible": True, "thickness": 24},
    }
    return {"data": [trace], "layout": {}}


def _ages(report: Report) -> dict[str, Any]:
    bands = report.ages or []
    totals: dict[str, int] = {}
    for band in bands:
        for kind, pages in band.classes.items():
            totals[kind] = totals.get(kind, 0) + pages
    order = sorted(totals, key=lambda kind: (-totals[kind], kind))
    drawn, rest = order[:_DRAWN_CLASSES], order[_DRAWN_CLASSES:]
    size = report.facts.page_size
    names = [band.age for band in bands]
    traces = []
    for place, kind in enumerate(drawn):
        # Two classes may share a colour; a pattern distinguishes the second from the first.
        second = role_of(kind) in [role_of(other) for other in drawn[:place]]
        counts = [band.classes.get(kind, 0) for band in bands]
        traces.append(_bar(kind, names, counts, size, role_of(kind), second))
    if rest:
        counts = [sum(band.classes.get(kind, 0) for kind in rest) for band in bands]
        traces.append(_bar(f"{len(rest)} others", names, counts, size, "role:unknown", False))
    layout = _bars("age at the time of the dump", "MiB")
    layout["yaxis2"] = {
        "title": {"text": "% of it, up to this age"}, "overlaying": "y", "side": "right",
        "range": [0, 105], "tickmode": "array", "tickvals": [0, 25, 50, 75, 100],
        "fixedrange": True, "showgrid": False,
    }  # fmt: skip
    return {"data": [*traces, _cumulative(bands)], "layout": layout}


def _cumulative(bands: Sequence[AgeBand]) -> dict[str, Any]:
    """Return a plotly trace: for each age band, the share of memory that is at most that old."""
    whole = sum(band.pages for band in bands)
    sums = list(accumulate(band.pages for band in bands))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "up to this age",
        "x": [band.age for band in bands],
        "y": [100 * pages / whole for pages in sums],
        "yaxis": "y2",
        "customdata": [[share(pages, whole)] for pages in sums],
        "hovertemplate": "%{fullData.name}: %{customdata[0]}<extra></extra>",
        "line": {"color": "role:text", "width": 2},
        "marker": {"color": "role:text", "size": 6},
    }


def _free(frag: Frag, report: Report) -> dict[str, Any]:
    facts = report.facts
    orders = range(facts.max_page_order + 1)
    names = [pages_size(facts.page_size << order) for order in orders]
    kinds: dict[str, list[int]] = {}
    for zone in frag.zones:
        for kind, counts in zone.free_by_type.items():
            pages = [blocks << order for order, blocks in enumerate(counts)]
            before = kinds.get(kind, [0] * len(pages))
            kinds[kind] = [one + other for one, other in zip(before, pages, strict=True)]
    roles = {"Unmovable": "driver", "Movable": "anon", "Reclaimable": "slab", "CMA": "shmem",
             "HighAtomic": "stacks"}  # fmt: skip
    traces = [
        _bar(kind, names, pages, facts.page_size, "role:" + roles.get(kind, "unknown"), False)
        for kind, pages in kinds.items()
        if any(pages)
    ]
    return {"data": traces, "layout": _bars("size of the free block", "MiB free")}


def _bar(
    name: str, x: list[str], pages: list[int], size: int, role: str, pattern: bool
) -> dict[str, Any]:
    marker: dict[str, Any] = {"color": role, "line": {"color": "role:surface", "width": 1}}
    if pattern:
        marker["pattern"] = {
            "shape": "/",
            "fgcolor": "role:surface",
            "size": 6,
            "solidity": 0.2,
            "fillmode": "overlay",
        }
    return {
        "type": "bar",
        "name": html_text(name),
        "x": x,
        "y": [count * size / _MIB for count in pages],
        "customdata": [[f"{count:,}", pages_size(count * size)] for count in pages],
        "hovertemplate": "%{fullData.name}: %{customdata[1]} (%{customdata[0]} pages)"
        "<extra></extra>",
        "marker": marker,
    }


def _bars(x: str, y: str) -> dict[str, Any]:
    return {
        "barmode": "stack",
        "hovermode": "x unified",
        "xaxis": {"title": {"text": x}, "type": "category", "fixedrange": True, "showgrid": False},
        "yaxis": {"title": {"text": y}, "fixedrange": True, "rangemode": "tozero"},
    }


def _map(frag: Frag) -> dict[str, Any]:
    classes, types, owners = list(CELL_CLASSES), _Numbers(), _Numbers()
    zones = []
    for zone in frag.maps:
        cells = []
        for cell, most in zip(zone.map.cells, zone.owners, strict=True):
            kinds = [cell.free, cell.movable, cell.reclaimable, cell.unmovable, cell.unknown,
                     cell.absent, cell.polluted]  # fmt: skip
            of_cell = [(owners.of(escaped(name)), pages) for name, pages in most]
            cells.append(
                [cell.pfn, cell.blocks, classes.index(cell_class(cell)),
                 types.of(cell.migratetype or "-"), kinds, of_cell]
            )  # fmt: skip
        zones.append(
            {
                "title": f"Node {zone.map.node}, zone {zone.map.zone}",
                "blocks_per_cell": zone.map.blocks_per_cell,
                "cells": cells,
            }
        )
    return {
        "zones": zones,
        "classes": classes,
        "meanings": list(CELL_CLASSES.values()),
        "types": types.texts,
        "owners": owners.texts,
    }


class _Numbers:
    """A table of strings without duplicates."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, text: str) -> int:
        return self._known.setdefault(text, len(self._known))

    @property
    def texts(self) -> list[str]:
        return list(self._known)


def _flame(flame: Flame) -> dict[str, Any]:
    return {
        "functions": [escaped(function) for function in flame.functions],
        "stacks": [
            [
                stack.pages,
                stack.allocations,
                stack.allocator,
                stack.frames,
                stack.lost,
                stack.process,
            ]
            for stack in flame.stacks
        ],
        "others": [flame.other_stacks, flame.other_pages, flame.other_allocations],
        "pages": flame.pages,
        "allocations": flame.allocations,
    }
