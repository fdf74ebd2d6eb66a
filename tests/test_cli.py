# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line as a process; other tests ask it in theirs, with the dump open already."""

from __future__ import annotations

import pytest
from conftest import Dump, run_cli


@pytest.mark.parametrize(
    "command",
    ["info", "top --limit 5", "list --format debugfs", "frag all --order 4", "account", "leaks",
     "list --comm", "top --pid x"],
)  # fmt: skip
def test_a_process_says_what_tests_see_of_a_command(one_dump: Dump, command: str) -> None:
    process = run_cli("-c", one_dump.vmcore, "-s", one_dump.vmlinux, *command.split())
    here = one_dump.run(*command.split())
    assert (process.returncode, process.stdout, process.stderr) == (
        here.returncode, here.stdout, here.stderr,
    )  # fmt: skip
