# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that the record of each page is found section by section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from conftest import Dump

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.read import covered
from drgn_pageowner.kernel.read.covered import CoveredPages
from drgn_pageowner.kernel.read.pages import read_all_pages
from drgn_pageowner.kernel.read.records import RecordReader
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.heap import record_of_row
from drgn_pageowner.model.pages import Pages


def test_pages_are_covered_as_by_all_records_together(one_dump: Dump) -> None:
    kernel = Kernel(one_dump.prog)
    pages = read_all_pages(kernel).pages
    reader = RecordReader(kernel, columns=["handle"], covering=True)
    records = reader.read()
    found = reader.record_of_row(pages, records)
    assert found.dtype == np.int32
    assert (np.unique(found) >= 0).sum() > 1000
    assert np.array_equal(found, record_of_row(pages, records))


def _covered(
    dump: Dump, monkeypatch: pytest.MonkeyPatch, records: Sequence[Sequence[tuple[int, int]]]
) -> Array | None:
    """
    Return which record covers each page of sections of 16 pages, all of which are allocated.

    :param records: First page in the section, and order, of the records of each section.
    """
    kernel = Kernel(dump.prog)
    any_section = covered.find_sections(kernel)[0]
    sections = [
        any_section._replace(start_pfn=16 * number, end_pfn=16 * number + 16)
        for number in range(len(records))
    ]
    monkeypatch.setattr(covered, "find_sections", lambda kernel: sections)
    result = CoveredPages(kernel, 16 * len(records), size=0)
    for section, found in zip(sections, records, strict=True):
        pfn = np.array([section.start_pfn + place for place, _ in found], np.int64)
        order = np.array([order for _, order in found], np.uint8)
        result.add(section, len(found), result.fill(section, pfn, order))
    whole = read_all_pages(kernel).pages
    number = 16 * len(records)
    pages = replace(
        whole,
        starts=np.zeros(1, np.int64),
        offsets=np.array([0, number]),
        columns={"state": np.full(number, 6, np.uint8)},
    )
    assert isinstance(pages, Pages)
    return result.take(pages)


def test_records_are_numbered_over_all_sections(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [[(0, 1), (1, 0), (8, 3)], [], [(2, 0), (3, 0)]]
    found = _covered(one_dump, monkeypatch, records)
    assert found is not None
    # Records of several pages override those of one.
    assert found.tolist() == [0, 0, *[-1] * 6, *[2] * 8, *[-1] * 18, 3, 4, *[-1] * 12]


def test_many_sections_are_numbered_some_at_a_time(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first sections, the last ones and some in between have no records.
    records = [
        [(section % 16, 0)] if 2 < section < 27 and section % 5 else [] for section in range(30)
    ]
    found = _covered(one_dump, monkeypatch, records)
    assert found is not None
    number = 0
    expected = np.full(16 * len(records), -1)
    for section, ((place, _), *_) in ((n, some) for n, some in enumerate(records) if some):
        expected[16 * section + place] = number
        number += 1
    assert number > 2 * covered._TOGETHER
    assert found.tolist() == expected.tolist()


def test_records_that_go_on_in_the_next_section_are_left_to_others(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _covered(one_dump, monkeypatch, [[(0, 5)], [(0, 0)]]) is None
