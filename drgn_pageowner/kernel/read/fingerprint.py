# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find clues to the owner of memory in its contents, in bulk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from drgn_pageowner.kernel.dump.bulk import gather
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.kallsyms import load_kallsyms, module_regions
from drgn_pageowner.kernel.linux.slab_track import object_addresses
from drgn_pageowner.kernel.linux.translate import direct_map, image_range
from drgn_pageowner.kernel.read.heap import HeapReader
from drgn_pageowner.model.arrays import Array
from drgn_pageowner.model.fingerprint import Contents, find_numbers, find_text
from drgn_pageowner.model.heap import Slabs

__all__ = ("read_bytes", "read_contents")

_WORDS = 64
"""Number of words of each piece of memory that are examined, from its first nonzero word."""
_PIECES = 4096
_MOST_BYTES = 4096
# Maximum number of distinct symbol addresses to look up, because garbage may equal many of them.
_MOST_SYMBOLS = 20_000
# Modules are mapped close together, so an address within this distance (in bytes) of a loaded
# module is taken for an address in a module that was unloaded.
_NEAR = 16 << 20


def read_bytes(kernel: Kernel, addresses: Array, size: int) -> list[bytes]:
    """
    Read the first bytes of pieces of memory.

    :param addresses: ``uint64``, shape ``(n,)``: virtual addresses.
    :param size: Number of bytes to read at each address.
    :return: Contents of each piece; ``b""`` if it is not in the dump.
    """
    rows, there = gather(kernel.prog, addresses, np.dtype([("bytes", "u1", (size,))]))
    return [
        row.tobytes() if known else b""
        for row, known in zip(rows["bytes"], there.tolist(), strict=True)
    ]


def read_contents(reader: HeapReader, nodes: Array) -> Contents:
    """
    Search the contents of heap nodes for clues to the owners of the nodes.

    :param nodes: ``int64``, shape ``(n,)``: nodes that are records, slab objects or per-CPU memory.
    """
    addresses, sizes = _places(reader, nodes)
    tokens = _Tokens(reader)
    zero, there = np.zeros(len(addresses), bool), np.zeros(len(addresses), bool)
    parts: list[Array] = []
    for first in range(0, len(addresses), _PIECES):
        chosen = slice(first, first + _PIECES)
        words, starts, known = _windows(reader.reader.kernel, addresses[chosen], sizes[chosen])
        there[chosen] = known
        zero[chosen] = known & ~words.any(axis=1)
        for piece, column, token in tokens.find(words, addresses[chosen], sizes[chosen]):
            offset = starts[piece] + column * reader.word
            parts.append(np.stack([piece + first, offset, token]).astype(np.int32))
    piece, offset, token = np.concatenate([np.zeros((3, 0), np.int32), *parts], axis=1)
    order = np.lexsort((token, offset, piece))
    return Contents(
        address=addresses,
        zero=zero,
        there=there,
        piece=piece[order].astype(np.int32),
        offset=offset[order].astype(np.int32),
        token=token[order].astype(np.int32),
        tokens=tokens.texts,
    )


def _places(reader: HeapReader, nodes: Array) -> tuple[Array, Array]:
    """Return the virtual address (``uint64``) and the size in bytes (``int64``) of each node."""
    heap, kernel, size = reader.heap, reader.reader.kernel, reader.reader.kernel.page_size
    addresses, sizes = np.zeros(len(nodes), np.uint64), np.zeros(len(nodes), np.int64)
    records = np.flatnonzero(nodes < heap.first_object)
    mine = heap.records.select(nodes[records])
    addresses[records] = mine["pfn"].astype(np.uint64) * np.uint64(size) + np.uint64(
        direct_map(kernel)
    )
    sizes[records] = mine.pages * size
    percpu = np.flatnonzero(nodes >= heap.first_percpu)
    addresses[percpu] = heap.percpu.address[nodes[percpu] - heap.first_percpu]
    sizes[percpu] = heap.percpu.size[nodes[percpu] - heap.first_percpu]
    rest = np.flatnonzero((nodes >= heap.first_object) & (nodes < heap.first_percpu))
    objects, slabs = nodes[rest] - heap.first_object, heap.slabs
    pages = heap.inventory.memory.pages
    addresses[rest] = object_addresses(kernel, pages, slabs, objects)
    sizes[rest] = slabs.size[slabs.slab_of(objects)]
    return addresses, sizes


