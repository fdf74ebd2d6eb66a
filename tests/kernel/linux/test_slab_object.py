# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare the look-up of a slab object with that of drgn, on dumps where drgn supports it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Dump
from drgn.helpers.linux.pid import find_task
from drgn.helpers.linux.slab import slab_object_info

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux import slab_object
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.linux.translate import direct_map
from drgn_pageowner.kernel.read.inventory import InventoryReader


def test_objects_and_whether_they_are_free_are_what_drgn_says(one_dump: Dump) -> None:
    prog = one_dump.prog
    kernel = Kernel.of(prog)
    reader = InventoryReader(kernel)
    slabs, memmap, base = reader.inventory.slabs, Memmap(kernel), direct_map(kernel)
    seen = set()
    for slab in range(0, len(slabs.row), 97):
        pfn = int(reader.pages.pfns(slabs.row[slab : slab + 1])[0])
        for number in np.linspace(0, int(slabs.objects[slab]) - 1, 5).astype(int).tolist():
            address = base + pfn * 4096 + int(slabs.first[slab] + number * slabs.stride[slab]) + 9
            info = slab_object_info(prog, address)
            found = slab_object._look_up(Kernel.of(prog), memmap.page(pfn), pfn, address)
            assert info is not None
            assert found is not None
            assert (found["object"], found["allocated"]) == (info.address, info.allocated)
            assert found["cache"] == info.slab_cache.name.string_().decode()
            seen.add(info.allocated)
    assert seen == {True, False}


def test_where_drgn_does_not_know_the_dump_is_looked_at(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    prog = one_dump.prog
    address = int(find_task(prog, 1))
    pfn = (address - direct_map(Kernel.of(prog))) // 4096

    def unknown(*_: object) -> None:
        raise NotImplementedError

    page = Memmap(Kernel.of(prog)).page(pfn)
    expected = slab_object.slab_of(Kernel.of(prog), page, pfn, address)
    monkeypatch.setattr(slab_object, "slab_object_info", unknown)
    assert slab_object.slab_of(Kernel.of(prog), page, pfn, address) == expected
