# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Test command lines that users of crash, perf, page_owner_sort, git or drgn may try first.

Each works, or fails with a line that suggests the right command. docs/guesses.md lists them.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable

import pytest
from conftest import ROOT, Dump

from drgn_pageowner.cli import build_parser
from drgn_pageowner.commands import run_command
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.session import ProgramSession

# Command line, exit status, and pattern of the output.
GUESSES = (
    ("top", 0, r"^ *# +pages +size"),
    ("top -n 3", 0, r"^3 of "),
    ("top -n3", 0, r"^3 of "),
    ("top --limit=3", 0, r"^3 of "),
    ("--limit 3 top", 0, r"^3 of "),
    ("top --color never -n 1", 0, r"^1 of "),
    ("top --by function -n 2", 0, r"\ballocator\b"),
    ("top --by task -n 2", 0, r"\bcomm\b"),
    ("top --by process -n 2", 0, r"^ *pages"),
    ("top --by driver -n 2", 0, r"^ *pages"),
    ("top --sort size -n 2", 0, r"^2 of "),
    ("top --sort count -n 2", 0, r"^2 of "),
    ("top --min-size 1M", 0, r"MiB"),
    ("top --min-pages 100", 0, r"^ *# +pages"),
    ("top --stack-contains leak -n 2", 0, r"po_leak"),
    ("top --skip 3 -n 2", 0, r"^2 of "),
    ("top --depth 2 -n 2", 0, r"^2 of "),
    ("top --comm nosuchtask", 0, r"no record has comm 'nosuchtask'"),
    ("top --module po_leek", 0, r"no record has module 'po_leek'; near: .*po_leak"),
    ("top --zone DMA33", 2, r"this kernel has .*DMA32"),
    ("top --cull=stacktrace", 2, r"--cull=stacktrace; did you mean --by\?"),
    ("top --name init", 2, r"did you mean --comm\?"),
    ("top --json", 2, r"did you mean --format json\?"),
    ("top --groupby comm", 2, r"did you mean --by\?"),
    ("top --by stacktrace -n 2", 0, r"^2 of "),
    ("top --by cgroup -n 2", 0, r"\bmemcg\b"),
    ("top --by colour", 2, r"known are stack, .*process and driver"),
    ("top --by allocater", 2, r"did you mean allocator\?"),
    ("top --process", 2, r"did you mean --by process\?"),
    ("top 5", 2, r"did you mean --limit 5\?"),
    ("list pfn:0x1000", 2, r"did you mean --pfn 0x1000\?"),
    ("leaks --by function -n 2", 0, r"are lost, by \d+ owners"),
    ("leaks --sort pages", 2, r"--sort: leaks are always sorted by pages"),
    ("leaks -n 2", 0, r"are lost, by \d+ owners"),
    ("leaks 1", 0, r"^#1 "),
    ("leaks po_leak_order", 0, r"^#1 .*po_leak_order"),
    ("leaks nothing_of_that_name", 2, r"no owner 'nothing_of_that_name'"),
    ("leaks --module po_leak -n 1", 0, r"po_leak"),
    ("leaks --confidence certain", 2, r"none of high, medium, low"),
    ("list -n 2", 0, r"^2 records"),
    ("page pfn:0x1000", 0, r"^pfn|^page"),
    ("page nonsense", 2, r"nonsense"),
    ("account", 0, r"^class +pages"),
    ("files", 2, r"no command 'files': try report"),
    ("memcg", 2, r"try top --by memcg"),
    ("kmem -i", 2, r"no command 'kmem': try page"),
    ("slabtop", 2, r"try top --slab"),
    ("findleaks", 2, r"try leaks"),
    ("buddyinfo", 2, r"try frag buddyinfo"),
    ("tpo", 2, r"try top"),
    ("frobnicate", 2, r"known are info, list, top"),
    ("frag why --order 9 --gfp GFP_KERNEL", 0, r"would (succeed|fail)"),
    ("frag sideways", 2, r"no view 'sideways': known are"),
)


ROWS = (ROOT / "docs/guesses.md").read_text().splitlines()


@pytest.fixture(scope="module")
def session(dump_named: Callable[[str], Dump]) -> ProgramSession:
    return ProgramSession.of(dump_named("linux-6.12/traps").prog)


@pytest.mark.once
@pytest.mark.parametrize(("guess", "status", "said"), GUESSES, ids=[g[0] for g in GUESSES])
def test_a_guess_is_answered_or_led_on(
    session: ProgramSession, guess: str, status: int, said: str
) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            args = build_parser().parse_args(shlex.split(guess))
            found = run_command(args, session, out)
        except PageOwnerError as error:
            found = error.exit_status
            err.write(str(error))
    text = out.getvalue() + err.getvalue()
    assert found == status, text
    assert re.search(said, text, re.MULTILINE), text
    if status == 2:
        assert len(err.getvalue().splitlines()) == 1
        [row] = [row for row in ROWS if row.startswith(f"| `{guess}` |")]
        [message] = re.findall(r"refused: [^`]*`([^`]+)`", row)
        assert [part for part in message.split("...") if part not in err.getvalue()] == []


def test_the_documentation_has_every_guess() -> None:
    text = (ROOT / "docs/guesses.md").read_text()
    assert len(GUESSES) >= 40
    for guess, _, _ in GUESSES:
        assert f"`{guess}`" in text, guess
