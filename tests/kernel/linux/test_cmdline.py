# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test command lines of processes, in dumps without the memory of processes."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Dump, traps
from drgn import FaultError, Object

from drgn_pageowner.kernel.linux import cmdline
from drgn_pageowner.kernel.linux.cmdline import command_lines
from drgn_pageowner.kernel.linux.tasks import every_task


@pytest.mark.parametrize("get", traps(), ids=lambda get: str(get.args[0]))
def test_the_path_of_the_program_stands_for_its_arguments(get: Any) -> None:
    dump: Dump = get()
    found = command_lines(dump.linux)
    # The guest's init has called exec() to run the program that saves the kernel's files.
    assert found[1] == "/bin/truth"
    assert "/bin/work" in found.values()
    kernel_threads = {int(task.pid) for task in every_task(dump.linux, []) if not task.mm}
    assert len(kernel_threads) > 5
    assert not kernel_threads & set(found)


def test_arguments_are_read_where_the_dump_has_them(
    one_dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(task: Object) -> list[bytes]:
        if int(task.pid) == 1:
            return [b"/sbin/init", b"--user", b"\xff", b""]
        raise FaultError("excluded", 0)

    monkeypatch.setattr(cmdline, "cmdline", known)
    found = command_lines(one_dump.linux)
    assert found[1] == "/sbin/init --user \udcff"
    assert "/bin/work" in found.values()
