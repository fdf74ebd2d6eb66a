# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the size of a kernel stack, also if DWARF has ``union thread_union``."""

from __future__ import annotations

import pytest
from conftest import Dump
from drgn import Type, TypeMember

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux import vmalloc


def test_a_stack_has_as_many_pages_as_its_area(dump: Dump) -> None:
    size = vmalloc.thread_size(dump.linux)
    assert size % dump.linux.page_size == 0
    stacks = vmalloc.task_stacks(dump.linux, [])
    assert {stack.size for stack in stacks} == {size}
    # The stack pointers of sleeping tasks are near the top of their stacks.
    assert any(stack.start < stack.live < stack.start + size for stack in stacks)


@pytest.mark.parametrize("size", [8192, 32768])
def test_the_union_tells_it_where_there_is_one(
    one_dump: Dump, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In kernels with KASAN, "stack" of the union is an array of unsigned long."""
    prog = one_dump.prog
    word = prog.type("unsigned long")
    stack = TypeMember(prog.array_type(word, size // word.size), "stack")
    union = prog.union_type("thread_union", size, (stack,))

    def find_type(_: object, name: str) -> Type | None:
        return union if name == "union thread_union" else None

    monkeypatch.setattr(vmalloc, "find_type", find_type)
    assert vmalloc.thread_size(Kernel(prog)) == size
