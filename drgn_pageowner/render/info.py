# SPDX-License-Identifier: LGPL-2.1-or-later
"""Render facts about page_owner as a table or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from drgn_pageowner.errors import NO_RECORDS
from drgn_pageowner.escape import word
from drgn_pageowner.model.info import Info
from drgn_pageowner.render.jsonable import json_document
from drgn_pageowner.render.table import age, counted, have, pages_size, seconds

__all__ = ("STATES", "info_json", "info_table")

STATES = {
    "absent": "not in this kernel (built without CONFIG_PAGE_OWNER)",
    "off": "compiled in, but off (needs page_owner=on on the kernel command line)",
    "on": "on",
}
""":attr:`Facts.page_owner` in words."""


def info_table(info: Info) -> Iterator[str]:
    """Yield one line per fact, aligned."""
    from tabulate import tabulate

    rows = [(title, word(text)) for title, text in _rows(info)]
    yield tabulate(rows, tablefmt="plain", disable_numparse=True) + "\n"


def _rows(info: Info) -> Iterator[tuple[str, str]]:
    facts = info.facts
    text = facts.layout.get("text")
    if text is None:
        yield from _machine(info)
    else:
        yield "source", f"text of a kernel ({text}): {', '.join(facts.layout['members'])}"
        yield "up for", age(facts.now_ns) if facts.now_ns else "unknown"
    for source in info.sources:
        # page_owner is printed on a line of its own.
        if source.name != "page_owner":
            yield source.name, source.state + (f": {source.answers}" if source.answers else "")
    if facts.page_owner == "on":
        yield from _page_owner(info, text)
    known = set(NO_RECORDS.values())
    for problem in info.problems:
        # Problems in the line about page_owner are not repeated.
        if problem not in known:
            yield "problem", problem
    if not info.problems:
        yield "problems", "none: everything could be read"


def _page_owner(info: Info, text: str | None) -> Iterator[tuple[str, str]]:
    facts = info.facts
    if info.first_ns is not None:
        yield "on since", f"{seconds(info.first_ns)} s after boot (its oldest record)"
    has_records = bool(info.coverage) or info.records is not None or text is not None
    yield "records", _records(info, freed=text is None) if has_records else "cannot be read"
    if info.coverage and text is None:
        layout = facts.layout
        yield (
            "layout",
            f"{layout['record']} at {layout['page_owner_offset']} of {layout['page_ext_size']} "
            "bytes: " + ", ".join(layout["members"]),
        )
        yield from _coverage(info)
        yield from _depot(info)
    if info.modules:
        yield "modules", ", ".join(info.modules)


def _machine(info: Info) -> Iterator[tuple[str, str]]:
    facts = info.facts
    yield "kernel", f"{facts.release} {facts.version}".strip() + f" ({facts.arch})"
    if facts.live:
        yield "source", "running kernel"
    elif facts.panic_message:
        yield "died of", facts.panic_message
    yield "up for", age(facts.now_ns) if facts.now_ns else "unknown"
    memory = sum(zone.present for zone in facts.zones)
    nodes = len({zone.node for zone in facts.zones})
    yield (
        "memory",
        "unknown"
        if not nodes
        else f"{counted(memory, 'page')} of {facts.page_size} bytes present "
        f"({pages_size(memory * facts.page_size)}) on {nodes} node{'s' * (nodes != 1)}, "
        f"{facts.memory_model}",
    )
    yield "page_owner", STATES[facts.page_owner]


def _records(info: Info, *, freed: bool) -> str:
    parts = []
    if info.records is not None:
        parts.append(counted(info.records, "allocation"))
    if info.pages is not None:
        size = pages_size(info.pages * info.facts.page_size)
        parts.append(f"{counted(info.pages, 'page')} ({size})")
    parts.append(counted(info.stacks, "stack"))
    return ", ".join(parts) + (f"; {info.freed_records:,} freed" if freed else "")


def _coverage(info: Info) -> Iterator[tuple[str, str]]:
    coverage = info.coverage
    yield (
        "coverage",
        (
            f"{counted(coverage['covered'], 'page')} {have(coverage['covered'])} a page_ext, "
            f"{coverage['uncovered']:,} {have(coverage['uncovered'])} none, "
            f"{coverage['missing']:,} could not be read"
        ),
    )
    marked = coverage["allocated"]
    yield (
        "page_ext marks",
        (
            f"{counted(marked, 'page')} allocated "
            f"({marked - (info.pages or 0):+,} against the records), {coverage['freed']:,} freed"
        ),
    )


def _depot(info: Info) -> Iterator[tuple[str, str]]:
    depot = info.coverage.get("stack_depot")
    if depot is not None:
        capacity = f" of {depot['capacity']:,}" if depot["capacity"] else ""
        yield (
            "stack depot",
            (
                f"{depot['pools']:,}{capacity} pools used ({pages_size(depot['bytes'])}); "
                f"layout: {info.facts.layout['stack_depot']}"
            ),
        )
    consistency = info.consistency
    if consistency is None:
        yield "consistency", "this kernel does not count the pages of a stack (it does since v6.9)"
        return
    yield (
        "consistency",
        (
            f"the kernel's count equals ours for {consistency.equal:,} of "
            f"{counted(consistency.stacks, 'stack')} "
            f"({counted(consistency.kernel_pages, 'page')} by the kernel, "
            f"{consistency.our_pages:,} by us)"
        ),
    )
    for handle, kernel, ours in consistency.different[:5]:
        yield "", f"handle {handle}: {counted(kernel, 'page')} by the kernel, {ours:,} by us"


def info_json(info: Info) -> Iterator[str]:
    """Yield one JSON object; docs/formats.md documents its members."""
    facts = asdict(info.facts)
    facts["zones"] = [zone._asdict() for zone in info.facts.zones]
    formats = info.facts.formats
    facts["formats"] = formats._asdict() if formats is not None else None
    consistency: Any = None
    if info.consistency is not None:
        consistency = asdict(info.consistency)
        consistency["different"] = [
            {"handle": handle, "kernel_pages": kernel, "our_pages": ours}
            for handle, kernel, ours in info.consistency.different
        ]
    yield (
        json_document(
            {
                "kernel": facts,
                "page_owner": info.facts.page_owner,
                "records": info.records,
                "freed_records": info.freed_records,
                "pages": info.pages,
                "stacks": info.stacks,
                "first_ns": info.first_ns,
                "coverage": dict(info.coverage),
                "consistency": consistency,
                "modules": list(info.modules),
                "sources": [asdict(source) for source in info.sources],
                "problems": list(info.problems),
            },
            indent=1,
        )
        + "\n"
    )
