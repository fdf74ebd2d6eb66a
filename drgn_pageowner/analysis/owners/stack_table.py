# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Distinct stacks as arrays, so that a property of a frame is computed once for each PC.

A machine with a terabyte of memory has about 100,000 stacks with 10,000 distinct PCs, so nothing
here loops over stacks in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from drgn_pageowner.analysis.owners.allocator import is_allocation_function, kind_of_frame
from drgn_pageowner.model.arrays import Array, distinct, looked_up, ranges, slices
from drgn_pageowner.model.records import Snapshot
from drgn_pageowner.model.scratch import large_empty
from drgn_pageowner.model.stacks import Frame, is_entry
from drgn_pageowner.model.threads import in_threads

__all__ = (
    "StackTable",
    "allocator_codes",
    "allocator_names",
    "kinds_of_stacks",
    "modules_of_stacks",
    "per_record",
    "per_stack",
    "replaced",
    "replaced_allocators",
    "with_stack",
    "with_stacks",
)


# One in so many PCs: to find the distinct ones of all stacks takes longer than of less than that.
_FEW = 16


class StackTable:
    """Some stacks, whose frames lie one after another, innermost first."""

    def __init__(self, frames: Sequence[Frame], code: Array, lengths: Array) -> None:
        """
        :param frames: Distinct frames.
        :param code: ``int64``, a row for each frame of each stack: index in *frames*.
        :param lengths: ``int64``, a row per stack: the number of its frames.
        """
        self.frames = frames
        self.code = code
        self.ends = np.cumsum(lengths, dtype=np.int64)
        """``int64``, a row per stack: the end of its frames in :attr:`code`."""
        self.starts: Array = self.ends - lengths
        """``int64``, a row per stack: the beginning of its frames."""

    @classmethod
    def of(cls, snapshot: Snapshot, numbers: Array) -> StackTable:
        """
        Make a table of stacks of *snapshot*; each of their PCs is symbolized once.

        :param numbers: ``int64``: numbers in :attr:`Snapshot.stacks`; -1 for no stack.
        """
        stacks = snapshot.stacks
        first = np.zeros(len(numbers), np.int64)
        lengths = np.zeros(len(numbers), np.int64)
        known = np.flatnonzero(numbers >= 0)
        first[known] = stacks.offsets[numbers[known]]
        lengths[known] = stacks.offsets[numbers[known] + 1] - first[known]
        places: Array | slice
        if len(known) and (np.diff(numbers[known]) == 1).all():
            # The frames of all stacks from one to another lie one after another.
            places = slice(int(first[known[0]]), int(first[known[-1]] + lengths[known[-1]]))
        else:
            places = ranges(first, lengths)
        if lengths.sum() < len(stacks.pcs) // _FEW:
            pcs, code = np.unique(stacks.pcs[places], return_inverse=True)
            return cls(snapshot.frames(pcs.tolist()), code.reshape(-1), lengths)
        every, code = stacks.coded_pcs()
        code = code[places]
        used = np.zeros(len(every), bool)
        used[code] = True
        rank = np.cumsum(used) - 1
        return cls(snapshot.frames(every[used].tolist()), rank[code], lengths)

    @classmethod
    def of_frames(cls, stacks: Sequence[Sequence[Frame]]) -> StackTable:
        """Make a table of stacks that are given as lists of frames."""
        frames = [frame for stack in stacks for frame in stack]
        lengths = np.array([len(stack) for stack in stacks], np.int64)
        return cls(frames, np.arange(len(frames)), lengths)

    def __len__(self) -> int:
        return len(self.ends)

    def marks(self, holds: Callable[[Frame], bool]) -> Array:
        """Return the frames that satisfy *holds*: ``bool``, the shape of :attr:`code`."""
        return np.array([bool(holds(frame)) for frame in self.frames], bool)[self.code]

    def any(self, marks: Array) -> Array:
        """Return whether a stack has a frame of *marks*: ``bool``, a row per stack."""
        before = np.concatenate([[0], np.cumsum(marks)])
        result: Array = before[self.ends] > before[self.starts]
        return result

    def first(self, marks: Array) -> Array:
        """
        Find the innermost frame of *marks* in each stack.

        :return: ``int64``, a row per stack: index in :attr:`code`; -1 for none.
        """
        places = np.append(np.flatnonzero(marks), len(marks))
        found = places[np.searchsorted(places[:-1], self.starts)]
        result: Array = np.where(found < self.ends, found, -1)
        return result

    def of_each(self) -> Array:
        """Return the stack of each frame: ``int64``, the shape of :attr:`code`."""
        return np.repeat(np.arange(len(self)), self.ends - self.starts)


def replaced(table: StackTable) -> Array:
    """
    Find the frames whose symbol is of a module that was loaded later, at the address of the frame's
    own module, as :func:`~drgn_pageowner.model.stacks.frames_of_stack` does.

    :return: ``bool``, the shape of :attr:`StackTable.code`.
    """
    result = table.marks(lambda frame: frame.replaced)
    if not result.any():
        return result
    entered = table.marks(is_entry)
    starts = np.zeros(len(result) + 1, bool)
    starts[table.starts] = True
    result[1:] &= ~entered[:-1] | starts[1:-1]
    # All frames of the same module in the same stack.
    names = {frame.module for frame in table.frames if frame.module is not None}
    number = {name: place for place, name in enumerate(sorted(names))}
    module = np.array([number.get(frame.module or "", -1) for frame in table.frames])[table.code]
    pair = table.of_each() * len(names) + module
    return (module >= 0) & np.isin(pair, pair[result])


