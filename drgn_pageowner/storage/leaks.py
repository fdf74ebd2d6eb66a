# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert the result of a search for leaks to tables, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.fingerprint import Fingerprint
from drgn_pageowner.model.heap import (
    Inventory,
    LeakSearch,
    LostObjects,
    Reachability,
    record_of_row,
)
from drgn_pageowner.model.object_facts import ObjectFacts
from drgn_pageowner.model.records import Snapshot, pfn_order
from drgn_pageowner.model.stacks import Stacks
from drgn_pageowner.model.tags import Tags, tag_stacks
from drgn_pageowner.storage.check import check_fingerprints, check_search, require, within
from drgn_pageowner.storage.container import Columns, Container, JoinedColumns
from drgn_pageowner.storage.plain import as_json, restore
from drgn_pageowner.storage.records import frame_table, read_frames
from drgn_pageowner.storage.tags import place_table, tag_places

__all__ = ("load_search", "search_tables")

# Columns of a search that have a row per record.
_OF_RECORDS = ("role", "verdict", "evidence", "fingerprint")


def search_tables(found: LeakSearch) -> tuple[dict[str, Columns], dict[str, Any]]:
    """
    Convert the result of a search for leaks to tables.

    Table ``leaks`` has a row per allocated record, in the order of PFNs, or, if there are no
    page_owner records, a row per allocation found from the pages themselves. Table
    ``lost_objects`` has a row per lost slab object.

    :param found: Result of the search, which must include :attr:`LeakSearch.lost`.
    :return: Tables by name, and documents by name.
    """
    order, number = pfn_order(found.records), len(found.records)
    # The first record of the allocation is stored as a distance in rows, which is usually 0.
    distance = np.arange(number, dtype=np.int32)
    if isinstance(order, slice):
        distance -= found.allocation
    else:
        place = np.empty(number, np.int32)
        place[order] = distance
        distance -= place[found.allocation[order]]
    lost = found.lost
    assert lost is not None
    facts = lost.facts
    leaks: Columns = {
        "pfn": found.records["pfn"][order],
        "distance": distance,
        "role": found.role[order],
        "verdict": found.verdict[order],
        "evidence": (
            np.zeros(number, np.uint8) if found.evidence is None else found.evidence[order]
        ),
    }
    if len(found.fingerprint):
        leaks["fingerprint"] = found.fingerprint[order]
    tables: dict[str, Columns] = {"leaks": leaks}
    if not found.recorded:
        leaks["order"] = found.records["order"][order]
        if found.records.tags is not None:
            leaks["tag"] = found.records["tag"][order]
            tables["leak_tags"] = place_table(found.records.tags.places)
    tables |= {
        "lost_objects": {
            "cache": lost.cache,
            "size": lost.size,
            "verdict": lost.verdict,
            "address": facts.address,
            "stack": facts.stack,
            "pid": facts.pid.astype(np.int64),
            "tag": _texts(facts.tag, facts.tags),
            "memcg": _texts(facts.memcg, facts.memcgs),
            "fingerprint": lost.fingerprint,
        },
        "lost_stacks": {"depth": np.array([len(stack) for stack in facts.stacks], np.int32)},
        "lost_frames": frame_table(frame for stack in facts.stacks for frame in stack),
    }
    known = {
        "pages_missing": found.pages_missing,
        "number_chance": found.number_chance,
        "recorded": found.recorded,
    }
    prints = {
        "pages": as_json(list(found.fingerprints)),
        "objects": as_json(list(lost.fingerprints)),
    }
    return tables, {"leaks_of": known, "fingerprints": prints}


def _texts(numbers: Array, texts: Sequence[str]) -> list[str | None]:
    """Return the text at each index; ``None`` for -1."""
    return [texts[number] if number >= 0 else None for number in numbers.tolist()]


def load_search(file: Container, inventory: Inventory) -> LeakSearch:
    """Load the result of a search for leaks from the tables of :func:`search_tables`."""
    with file.checked():
        return _search(file, inventory)


