# SPDX-License-Identifier: LGPL-2.1-or-later
"""The search for leaks finds the same with several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from drgn_pageowner.analysis.leaks import reach as reach_module
from drgn_pageowner.analysis.leaks.leaks import find_leaks
from drgn_pageowner.kernel.dump import parallel
from drgn_pageowner.kernel.helpers import use_jobs
from drgn_pageowner.kernel.session import ProgramSession


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("name", ["linux-6.12/traps", "linux-6.12-noowner/kdump"])
def test_another_process_finds_allocations(
    dump_named: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str, types: bool
) -> None:
    prog = dump_named(name).prog
    alone = reach_module.reach(ProgramSession(prog).heap(types=types))
    here = []
    function = reach_module._allocations
    monkeypatch.setattr(reach_module, "_allocations", lambda heap: here.append(1) or function(heap))
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1 << 16)
    use_jobs(prog, 2)
    try:
        found = reach_module.reach(ProgramSession(prog).heap(types=types))
    finally:
        use_jobs(prog, 1)
    assert not here
    for column in ("allocation", "role", "parent", "verdict", "evidence"):
        assert np.array_equal(getattr(found, column), getattr(alone, column)), column
    assert find_leaks(found) == find_leaks(alone)