def allocator_codes(table: StackTable) -> Array:
    """
    Find the allocator of each stack, as
    :func:`~drgn_pageowner.analysis.owners.allocator.allocator_of` does.

    :return: ``int64``, a row per stack: index in :attr:`StackTable.frames`; -1 for an empty stack.
    """
    others = table.marks(lambda f: f.name is None or not is_allocation_function(f.name))
    place = table.first(others)
    # If all frames are functions of the memory manager, take the outermost.
    place = np.where(place < 0, table.ends - 1, place)
    result: Array = np.full(len(table), -1, np.int64)
    filled = np.flatnonzero(table.ends > table.starts)
    result[filled] = table.code[place[filled]]
    return result


def allocator_names(table: StackTable) -> Array:
    """
    Name the allocator of each stack, without offsets.

    :return: ``object`` (str), a row per stack; empty for an empty stack.
    """

    def name(frame: Frame) -> str:
        if frame.name is None:
            return f"{frame.pc:#x}"
        return frame.name + (f" [{frame.module}]" if frame.module else "")

    addresses = [f"{frame.pc:#x}" for frame in table.frames]
    code = allocator_codes(table)
    code = code + len(addresses) * replaced_allocators(table, code)
    return _texts([*map(name, table.frames), *addresses, ""], code)


def replaced_allocators(table: StackTable, codes: Array) -> Array:
    """
    Return whether the allocator of each stack is a frame that :func:`replaced` finds.

    :param codes: The result of :func:`allocator_codes`.
    :return: ``bool``, a row per stack.
    """
    return table.any(replaced(table) & (table.code == codes[table.of_each()]))


def modules_of_stacks(table: StackTable) -> Array:
    """
    Name the module of each stack's innermost frame that is in one.

    :return: ``object`` (str), a row per stack; empty if none is.
    """
    place = table.first(table.marks(lambda frame: frame.module is not None) & ~replaced(table))
    code = np.append(table.code, len(table.frames))[place]
    return _texts([*(frame.module or "" for frame in table.frames), ""], code)


def kinds_of_stacks(table: StackTable) -> Array:
    """
    Return ``"slab"``, ``"vmalloc"`` or ``"others"``, by the rules of ``page_owner_sort``.

    :return: ``object`` (str), a row per stack.
    """
    kinds = [kind_of_frame(frame) for frame in table.frames]
    told = np.array([kind is not None for kind in kinds], bool)[table.code]
    code = np.append(table.code, len(table.frames))[table.first(told)]
    return _texts([*(kind or "others" for kind in kinds), "others"], code)


def _texts(texts: Sequence[str], index: Array) -> Array:
    values = np.empty(len(texts), object)
    values[:] = texts
    result: Array = values[index]
    return result


def per_stack(snapshot: Snapshot, stacks: Array, function: Callable[[StackTable], Array]) -> Array:
    """
    Compute something for the stack of every record, once per distinct stack.

    :param stacks: ``int64``, shape ``(n,)``: :attr:`Snapshot.stack`.
    :param function: Returns an array with a row per stack of a table.
    :return: Shape ``(n,)``.
    """
    numbers, inverse = distinct(stacks)
    result: Array = function(StackTable.of(snapshot, numbers))[inverse]
    return result


def per_record(snapshot: Snapshot, function: Callable[[StackTable], Array]) -> Array:
    """
    Compute something for the stack of every record, as :func:`per_stack` does, in little memory.

    :param function: Returns an array with a row per stack of a table.
    :return: Shape ``(n,)``.
    """
    # Most snapshots have only stacks of their records. The first row is for no stack.
    found = function(StackTable.of(snapshot, np.arange(-1, len(snapshot.stacks))))
    result = large_empty(len(snapshot), found.dtype)

    def fill(piece: slice) -> None:
        result[piece] = looked_up(found, snapshot.stack_of(piece) + 1)

    in_threads(fill, slices(len(result)))
    return result


def _numbers(snapshot: Snapshot, among: Array) -> tuple[Array, Array]:
    """
    Return the stack of every record plus 1, so that 0 is for no stack, and the stacks in use.

    :param among: ``bool``, shape ``(n,)``: the records whose stacks are in use.
    :return: ``int32``, shape ``(n,)``; and ``int64``, ascending; -1 for no stack.
    """
    used = np.zeros(len(snapshot.stacks) + 1, bool)
    number = np.zeros(len(snapshot), np.int32)

    def find(piece: slice) -> None:
        if "handle" in snapshot:
            number[piece] = snapshot.stacks.index(snapshot["handle"][piece]) + 1
        # Threads write the same value.
        used[number[piece][among[piece]]] = True

    in_threads(find, slices(len(number)))
    return number, np.flatnonzero(used) - 1


def with_stack(snapshot: Snapshot, among: Array, holds: Callable[[StackTable], Array]) -> Array:
    """
    Find the records whose stack satisfies *holds*, which is called once.

    :param among: ``bool``, shape ``(n,)``: the records whose stacks are looked at.
    :param holds: Returns ``bool``, a row per stack of a table.
    :return: ``bool``, the same shape: true for every record that has such a stack.
    """
    return with_stacks(snapshot, among, [holds])[0]


def with_stacks(
    snapshot: Snapshot, among: Array, holds: Sequence[Callable[[StackTable], Array]]
) -> list[Array]:
    """Return the results of :func:`with_stack` for several functions, and look at the records
    once."""
    number, numbers = _numbers(snapshot, among)
    table = StackTable.of(snapshot, numbers)
    result = []
    for function in holds:
        # Element 0 is for -1, no stack.
        chosen = np.zeros(len(snapshot.stacks) + 1, bool)
        chosen[numbers[function(table)] + 1] = True
        result.append(looked_up(chosen, number))
    return result
