# SPDX-License-Identifier: LGPL-2.1-or-later
"""CMA: the areas of the contiguous memory allocator and their allocated pages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from drgn import Object

from drgn_pageowner.kernel.dump.bulk import find_object, has_member, read_bulk
from drgn_pageowner.kernel.dump.damage import (
    DAMAGE,
    name_of,
    unless_mistaken,
)
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.sections import pfn_limits
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.pages import CmaArea

__all__ = ("read_cma_areas",)


def read_cma_areas(kernel: Kernel, problems: list[str]) -> list[CmaArea]:
    """
    Read the ranges of every ``struct cma``; return an empty list without CONFIG_CMA.

    :param problems: List of messages, to which a line is added for each area that cannot be read.
    """
    areas = find_object(kernel.prog, "cma_areas")
    count = find_object(kernel.prog, "cma_area_count")
    if areas is None or count is None:
        return []
    found: list[CmaArea] = []
    for index in range(min(int(count), int(areas.type_.length))):
        try:
            found += _ranges(kernel, areas[index])
        except DAMAGE as error:
            unless_mistaken(error)
            problems.append(f"CMA area {index} cannot be read ({error})")
    return found


def _ranges(kernel: Kernel, cma: Object) -> Iterator[CmaArea]:
    """
    Yield the contiguous ranges of an area.

    :param cma: ``struct cma``
    :raises ValueError: if a range is beyond the end of memory
    """
    max_pfn = pfn_limits(kernel)[1]
    name = name_of(cma.name)
    order = int(cma.order_per_bit)
    # An area can have several ranges since Linux kernel commit c009da4258f9 ("mm, cma: support
    # multiple contiguous ranges, if requested") (in v6.15).
    if has_member(cma.type_, "ranges"):
        number = min(int(cma.nranges), cma.ranges.type_.length)
        ranges = [cma.ranges[index] for index in range(number)]
    else:
        ranges = [cma]
    for number, range_ in enumerate(ranges):
        pages = int(range_.count)
        if int(range_.base_pfn) + pages > max_pfn or not 0 <= order < 48:
            raise ValueError(f"{pages} pages from pfn {int(range_.base_pfn):#x} are beyond memory")
        yield CmaArea(
            name=name if len(ranges) == 1 else f"{name}[{number}]",
            start_pfn=int(range_.base_pfn),
            pages=pages,
            order_per_bit=order,
            allocated=_bitmap(kernel, int(range_.bitmap), pages, order),
        )


def _bitmap(kernel: Kernel, address: int, pages: int, order: int) -> Array:
    bits = pages >> order
    word = kernel.word.itemsize
    bulk = read_bulk(kernel.prog, address, -(-bits // (8 * word)) * word)
    taken = np.unpackbits(np.frombuffer(bulk.data, np.uint8), bitorder="little")[:bits]
    result: Array = np.repeat(taken != 0, 1 << order)
    return result
