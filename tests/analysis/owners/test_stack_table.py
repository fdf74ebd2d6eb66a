# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test what the frames of a stack tell about a module that was loaded in another's place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from made import made_records

from drgn_pageowner.analysis.owners.allocator import allocator_of, modules_of
from drgn_pageowner.analysis.owners.stack_table import (
    StackTable,
    allocator_names,
    modules_of_stacks,
    replaced,
)
from drgn_pageowner.model.stacks import Frame, Stacks, frames_of_stack


def in_module(pc: int, name: str, module: str | None = "m", *, called: bool = True) -> Frame:
    return Frame(pc, name, 0, 16, module, called)


def test_a_module_that_came_later_is_in_no_frame_of_the_stack() -> None:
    stack = [
        in_module(1, "kmalloc", None),
        in_module(2, "f"),
        in_module(3, "g", called=False),
        in_module(4, "h", "other"),
    ]
    found = frames_of_stack(stack)
    assert [frame.replaced for frame in found] == [False, True, True, False]
    assert modules_of(found) == ["other"]
    allocator = allocator_of(found)
    assert allocator is not None
    assert str(allocator) == "0x2"
    table = StackTable.of_frames([stack, stack[:2]])
    assert replaced(table).tolist() == [False, True, True, False, False, False]
    assert allocator_names(table).tolist() == ["0x2", "f [m]"]
    assert modules_of_stacks(table).tolist() == ["other", "m"]


def test_an_interrupted_frame_needs_no_call() -> None:
    stack = [
        in_module(1, "irq_handler"),
        in_module(2, "asm_sysvec_apic_timer_interrupt", None),
        in_module(3, "g", called=False),
        in_module(4, "h"),
    ]
    assert not any(frame.replaced for frame in frames_of_stack(stack))
    assert not replaced(StackTable.of_frames([stack])).any()
    # The first frame of a stack has none before it.
    table = StackTable.of_frames([stack[:2], stack[2:]])
    assert replaced(table).tolist() == [False, False, True, True]


def test_a_table_of_few_stacks_is_like_that_of_all() -> None:
    handles = np.arange(1, 101, dtype=np.uint32)
    pcs = (np.arange(300, dtype=np.uint64) * 7 % 11 + 1).astype(np.uint64)
    records = replace(
        made_records(),
        stacks=Stacks(handles, np.arange(0, 301, 3, dtype=np.int64), pcs),
        symbolizer=None,
        _frames={},
    )
    every = StackTable.of(records, np.arange(-1, 100))
    # Neighbours, and others; -1 is no stack, wherever it stands.
    many = [*range(20, 40), -1, *range(40, 70)], [*range(50), 51], [*range(50, 20, -1)]
    for numbers in ([5], [-1], [-1, 99], list(range(50)), *many):
        table = StackTable.of(records, np.array(numbers))
        frames = [frame.pc for frame in table.frames]
        assert frames == sorted(set(frames))
        for place, number in enumerate(numbers):
            mine = table.code[table.starts[place] : table.ends[place]]
            its = every.code[every.starts[number + 1] : every.ends[number + 1]]
            assert [frames[code] for code in mine] == [every.frames[code].pc for code in its]
            assert [frames[code] for code in mine] == records.stacks[number].tolist()
