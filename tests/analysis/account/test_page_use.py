# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check that ``page`` prints the class in which ``account`` counts a page, for all classes of all
dumps."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from asking import ask
from conftest import Dump

from drgn_pageowner.analysis.account.page_class import PageClass, page_classes
from drgn_pageowner.kernel.linux.vmalloc import task_stacks

PER_CLASS = 2


@pytest.mark.once
@pytest.mark.one_of_a_kernel
def test_page_says_the_class_that_account_counts(dump: Dump, live: Callable[[Dump], Any]) -> None:
    session = live(dump)
    inventory = session.inventory()
    classes = page_classes(inventory)
    chosen = np.random.default_rng(len(classes))
    expected: dict[int, str] = {}
    for number in np.unique(classes).tolist():
        rows = chosen.choice(np.flatnonzero(classes == number), PER_CLASS)
        for pfn in inventory.memory.pages.pfns(rows).tolist():
            expected[pfn] = PageClass(number).label
    words = " ".join(f"pfn:{pfn:#x}" for pfn in expected)
    status, said, _ = ask(session, f"page {words} --format json")
    assert status == 0
    found = [json.loads(line) for line in said.splitlines()]
    assert {one["pfn"]: one["class"] for one in found} == expected
    for one in found:
        assert one["class"].startswith("free") == one["state"].startswith("free"), one
    states = {one["class"]: one["state"] for one in found}
    assert states["slab"] == "slab"
    assert states["anonymous"].startswith("anonymous")


@pytest.mark.parametrize("name", ["linux-6.12/traps", "linux-6.12-i386/traps"])
def test_a_stack_has_its_task(
    name: str, dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    dump = dump_named(name)
    session = live(dump)
    [stack] = [stack for stack in task_stacks(dump.linux, []) if stack.pid == 1]
    status, said, _ = ask(session, f"page {stack.start:#x}")
    assert status == 0
    assert f"class kernel stacks: stack of {stack.comm} (pid 1)" in " ".join(said.split())
    # With --quick, not all pages are read, so the class is left out.
    status, said, _ = ask(session, f"page {stack.start:#x} --quick")
    assert status == 0
    assert "kernel stacks" not in said
