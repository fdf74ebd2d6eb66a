# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert the result of a search for leaks to tables, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from drgn_pageowner.model.heap import Inventory, LeakSearch, LostObjects, Reachability
from drgn_pageowner.model.stacks import Frame
from drgn_pageowner.storage.check import check_search, require, within
from drgn_pageowner.storage.container import Columns, Container
from drgn_pageowner.storage.plain import restore
from drgn_pageowner.storage.records import frame_table, read_frames

__all__ = ("load_search", "search_tables")


def search_tables(found: LeakSearch) -> tuple[dict[str, Columns], dict[str, Any]]:
    """
    Return a row per allocated record, in the order of PFNs, and a row per lost slab object.

    :param found: With :attr:`LeakSearch.lost`.
    """
    order = np.argsort(found.records["pfn"], kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    lost = found.lost
    assert lost is not None
    stacks: dict[tuple[Frame, ...], int] = {}
    of_object = [
        -1 if track is None else stacks.setdefault(tuple(track[0]), len(stacks))
        for track in lost.tracks
    ]
    tables: dict[str, Columns] = {
        # Stored as a distance, because that is usually 0.
        "leaks": {
            "pfn": found.records["pfn"][order],
            "distance": place[order] - place[found.allocation[order]],
            "role": found.role[order],
            "verdict": found.verdict[order],
            "evidence": (
                np.zeros(len(order), np.uint8) if found.evidence is None else found.evidence[order]
            ),
        },
        "lost_objects": {
            "cache": lost.cache,
            "size": lost.size,
            "verdict": lost.verdict,
            "address": lost.address,
            "stack": np.array(of_object, np.int32),
            "pid": np.array([0 if t is None else t[1] for t in lost.tracks], np.int64),
            "tag": list(lost.tags) or [None] * len(lost.tracks),
        },
        "lost_stacks": {"depth": np.array([len(stack) for stack in stacks], np.int32)},
        "lost_frames": frame_table(frame for stack in stacks for frame in stack),
    }
    return tables, {
        "leaks_of": {"pages_missing": found.pages_missing, "number_chance": found.number_chance}
    }


def load_search(file: Container, inventory: Inventory) -> LeakSearch:
    """Load what :func:`search_tables` converted to tables."""
    with file.checked():
        return _search(file, inventory)


def _search(file: Container, inventory: Inventory) -> LeakSearch:
    require(inventory.records is not None, "leaks without records")
    assert inventory.records is not None
    table, known = file.table("leaks"), file.document("leaks_of")
    check_search(table, inventory.records)
    return LeakSearch(
        inventory=inventory,
        records=inventory.records,
        allocation=np.arange(len(table["role"]), dtype=np.int32) - table["distance"],
        role=table["role"],
        verdict=table["verdict"],
        pages_missing=restore(int, known["pages_missing"]),
        number_chance=restore(list[float], known.get("number_chance", [])),
        lost=_lost_objects(file, len(inventory.slabs.caches)),
        # Files of earlier versions have none.
        evidence=table.get("evidence"),
    )


def _lost_objects(file: Container, caches: int) -> LostObjects:
    table = file.table("lost_objects")
    frames, depths = read_frames(file.table("lost_frames")), file.table("lost_stacks")["depth"]
    within(depths, 0, len(frames) + 1, "lost_stacks")
    require(int(depths.sum()) == len(frames), "lost_frames")
    within(table["stack"], -1, len(depths), "lost_objects")
    # -1: per-CPU memory belongs to no cache.
    within(table["cache"], -1, caches, "lost_objects")
    within(table["verdict"], 0, max(Reachability) + 1, "lost_objects")
    ends = np.cumsum(depths).tolist()
    stacks = [frames[end - depth : end] for end, depth in zip(ends, depths.tolist(), strict=True)]
    return LostObjects(
        cache=table["cache"],
        size=table["size"],
        verdict=table["verdict"],
        address=table["address"],
        tracks=[
            (stacks[stack], pid) if stack >= 0 else None
            for stack, pid in zip(table["stack"].tolist(), table["pid"].tolist(), strict=True)
        ],
        # Files of earlier versions have none.
        tags=table.get("tag", ()),
    )
