# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the counts of arrays in a dump with the structures in drgn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Dump, dump_id, traps
from drgn import Object, sizeof

from drgn_pageowner.analysis.types.exact import find_references
from drgn_pageowner.kernel.read.counted import counted_arrays
from drgn_pageowner.kernel.read.heap import HeapReader
from drgn_pageowner.kernel.read.types import read_types


@pytest.mark.parametrize("get", traps(), ids=dump_id)
def test_arrays_are_where_the_kernel_has_them(get: type[Dump]) -> None:
    dump: Dump = get()
    types = read_types(dump.linux, [], np.zeros(0, np.int64))
    found = {types.type_of(one.type).tag: one for one in counted_arrays(types)}
    assert {"pipe_inode_info", "scm_fp_list"} <= found.keys()
    assert {"mempool", "mempool_s"} & found.keys()
    assert {"folio_batch", "pagevec"} & found.keys()
    pipe = found["pipe_inode_info"]
    type_ = dump.prog.type("struct pipe_inode_info")
    assert pipe.array == type_.member("bufs").offset
    assert pipe.used == (type_.member("head").offset, sizeof(type_.member("head").type))
    assert pipe.tail is not None
    assert pipe.tail[0] == type_.member("tail").offset
    assert pipe.stride == dump.prog.type("struct pipe_buffer").size
    assert found["scm_fp_list"].length == 253


def test_batches_of_pages_count_as_far_as_they_are_filled(
    dump_named: Callable[[str], Dump],
) -> None:
    dump = dump_named("linux-6.12/traps")
    reader = HeapReader(dump.linux, types=True)
    heap, places = reader.heap, reader.typed
    assert heap.typing is not None
    assert places is not None
    references = find_references(heap)
    assert references is not None
    pointers, type_ = heap.typing.pointers, dump.prog["cpu_fbatches"].type_
    beyond = within = 0
    for number, name in enumerate(heap.typing.variables.names):
        if not name.startswith('per_cpu(prog["cpu_fbatches"]'):
            continue
        batches = Object(dump.prog, type_, address=int(places.addresses[number]))
        mine = np.flatnonzero(pointers.place == heap.nodes + number)
        words = np.stack([pointers.offset[mine], references.counts[mine]]).T.tolist()
        counts = {offset: bool(good) for offset, good in words}
        for member in type_.members:
            if member.type.type_name() != "struct folio_batch":
                continue
            batch = batches.member_(member.name)
            first = int(batch.folios.address_) - int(batches.address_)
            for index in range(len(batch.folios)):
                offset = first + index * dump.linux.word.itemsize
                if offset in counts:
                    assert counts[offset] == (index < batch.nr), (name, member.name, index)
                    within += counts[offset]
                    beyond += not counts[offset]
    assert within
    assert beyond
