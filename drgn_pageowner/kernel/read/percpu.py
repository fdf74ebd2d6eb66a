# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Map memory of per-CPU chunks, and pointers into them, to allocations (nodes of a heap).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drgn_pageowner.kernel.linux.percpu import PerCpuChunks
from drgn_pageowner.model.arrays import Array, ascending, sparse_zeros
from drgn_pageowner.model.heap import PerCpu

__all__ = ("PerCpuNodes",)

# If per-CPU variables begin at address 0, pointers into the first chunk are small numbers, as many
# other words are. Only pointers to the start of an allocation count then, allowing for the flags
# that percpu_ref has in the lowest bits of its pointer (__PERCPU_REF_FLAG_BITS).
_SMALL = 1 << 32
_FLAGS = 3
# Chunks whose pointers are farther apart than this are searched separately.
_FAR = 1 << 32


class PerCpuNodes:
    """Map from bytes in pages of per-CPU chunks to allocations."""

    def __init__(
        self,
        chunks: PerCpuChunks | None,
        rows: Callable[[Array], Array],
        number_of_rows: int,
        page_size: int,
        word_size: int,
        first_node: int,
    ) -> None:
        """
        :param rows: Function that takes virtual addresses (``uint64``) and returns the rows of
            their pages (``int64``; -1 for none).
        :param first_node: Node of the first allocation.
        """
        self._page_size = page_size
        self._first_node = first_node
        # Few pages are part of chunks. The chunk is stored plus 1, so that other pages have 0.
        self._chunk_of_row = sparse_zeros(number_of_rows, np.int32)
        self._page_of_row = sparse_zeros(number_of_rows, np.int32)
        self._cpu_of_row = sparse_zeros(number_of_rows, np.int32)
        self.rows = np.zeros(0, np.int64)
        """``int64``: rows of the pages that are part of chunks, ascending."""
        self.allocations = PerCpu.none()
        self._cpus: tuple[int, ...] = ()
        self._base = self._units = np.zeros(0, np.uint64)
        self._clusters: list[Array] = []
        self._stride = 1
        self._starts = self._ends = self._hidden = np.zeros(0, np.int64)
        if chunks is None:
            return
        self._cpus = chunks.cpus
        self._hidden = chunks.hidden
        self._base, self._units = chunks.base, chunks.units
        pointers = chunks.base + chunks.units[0] - np.uint64(chunks.shift)
        # Truncate to the width of the kernel's addresses.
        self._pointers = pointers & np.uint64((1 << 8 * word_size) - 1)
        self._lengths = chunks.pages.astype(np.uint64) * np.uint64(page_size)
        # Chunk index times this stride plus offset sorts the allocations of all chunks.
        self._stride = int(self._lengths.max(initial=0))
        self._starts = chunks.chunk * self._stride + chunks.start
        self._ends = chunks.chunk * self._stride + chunks.end
        offset = chunks.start.astype(np.uint64)
        self.allocations = PerCpu(
            address=chunks.base[chunks.chunk] + chunks.units[0] + offset,
            pointer=self._pointers[chunks.chunk] + offset,
            size=chunks.end - chunks.start,
        )
        self._find_rows(chunks, rows)
        order = np.argsort(self._pointers)
        gaps = np.diff(self._pointers[order].astype(np.float64)) > _FAR
        self._clusters = np.split(order, np.flatnonzero(gaps) + 1)

    def _find_rows(self, chunks: PerCpuChunks, rows: Callable[[Array], Array]) -> None:
        number = np.repeat(np.arange(len(chunks.pages)), chunks.pages)
        page = np.arange(len(number)) - np.repeat(
            np.cumsum(chunks.pages) - chunks.pages, chunks.pages
        )
        first = chunks.base[number] + page.astype(np.uint64) * np.uint64(self._page_size)
        found = rows((first + chunks.units[:, None]).ravel()).reshape(len(chunks.units), -1)
        for cpu, mine in enumerate(found):
            good = mine >= 0
            self._chunk_of_row[mine[good]] = number[good] + 1
            self._page_of_row[mine[good]] = page[good]
            self._cpu_of_row[mine[good]] = cpu
        self.rows = ascending(found[found >= 0])

    def has(self, rows: Array) -> Array:
        """Return whether each page is part of a chunk: ``bool``."""
        result: Array = self._chunk_of_row[rows] > 0
        return result

    def at(self, rows: Array, offset: Array, other: int) -> Array:
        """
        Find the nodes that own bytes in pages of chunks.

        :param rows: Rows of the pages: ``int64``.
        :param offset: Offset in each page, in bytes: ``int64``.
        :param other: Node to return for bytes outside a chunk, in a page that a chunk shares.
        :return: ``int64``; -1 for bytes that are not allocated.
        """
        chunk = self._chunk_of_row[rows].astype(np.int64) - 1
        inside = self._page_of_row[rows].astype(np.int64) * self._page_size + offset
        node = self._node(chunk, inside)
        node[inside < self._hidden[chunk]] = other
        return node

    def inside(self, rows: Array, offset: Array, nodes: Array) -> Array:
        """
        Get the offsets of bytes in the allocations that own them.

        :param nodes: Result of :meth:`at` for the same bytes.
        :return: ``int64``, in bytes; -1 where *nodes* has no allocation.
        """
        result = np.full(len(rows), -1, np.int64)
        number = nodes - self._first_node
        mine = np.flatnonzero((number >= 0) & (number < len(self._starts)))
        if len(mine):
            byte = self._page_of_row[rows[mine]].astype(np.int64) * self._page_size + offset[mine]
            result[mine] = byte - self._starts[number[mine]] % self._stride
        return result

    def _node(self, chunk: Array, offset: Array) -> Array:
        if not len(self._starts):
            return np.full(len(chunk), -1, np.int64)
        key = chunk * self._stride + offset
        place = np.maximum(np.searchsorted(self._starts, key, "right") - 1, 0)
        good = (self._starts[place] <= key) & (key < self._ends[place])
        result: Array = np.where(good, place + self._first_node, -1)
        return result

    def find(self, data: Array) -> tuple[Array, Array]:
        """
        Find words that are a ``void __percpu *`` of an allocation.

        :param data: ``uint64``, shape ``(n,)``.
        :return: Indices of the words in *data*, and the nodes: ``int64``.
        """
        places, nodes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for cluster in self._clusters:
            starts, lengths = self._pointers[cluster], self._lengths[cluster]
            low, end = starts[0], starts[-1] + lengths[-1]
            place = np.flatnonzero(data - low < end - low)
            which = np.searchsorted(starts, data[place], "right") - 1
            offset = data[place] - starts[which]
            inside = offset < lengths[which]
            place, which, offset = place[inside], which[inside], offset[inside].astype(np.int64)
            node = self._node(cluster[which], offset)
            good = node >= 0
            if int(end) < _SMALL:
                start = self._starts[node[good] - self._first_node] % self._stride
                good[good] = offset[good] - start <= _FLAGS
            places.append(place[good])
            nodes.append(node[good])
        return np.concatenate(places), np.concatenate(nodes)

    def name(self, node: int, row: int, offset: int) -> str:
        """Describe a byte of an allocation: the pointer, the offset, and the CPU of the copy."""
        number = node - self._first_node
        inside = int(self._page_of_row[row]) * self._page_size + offset
        inside -= int(self._starts[number]) % self._stride
        pointer = int(self.allocations.pointer[number])
        cpu = self._cpus[int(self._cpu_of_row[row])]
        return f"per-CPU memory {pointer:#x} + {inside:#x} of CPU {cpu}"

    def copy(self, row: int, offset: int) -> tuple[int, int]:
        """Get the CPU whose copy a byte in a page of a chunk is in, and its virtual address."""
        which = int(self._cpu_of_row[row])
        inside = int(self._page_of_row[row]) * self._page_size + offset
        start = int(self._base[int(self._chunk_of_row[row]) - 1]) + int(self._units[which])
        return self._cpus[which], start + inside
