# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test struct pages that the bundled dumps do not have."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import bundled

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux import page_type
from drgn_pageowner.kernel.linux.page_state import StateDecoder
from drgn_pageowner.kernel.linux.zones import find_zones, page_flag_fields
from drgn_pageowner.model.pages import PageState


def test_pages_of_a_page_pool_are_told_by_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    # Use a number for PGTY_netpp that no other type has.
    real = page_type.enumerators

    def with_netpp(prog: object, name: str) -> dict[str, int]:
        return {**real(prog, name), "PGTY_netpp": 0xEE}  # type: ignore[arg-type]

    monkeypatch.setattr(page_type, "enumerators", with_netpp)
    # Use a new Kernel, without cached facts.
    decoder = StateDecoder(Kernel(bundled("linux-7.2/kdump").prog))
    rows = np.zeros(2, decoder.dtype)
    rows["refcount"] = 1
    rows["mapcount"] = [np.uint32(0xEE000000).astype(np.int32), -1]
    assert decoder.decode(0, rows).state.tolist() == [PageState.NETPP, PageState.KERNEL]


def test_free_blocks_may_overlap_in_a_damaged_memmap() -> None:
    kernel = Kernel(bundled("linux-7.2/kdump").prog)
    decoder = StateDecoder(kernel)
    rows = np.zeros(16, decoder.dtype)
    rows["mapcount"], rows["refcount"] = -1, 1
    types = page_type.page_types(kernel)
    [buddy] = {
        value for value in range(0x80, 0x100)
        if types.of(np.array([value << 24], np.uint32))[0] == types.number("buddy")
    }  # fmt: skip
    # Blocks of 8, 2 and 4 pages: the second is inside of the first, the third goes past the end.
    for row, order in ((0, 3), (4, 1), (14, 2)):
        rows["mapcount"][row] = np.uint32(buddy << 24).astype(np.int32)
        rows["private"][row] = order
    pages = decoder.decode(0, rows)
    assert np.flatnonzero(pages.state == PageState.FREE).tolist() == [*range(8), 14, 15]
    assert np.flatnonzero(pages.free_order >= 0).tolist() == [0, 4, 14]


def test_pages_of_one_section_may_be_in_several_zones() -> None:
    kernel = Kernel(bundled("linux-7.2/kdump").prog)
    decoder = StateDecoder(kernel)
    [field] = [field for field in page_flag_fields(kernel) if field.name == "node"]
    zones = [zone.node for zone in find_zones(kernel, [])]
    assert zones == [0, 1]
    rows = np.zeros(4, decoder.dtype)
    rows["flags"] = np.array([0, 0, 1, 1], np.uint64) << np.uint64(field.shift)
    assert decoder.decode(0, rows).zone.tolist() == [0, 0, 1, 1]
    assert decoder.decode(0, rows[2:]).zone.tolist() == [1, 1]