def _windows(kernel: Kernel, addresses: Array, sizes: Array) -> tuple[Array, Array, Array]:
    """
    Read :data:`_WORDS` words of each piece of memory, from its first nonzero word.

    :return: The words: ``uint64``, shape ``(n, _WORDS)``, zero after the end of the piece; the
        offset of the first of these words in the piece, in bytes: ``int64``, shape ``(n,)``; and
        whether the piece is in the dump: ``bool``, shape ``(n,)``.
    """
    words, there = _first_words(kernel, addresses, sizes, _WORDS)
    starts = np.zeros(len(addresses), np.int64)
    word = kernel.word.itemsize
    more = np.flatnonzero(there & ~words.any(axis=1) & (sizes > _WORDS * word))
    for first in range(0, len(more), _PIECES // 8):
        chosen = more[first : first + _PIECES // 8]
        whole, _ = _first_words(kernel, addresses[chosen], sizes[chosen], _MOST_BYTES // word)
        begin = np.argmax(whole != 0, axis=1)
        padded = np.pad(whole, ((0, 0), (0, _WORDS)))
        column = begin[:, None] + np.arange(_WORDS)
        words[chosen] = np.take_along_axis(padded, column, axis=1)
        starts[chosen] = begin * word
    return words, starts, there


def _first_words(
    kernel: Kernel, addresses: Array, sizes: Array, number: int
) -> tuple[Array, Array]:
    """
    Read up to *number* words of each piece of memory, but not beyond the end of its first page.

    :return: The words: ``uint64``, shape ``(n, number)``, zero after the last word that was read;
        and whether the piece is in the dump: ``bool``, shape ``(n,)``.
    """
    word = kernel.word.itemsize
    rows = np.zeros((len(addresses), number), np.uint64)
    there = np.zeros(len(addresses), bool)
    inside = (addresses % np.uint64(kernel.page_size)).astype(np.int64)
    count = np.minimum(np.minimum(kernel.page_size - inside, sizes) // word, number)
    for words in np.unique(count[count > 0]).tolist():
        mine = np.flatnonzero(count == words)
        dtype = np.dtype([("words", kernel.word, (words,))])
        values, there[mine] = gather(kernel.prog, addresses[mine], dtype)
        rows[mine, :words] = values["words"]
    return rows, there


class _Tokens:
    """Finds clues in words, and assigns an index (token) to each distinct kind and text."""

    def __init__(self, reader: HeapReader) -> None:
        self._reader = reader
        self._kernel = reader.reader.kernel
        self._kallsyms = load_kallsyms(reader.reader.kernel)
        self._image = image_range(reader.reader.kernel) or (0, 0)
        regions = sorted((start, end) for _, start, end in module_regions(reader.reader.kernel))
        self._starts = np.array([start for start, _ in regions], np.uint64)
        self._ends = np.array([end for _, end in regions], np.uint64)
        self._slabs: Slabs = reader.heap.slabs
        self._numbers: dict[tuple[str, str], int] = {}
        self._symbols: dict[int, int] = {}
        self.texts: list[tuple[str, str]] = []

    def _number(self, kind: str, text: str = "") -> int:
        if (kind, text) not in self._numbers:
            self._numbers[kind, text] = len(self.texts)
            self.texts.append((kind, text))
        return self._numbers[kind, text]

    def find(
        self, words: Array, addresses: Array, sizes: Array
    ) -> Iterator[tuple[Array, Array, Array]]:
        """
        Yield the clues in batches: index of the piece, column of the word, and token.

        :param words: ``uint64``, shape ``(n, w)``: ``w`` words of each piece of memory.
        :param addresses: ``uint64``, shape ``(n,)``: virtual address of each piece.
        :param sizes: Shape ``(n,)``: size of each piece, in bytes.
        :return: Three arrays per batch: ``int64``, shape ``(m,)``.
        """
        piece, column = np.nonzero(words)
        data = words[piece, column]
        token = np.full(len(data), -1, np.int64)
        self._pointers(data, token)
        own = (data >= addresses[piece]) & (data - addresses[piece] < sizes[piece])
        token[own] = self._number("itself")
        self._symbol_addresses(data, token)
        known, which, names = find_numbers(data)
        numbers = np.array([self._number("number", name) for name in names], np.int64)
        free = token[known] < 0
        token[known[free]] = numbers[which[free]]
        good = token >= 0
        yield piece[good], column[good], token[good]
        # Search for text only in words that are no other clue.
        rest = words.astype(self._kernel.word)
        rest[piece[good], column[good]] = 0
        row, place, text = find_text(rest)
        kinds, inverse = np.unique(text, return_inverse=True)
        numbers = np.array(
            [self._number("text", kind.decode("ascii", "replace")) for kind in kinds.tolist()],
            np.int64,
        )
        yield row, place, numbers[inverse] if len(kinds) else inverse

    def _pointers(self, data: Array, token: Array) -> None:
        reader, first = self._reader, self._reader.heap.first_object
        chosen = np.flatnonzero(data >= reader.resolver.lowest)
        node = reader.resolver.targets(data[chosen])
        objects = (node >= first) & (node < reader.first_percpu)
        slab = self._slabs.slab_of(node[objects] - first)
        caches = np.array([self._number("object", name) for name in self._slabs.caches], np.int64)
        token[chosen[objects]] = caches[self._slabs.cache[slab]]
        token[chosen[(node >= 0) & (node < first)]] = self._number("page")
        token[reader.percpu.find(data)[0]] = self._number("per-CPU")

    def _symbol_addresses(self, data: Array, token: Array) -> None:
        in_image = (data >= np.uint64(self._image[0])) & (data < np.uint64(self._image[1]))
        in_module = np.zeros(len(data), bool)
        if len(self._starts):
            low = np.uint64(max(int(self._starts[0]) - _NEAR, self._image[1]))
            high = np.uint64(min(int(self._ends.max()) + _NEAR, (1 << 64) - 1))
            near = (data >= low) & (data < high) & ~in_image
            place = np.maximum(np.searchsorted(self._starts, data, "right") - 1, 0)
            in_module = near & (data >= self._starts[place]) & (data < self._ends[place])
            token[near & ~in_module] = self._number("gone module")
        chosen = np.flatnonzero(in_image | in_module)
        addresses, inverse = np.unique(data[chosen], return_inverse=True)
        token[chosen] = self._names(addresses)[inverse]

    def _names(self, addresses: Array) -> Array:
        """Return the token of the symbol at each of *addresses*: ``int64``; -1 if none is there."""
        new = [a for a in addresses.tolist() if a not in self._symbols]
        new = new[: max(_MOST_SYMBOLS - len(self._symbols), 0)]
        frames = self._kallsyms.symbolize(np.array(new, np.uint64))
        for address, frame in zip(new, frames, strict=True):
            self._symbols[address] = -1
            if frame.name is not None:
                offset = f"+{frame.offset:#x}" if frame.offset else ""
                module = f" [{frame.module}]" if frame.module is not None else ""
                self._symbols[address] = self._number("symbol", f"{frame.name}{offset}{module}")
        return np.array([self._symbols.get(a, -1) for a in addresses.tolist()], np.int64)