def _search(file: Container, inventory: Inventory) -> LeakSearch:
    known = file.document("leaks_of")
    recorded = restore(bool, known.get("recorded", True))
    if not recorded:
        table = file.table("leaks", ("pfn", "order", "tag"))
        require("order" in table, "leaks without records")
        records = _allocations(file, inventory, table)
        covered = record_of_row(inventory.memory.pages, records)
        inventory = replace(inventory, records=records, record_of_row=covered)
    require(inventory.records is not None, "leaks without records")
    assert inventory.records is not None
    columns = _of_records(file, inventory.records)
    pages, objects = (
        restore(list[Fingerprint], file.document("fingerprints")[name])
        if "fingerprint" in columns
        else []
        for name in ("pages", "objects")
    )
    check_fingerprints([*pages, *objects])
    numbers = columns.get("fingerprint", np.zeros(0, np.int32))
    within(numbers, -1, len(pages), "leaks")
    return LeakSearch(
        inventory=inventory,
        records=inventory.records,
        allocation=columns["allocation"],
        role=columns["role"],
        verdict=columns["verdict"],
        pages_missing=restore(int, known["pages_missing"]),
        number_chance=restore(list[float], known.get("number_chance", [])),
        lost=_lost_objects(file, len(inventory.slabs.caches), objects),
        recorded=recorded,
        fingerprint=numbers,
        fingerprints=pages,
        # Files of earlier versions lack this column.
        evidence=columns.get("evidence"),
    )


def _of_records(file: Container, records: Snapshot) -> Columns:
    """
    Load what the search found out about each of *records*: columns of the table, and
    ``allocation``, the index of the first record of its allocation (``int32``).
    """
    rows, pieces = file.pieces("leaks")
    require(rows == len(records), "leaks are not of these records")
    joined = JoinedColumns(rows, {"allocation": np.int32})
    for piece in pieces:
        done = joined.rows
        check_search(piece, done, records)
        kept = {name: values for name, values in piece.items() if name in _OF_RECORDS}
        number = np.arange(done, done + len(piece["pfn"]))
        joined.add({"allocation": number - piece["distance"], **kept})
    return joined.columns


def _allocations(file: Container, inventory: Inventory, table: Columns) -> Snapshot:
    """Return the allocations that the search used as records because there were none."""
    pages, number = inventory.memory.pages, len(table["pfn"])
    within(table["order"], 0, pages.facts.max_page_order + 1, "leaks")
    require(np.all(table["pfn"][1:] > table["pfn"][:-1]), "leaks are not in order")
    result = Snapshot(
        facts=pages.facts,
        names=pages.names,
        columns={
            "pfn": table["pfn"],
            "order": table["order"],
            "handle": np.zeros(number, np.uint32),
            "allocated": np.ones(number, bool),
        },
        stacks=Stacks.empty(),
    )
    if "tag" in table:
        places = tag_places(file.table("leak_tags"))
        within(table["tag"], -1, len(places), "leaks")
        nothing, every = np.zeros(len(places), np.int64), np.ones(len(places), bool)
        result.tags = Tags(places, nothing, nothing, ~every, "", every, every)
        result.stacks, frames, result.source_lines = tag_stacks(result.tags)
        result._frames.update(frames)
        result.columns["tag"] = table["tag"]
        result.columns["handle"] = (table["tag"] + 1).astype(np.uint32)
    return result


def _lost_objects(file: Container, caches: int, prints: Sequence[Fingerprint]) -> LostObjects:
    table = file.table("lost_objects")
    frames, depths = read_frames(file.table("lost_frames")), file.table("lost_stacks")["depth"]
    within(depths, 0, len(frames) + 1, "lost_stacks")
    require(int(depths.sum()) == len(frames), "lost_frames")
    within(table["stack"], -1, len(depths), "lost_objects")
    # The cache is -1 for per-CPU memory.
    within(table["cache"], -1, caches, "lost_objects")
    within(table["verdict"], 0, max(Reachability) + 1, "lost_objects")
    within(table["pid"], -1, 1 << 31, "lost_objects")
    # Files of earlier versions lack this column.
    numbers = table.get("fingerprint", np.full(len(table["cache"]), -1, np.int32))
    within(numbers, -1, len(prints), "lost_objects")
    ends = np.cumsum(depths).tolist()
    facts = ObjectFacts.of(table["address"])
    facts.stack, facts.pid = table["stack"], table["pid"].astype(np.int32)
    facts.pid[facts.stack < 0] = -1
    facts.stacks = [
        frames[end - depth : end] for end, depth in zip(ends, depths.tolist(), strict=True)
    ]
    facts.tag, facts.tags = _numbers(table.get("tag", []), len(table["cache"]))
    facts.memcg, facts.memcgs = _numbers(table.get("memcg", []), len(table["cache"]))
    return LostObjects(
        cache=table["cache"],
        size=table["size"],
        verdict=table["verdict"],
        facts=facts,
        fingerprint=numbers,
        fingerprints=prints,
    )


def _numbers(texts: Sequence[str | None], number: int) -> tuple[Array, list[str]]:
    """Convert texts to indices and a list of distinct texts; the inverse of :func:`_texts`."""
    if not texts:
        return np.full(number, -1, np.int32), []
    known: dict[str, int] = {}
    numbers = [-1 if text is None else known.setdefault(text, len(known)) for text in texts]
    return np.array(numbers, np.int32), list(known)
