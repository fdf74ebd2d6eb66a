# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test what the frames of a stack tell about a module that was loaded in another's place."""

from __future__ import annotations

from drgn_pageowner.analysis.owners.allocator import allocator_of, modules_of
from drgn_pageowner.analysis.owners.stack_table import (
    StackTable,
    allocator_names,
    modules_of_stacks,
    replaced,
)
from drgn_pageowner.model.stacks import Frame, frames_of_stack


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
