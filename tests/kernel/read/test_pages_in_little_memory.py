# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that what is kept of pages to save memory says the same as whole columns do."""

from __future__ import annotations

import numpy as np
from conftest import Dump

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.mapping import block_device_mappings
from drgn_pageowner.kernel.read.pages import PageReader, read_all_pages
from drgn_pageowner.model.pages import PageState


def test_narrow_columns_say_what_whole_columns_do(one_dump: Dump) -> None:
    kernel = Kernel(one_dump.prog)
    whole = read_all_pages(kernel, columns=("mapcount", "mapping", "head")).pages
    devices = np.array(sorted(block_device_mappings(kernel, [])), np.uint64)
    reader = PageReader(kernel, ("mapcount", "head"), devices=devices, narrow=True)
    pages = reader.read().pages
    assert set(pages.columns) == {"state", "zone", "mapcount", "head"}
    for name in ("state", "zone", "head"):
        assert np.array_equal(pages[name], whole[name]), name
    assert np.array_equal(pages["mapcount"] < 0, whole["mapcount"] < 0)
    rows = np.flatnonzero(whole["head"] != np.arange(len(whole)))[::7]
    assert len(rows)
    assert np.array_equal(pages["head"][rows], whole["head"][rows])
    assert np.array_equal(pages["head"][pages.state == 7], whole["head"][whole.state == 7])

    of_files = np.isin(whole.state, (PageState.FILE, PageState.SHMEM))
    mappings = whole["mapping"][of_files]
    found, counts = np.unique(mappings[mappings != 0], return_counts=True)
    assert len(found) > 1
    assert [part.tolist() for part in reader.files()] == [found.tolist(), counts.tolist()]
    buffers = (whole.state == PageState.FILE) & np.isin(whole["mapping"], devices)
    assert reader.buffers().tolist() == np.flatnonzero(buffers).tolist()
