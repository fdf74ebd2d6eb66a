# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test memory cgroups of pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Dump

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux import memcg
from drgn_pageowner.kernel.read.records import read_records


def test_text_that_the_version_does_not_settle_is_said_to_be_in_doubt(
    dump_named: Callable[[str], Dump], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug of v6.12.114 may be fixed in a later v6.12.y."""
    whole = dump_named("linux-6.12/kdump")
    plain = read_records(Kernel.of(whole.prog), columns=("memcg",))
    assert not any("own text names" in line for line in plain.problems)
    monkeypatch.setattr(memcg, "_takes_all_for_objcg", lambda kernel: True)
    # css.refcnt of the root cgroup is 0.
    monkeypatch.setattr(memcg, "read_word", lambda prog, address: 0)
    records = read_records(Kernel.of(whole.prog), columns=("memcg",))
    assert not any(one.printed for one in records.memcgs)
    (line,) = (line for line in records.problems if "own text names" in line)
    assert all(one.path in line for one in records.memcgs)
