# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines of ``top --drgn`` run, and give the same answer."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from asking import ask
from conftest import Dump


@pytest.mark.parametrize(
    "options",
    [
        "--by allocator",
        "--by comm,order --sort allocations --limit 5",
        "--module po_leak --min-age 1s --stack-contains leak --gfp GFP_KERNEL",
        "--freed --pfn 0x1000-0x2000",
    ],
)
def test_the_lines_give_the_same_answer(
    options: str, dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    dump = dump_named("linux-6.12/traps")
    status, lines, _ = ask(live(dump), f"top {options} --drgn")
    assert status == 0
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, {"prog": dump.prog})
    more = "" if "--limit" in options else " --limit 20"
    status, said, _ = ask(live(dump), f"top {options}{more} --format json")
    assert status == 0
    groups = json.loads(said)["groups"]
    assert groups
    assert printed.getvalue().splitlines() == [
        f"{group['pages']} {group['bytes']} {group['key']}" for group in groups
    ]


def test_what_has_no_lines_is_refused(
    dump_named: Callable[[str], Dump], live: Callable[[Dump], Any]
) -> None:
    session = live(dump_named("linux-6.12/traps"))
    for options in ("--slab", "--by process", "--skip 1", "--min-pages 3"):
        status, _, error = ask(session, f"top {options} --drgn")
        assert status == 2
        assert "--drgn" in error
