# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compare types of addresses in drgn's shell with the objects of drgn's helpers."""

from __future__ import annotations

import pytest
from conftest import Dump, dump_id, traps
from drgn.helpers.linux.fs import path_lookup
from drgn.helpers.linux.pid import find_task

from drgn_pageowner import pageowner_type


@pytest.mark.parametrize("get", traps(), ids=dump_id)
def test_an_address_has_the_type_that_drgn_knows(get: type[Dump]) -> None:
    dump: Dump = get()
    prog = dump.prog
    task = find_task(prog, 1)
    # The cache's objects may be smaller than the structure, because the kernel leaves out unused
    # registers at its end.
    for byte in (0, 1, 8, prog.type("struct task_struct").member("mm").offset):
        found = pageowner_type(prog, int(task) + byte)
        assert found.type_.type_name() == "struct task_struct"
        assert found.address_ == int(task)
        assert found.pid == 1
    path = path_lookup(prog, "/")
    assert pageowner_type(prog, int(path.dentry)).type_.type_name() == "struct dentry"
    mm = pageowner_type(prog, int(task.mm))
    assert mm.owner == task
    init = prog["init_task"]
    assert pageowner_type(prog, init.tasks.address_of_()).address_ == init.address_


def test_where_nothing_tells_there_is_no_type(one_dump: Dump) -> None:
    with pytest.raises(LookupError, match="0x0 is unknown"):
        pageowner_type(one_dump.prog, 0)
