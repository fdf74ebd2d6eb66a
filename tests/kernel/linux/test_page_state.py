# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test page types that the bundled kernels do not have."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import bundled

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux import page_type
from drgn_pageowner.kernel.linux.page_state import StateDecoder
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
