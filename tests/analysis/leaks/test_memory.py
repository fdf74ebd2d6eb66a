# SPDX-License-Identifier: LGPL-2.1-or-later
"""Count the memory of a search for leaks for each page, and for each node and pointer."""

from __future__ import annotations

import gc
import mmap
import tracemalloc

import numpy as np
import pytest
from conftest import bundled

from drgn_pageowner.analysis.leaks.leaks import find_leaks
from drgn_pageowner.analysis.leaks.reach import reach
from drgn_pageowner.analysis.types.exact import find_references
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.read.heap import HeapReader
from drgn_pageowner.kernel.read.inventory import InventoryReader

pytestmark = pytest.mark.one_of_a_kernel


@pytest.fixture(scope="module")
def heap() -> HeapReader:
    # Its own caches, so that nothing leads from them to what other tests have read.
    kernel = Kernel(bundled("linux-6.12/traps").prog, {}, {})
    return HeapReader(kernel, InventoryReader(kernel, of_heap=True), types=True)


def memory_of(array: np.ndarray) -> int:
    """Return the number of bytes of *array*, unless it takes memory only where it is written."""
    base: object = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return 0 if isinstance(base, mmap.mmap | memoryview) else array.nbytes


def test_columns_of_all_pages_are_few_and_narrow(heap: HeapReader) -> None:
    number, found = len(heap.reader.pages), dict[int, int]()
    seen, left = set[int](), [heap]
    while left:
        one: object = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            if one.shape == (number,):
                found[id(one)] = memory_of(one)
        elif isinstance(one, dict | list | tuple) or type(one).__module__.startswith(
            "drgn_pageowner"
        ):
            left += gc.get_referents(one)
    assert 5 * number <= sum(found.values()) <= 14 * number


def test_marking_takes_little_memory_for_each_node_and_pointer(heap: HeapReader) -> None:
    found = heap.heap
    assert found.typing is not None
    # Types that the kernel's symbols describe are read only once.
    find_references(found)
    pointers = len(found.typing.pointers) + len(found.holder)
    tracemalloc.start(1)
    try:
        marked = reach(found)
        assert find_leaks(marked).lost_pages > 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    pages = len(heap.reader.pages)
    assert peak < 3.5e6 + 8 * pages + 60 * found.nodes + 30 * pointers
