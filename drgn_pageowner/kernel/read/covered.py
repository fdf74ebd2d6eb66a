# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find the record that covers each page while the records are read, a section at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.parallel import shared_empty
from drgn_pageowner.kernel.linux.sections import Section, find_sections
from drgn_pageowner.model.arrays import Array, among, ranges, slices
from drgn_pageowner.model.pages import FREE_STATES, Pages
from drgn_pageowner.model.threads import in_threads

__all__ = ("CoveredPages", "sections_with_rows")

# Number of sections that a thread numbers together.
_TOGETHER = 8


def sections_with_rows(kernel: Kernel, max_pfn: int) -> list[tuple[Section, int, int]]:
    """
    Get the sections whose pages have rows in :class:`~drgn_pageowner.model.pages.Pages`.

    :return: Each section with its first row, and the row after its last.
    """
    found, row = [], 0
    for section in find_sections(kernel):
        number = min(section.end_pfn, max_pfn) - section.start_pfn
        if number > 0:
            found.append((section, row, row + number))
            row += number
    return found


class CoveredPages:
    """
    The record whose pages include each page, free or not.

    Several processes may fill in sections (:meth:`fill`), if one process then says how many records
    these have, in order (:meth:`add`).
    """

    def __init__(self, kernel: Kernel, max_pfn: int, *, size: int) -> None:
        """
        :param size: See :func:`~drgn_pageowner.kernel.dump.parallel.shared_empty`.
        """
        places = sections_with_rows(kernel, max_pfn)
        self._rows = {section.start_pfn: (first, end) for section, first, end in places}
        number = places[-1][2] if places else 0
        # Number of the record in its section, plus 1; 0 for none.
        self._record = shared_empty(kernel, number, np.int32, size=size, zeroed=True)
        # Row after the last of each section that has records; number of records before it.
        self._ends: list[tuple[int, int]] = []
        self._records = 0
        self._whole = True

    def fill(self, section: Section, pfn: Array, order: Array) -> bool:
        """
        Mark the pages of the records of a section.

        :param pfn: First PFN of each record of the section, ascending: ``int64``.
        :param order: Their orders.
        :return: Whether all pages of the records are in the section.
        """
        first, end = self._rows.get(section.start_pfn, (0, 0))
        place = pfn - section.start_pfn
        if len(place) and int(place[-1]) >= end - first:
            return False
        record = self._record[first:end]
        number = np.arange(1, len(place) + 1, dtype=np.int32)
        several = np.flatnonzero(order)
        if not len(several):
            record[place] = number
            return True
        # Records of several pages override those of one.
        alone = order == 0
        record[place[alone]] = number[alone]
        place, number = place[several], number[several]
        sizes = np.int64(1) << order[several].astype(np.int64)
        inside = bool((place + sizes <= end - first).all())
        if inside:
            record[ranges(place, sizes)] = np.repeat(number, sizes)
        return inside

    def add(self, section: Section, records: int, whole: bool) -> None:
        """
        Note a section that was filled in.

        :param records: Number of its records.
        :param whole: What :meth:`fill` returned.
        """
        if records:
            _, end = self._rows.get(section.start_pfn, (0, 0))
            self._ends.append((end, self._records))
        self._records += records
        self._whole &= whole

    def take(self, pages: Pages) -> Array | None:
        """
        Return the record that covers each page, as
        :func:`~drgn_pageowner.model.heap.record_of_row` does; this can be done once.

        :return: ``int32``, a row per page; ``None`` if a record has pages in several sections, so
            that this is not known.
        """
        record = self._record
        if not self._whole or len(record) != len(pages):
            return None
        self._record = record[:0]

        def number(several: Sequence[tuple[int, int, int]]) -> None:
            whole = slice(several[0][0], several[-1][1])
            part = record[whole]
            none = (part == 0) | among(pages.state[whole], FREE_STATES)
            for start, end, base in several:
                record[start:end] += np.int32(base - 1)
            # All bits of -1 are set.
            part |= np.negative(none.view(np.int8))

        # Sections without records count as part of the next one.
        starts = [0, *(end for end, _ in self._ends)]
        ends = [*self._ends, (len(record), 0)]
        places = [(start, *end) for start, end in zip(starts, ends, strict=True)]
        in_threads(number, [places[piece] for piece in slices(len(places), _TOGETHER)])
        return record
