# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test hand-made frames without a symbol."""

from __future__ import annotations

import pytest
from handmade import frames

from drgn_pageowner.analysis.leaks.unnamed import freed_init, module_is_gone
from drgn_pageowner.analysis.owners.stack_table import StackTable

CORE, INIT, SAME_PAGE = "0xffffffffc0008010", "0xffffffffc000d00d", "0xffffffffc000d0f0"
LOADING = ["do_one_initcall", "do_init_module", "load_module"]


@pytest.mark.parametrize(
    ("stack", "freed", "gone"),
    [
        # A function of a loaded module, called by its init code.
        (["alloc_pages", "f [mod]", INIT, *LOADING], True, False),
        # Two functions of init code, in any pages, called before a function of the module.
        (["alloc_pages", "f [mod]", CORE, INIT, *LOADING], True, False),
        # The init function itself allocated memory; the module may still be loaded.
        (["alloc_pages", INIT, *LOADING], True, False),
        (["alloc_pages", SAME_PAGE, INIT, *LOADING], True, False),
        # do_one_initcall() may be inlined.
        (["alloc_pages", INIT, "do_init_module"], True, False),
        # A function in another section, but no function of a loaded module: the module was
        # unloaded.
        (["alloc_pages", CORE, INIT, *LOADING], True, True),
        # The caller does not load a module.
        (["alloc_pages", CORE, "kthread"], False, True),
        (["alloc_pages", CORE], False, True),
        (["alloc_pages", "f [mod]", "kthread"], False, False),
        ([], False, False),
    ],
)
def test_init_code_is_told_from_a_module_that_is_gone(
    stack: list[str], freed: bool, gone: bool
) -> None:
    # Frames of other stacks must not have an effect.
    others = [frames("alloc_pages", CORE, "kthread"), frames(INIT, "do_init_module"), frames()]
    table = StackTable.of_frames([*others, frames(*stack), *others])
    assert table.any(freed_init(table)).tolist() == [False, True, False, freed, False, True, False]
    assert module_is_gone(table).tolist() == [True, False, False, gone, True, False, False]
