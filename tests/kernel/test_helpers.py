# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the helpers in drgn's style."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import Dump

from drgn_pageowner import (
    for_each_page_owner,
    page_ext,
    page_owner,
    page_owner_free_stack,
    page_owner_stack,
)
from drgn_pageowner.kernel.linux.memmap import Memmap


def test_records_one_by_one_are_those_of_the_snapshot(dump: Dump) -> None:
    snapshot = dump.snapshot.select(dump.snapshot["allocated"])
    pfns = []
    memmap = Memmap(dump.linux)
    for pfn, page, owner in for_each_page_owner(dump.prog):
        pfns.append(pfn)
        if len(pfns) % 1000 == 0:
            row = int(np.flatnonzero(snapshot["pfn"] == pfn)[0])
            assert memmap.pfn(int(page)) == pfn
            assert int(owner.order) == snapshot["order"][row]
            assert int(owner.handle) == snapshot["handle"][row]
            assert page_owner(page) == owner
            assert int(page_ext(page)) < int(owner)
    assert pfns == snapshot["pfn"].tolist()


def skip_without_stack_traces(dump: Dump) -> None:
    try:
        dump.prog.stack_trace_from_pcs([0])
    except NotImplementedError as error:
        pytest.skip(str(error))


def test_stacks_have_the_pcs_of_the_snapshot(dump: Dump) -> None:
    snapshot = dump.snapshot.select(dump.snapshot["allocated"])
    skip_without_stack_traces(dump)
    for row in range(0, len(snapshot), 997):
        page = Memmap(dump.linux).page(int(snapshot["pfn"][row]))
        trace = page_owner_stack(page)
        assert trace is not None
        pcs = [frame.pc for frame in trace if not frame.is_inline]
        assert pcs == snapshot.stacks[int(snapshot.stack[row])].tolist()


def test_a_page_that_was_freed_before_says_who_freed_it(dump: Dump) -> None:
    snapshot = dump.snapshot
    freed = snapshot["pfn"][(snapshot["free_handle"] != 0)][:5].tolist()
    skip_without_stack_traces(dump)
    for pfn in freed:
        trace = page_owner_free_stack(Memmap(dump.linux).page(pfn))
        assert trace is not None
        assert any("free" in (frame.name or "") for frame in trace)


def test_a_page_without_a_record_has_none(dump: Dump) -> None:
    snapshot = dump.snapshot
    known = set(
        itertools.chain.from_iterable(
            range(first, first + number)
            for first, number in zip(snapshot["pfn"].tolist(), snapshot.pages.tolist(), strict=True)
        )
    )
    zone = snapshot.facts.zones[-1]
    unknown = next(
        pfn for pfn in range(zone.start_pfn, zone.start_pfn + zone.spanned) if pfn not in known
    )
    page = Memmap(dump.linux).page(unknown)
    assert not page_owner(page)
    assert page_owner_stack(page) is None
    assert page_ext(page)
