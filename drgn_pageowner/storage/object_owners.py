# SPDX-License-Identifier: LGPL-2.1-or-later
"""Convert the owners of slab objects to tables, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import Slabs
from drgn_pageowner.model.object_owners import ObjectOwners
from drgn_pageowner.model.stacks import Frame, Stacks
from drgn_pageowner.model.tags import Tags
from drgn_pageowner.storage.check import require, within
from drgn_pageowner.storage.container import Columns, Container
from drgn_pageowner.storage.plain import as_json, restore
from drgn_pageowner.storage.records import frame_table, read_frames
from drgn_pageowner.storage.tags import place_table, tag_places

__all__ = ("load_object_owners", "object_owner_tables")

_DOCUMENT = "slab_owners_of"


def object_owner_tables(owners: ObjectOwners) -> tuple[dict[str, Columns], dict[str, Any]]:
    """
    Convert the owners of slab objects to tables: a row per slab object, and the stacks and tags
    that the rows refer to.

    :return: Tables by name, and documents by name.
    """
    free = ~owners.slabs.allocated
    columns: Columns = {}
    for name, none in (("tag", -1), ("handle", 0), ("pid", -1), ("memcg", -1)):
        columns[name] = np.where(free, none, getattr(owners, name))
    pcs = owners.stacks.pcs
    tables = {
        "slab_owners": columns,
        "slab_stacks": {
            "handle": owners.stacks.handles,
            "depth": owners.stacks.depths().astype(np.int32),
        },
        "slab_pcs": {"pc": pcs},
        "slab_frames": frame_table(owners.symbolizer.symbolize(np.unique(pcs))),
    }
    if owners.tags is not None:
        tables["slab_tags"] = place_table(owners.tags.places)
    known = {"memcgs": list(owners.memcgs), "problems": list(owners.problems)}
    return tables, {_DOCUMENT: as_json(known)}


def load_object_owners(file: Container, slabs: Slabs, page_size: int) -> ObjectOwners:
    """Load the owners of slab objects from the tables of :func:`object_owner_tables`."""
    with file.checked():
        return _load(file, slabs, page_size)


def _load(file: Container, slabs: Slabs, page_size: int) -> ObjectOwners:
    table, known = file.table("slab_owners"), file.document(_DOCUMENT)
    memcgs = restore(list[str], known["memcgs"])
    require(len(table["tag"]) == len(slabs), "slab_owners")
    within(table["memcg"], -1, len(memcgs), "slab_owners")
    within(table["pid"], -1, 1 << 31, "slab_owners")
    stacks, pcs = file.table("slab_stacks"), file.table("slab_pcs")["pc"]
    within(stacks["depth"], 0, len(pcs) + 1, "slab_stacks")
    require(int(stacks["depth"].sum()) == len(pcs), "slab_pcs")
    require(np.all(stacks["handle"][1:] > stacks["handle"][:-1]), "slab_stacks are not in order")
    offsets = np.zeros(len(stacks["depth"]) + 1, np.int64)
    np.cumsum(stacks["depth"], out=offsets[1:])
    tags = None
    if "slab_tags" in file:
        places = tag_places(file.table("slab_tags"))
        nothing, every = np.zeros(len(places), np.int64), np.ones(len(places), bool)
        tags = Tags(places, nothing, nothing, ~every, "", every, every)
    within(table["tag"], -1, len(tags) if tags is not None else 0, "slab_owners")
    return ObjectOwners(
        slabs=slabs,
        tag=table["tag"],
        tags=tags,
        handle=table["handle"],
        pid=table["pid"],
        stacks=Stacks(stacks["handle"], offsets, pcs),
        symbolizer=_Frames(read_frames(file.table("slab_frames"))),
        page_size=page_size,
        memcg=table["memcg"],
        memcgs=memcgs,
        problems=restore(list[str], known["problems"]),
    )


class _Frames:
    """A ``Symbolizer`` for the PCs of saved stacks."""

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = {frame.pc: frame for frame in frames}

    def symbolize(self, pcs: Array) -> list[Frame]:
        return [self._frames.get(pc) or Frame(pc, None, 0, 0, None) for pc in pcs.tolist()]
