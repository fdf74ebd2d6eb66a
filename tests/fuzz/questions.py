# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands to run on every damaged dump: each command in each of its forms, and the helpers."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from drgn import Program

import drgn_pageowner
from drgn_pageowner.analysis.owners.group import GROUP_KEYS
from drgn_pageowner.commands import CommandParser, add_commands, run_command
from drgn_pageowner.commands.frag import VIEWS
from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.memmap import Memmap
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.storage.machine import PAGE_COLUMNS
from drgn_pageowner.storage.save import save
from drgn_pageowner.storage.session import SnapshotSession

__all__ = ("COMMANDS", "QUESTIONS", "ask")

# PFNs of pages with various uses: free, file, anonymous, slab, page table, kernel.
_PFNS = (0x10, 0x1000, 0x1234, 0x2400, 0x3456, 0x5000, 0x8001, 0xC0DE)
COMMANDS = (
    "info",
    "info --format json",
    *(f"list --freed --format {kind}" for kind in ("table", "debugfs", "json", "csv")),
    *(f"top --by {key} --limit 5" for key in GROUP_KEYS),
    "top --format json",
    "top --format csv --by comm,order",
    "account --zones --caches",
    "account --zones --caches --format json",
    "top --slab --format json",
    "account --slab",
    "allocinfo --format json",
    "list --format stacks",
    "leaks --all",
    "leaks --slab --format json",
    "leaks --slab --no-types",
    "leaks --suspects",
    "typegraph --check",
    "top --slab --by type --format json",
    "why --all task:1",
    "page --types 0xffff888001234560",
    *(f"why pfn:{pfn:#x}" for pfn in _PFNS),
    *(f"refs pfn:{pfn:#x} --format json" for pfn in _PFNS),
    *(f"page pfn:{pfn:#x}" for pfn in _PFNS),
    *(f"page pfn:{pfn:#x} --format json" for pfn in _PFNS),
    *(f"frag {view} --order 9" for view in VIEWS),
    "frag all --order 4 --format json",
    "frag --explain pfn:0x1000",
)


def _helpers(prog: Program) -> None:
    """Call the helpers of the API for a few pages, and for every record."""
    memmap = Memmap(Kernel(prog))
    for pfn in _PFNS:
        if memmap.section(pfn) is None:
            continue
        page = memmap.page(pfn)
        drgn_pageowner.page_ext(page)
        drgn_pageowner.page_owner(page)
        # drgn has no stack traces of i386.
        with contextlib.suppress(NotImplementedError):
            drgn_pageowner.page_owner_stack(page)
            drgn_pageowner.page_owner_free_stack(page)
    for _ in itertools.islice(drgn_pageowner.for_each_page_owner(prog), 100):
        pass


def _saved(prog: Program) -> None:
    """Check that a snapshot of a damaged dump can be read again."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/saved.parquet"
        save(ProgramSession(prog), path)
        session = SnapshotSession(path)
        for read in (
            lambda: session.snapshot(None, freed=True),
            lambda: session.memory(PAGE_COLUMNS),
            session.inventory,
            session.crash,
            session.modules,
        ):
            try:
                read()
            except PageOwnerError as error:
                # An error about a part that was not saved is not damage of the file.
                if str(error).startswith(path):
                    raise AssertionError(str(error)) from error


def _reported(prog: Program) -> None:
    """Check that a report can be written in each of its formats."""
    with tempfile.TemporaryDirectory() as directory:
        for suffix in ("html", "md", "json"):
            ask(prog, f"report {directory}/report.{suffix}")
        json.loads(Path(directory, "report.json").read_text("utf-8"))


def _triaged(prog: Program) -> None:
    """Check that no part of a triage crashes."""
    with tempfile.TemporaryDirectory() as directory:
        ask(prog, f"triage {directory}")
        index = json.loads(Path(directory, "index.json").read_text("utf-8"))
        for part in index["parts"]:
            assert part["status"] != "crashed", f"{part['name']}: {part['error']}"


_CALLS: dict[str, Callable[[Program], object]] = {
    "helpers": _helpers,
    "read_inventory": drgn_pageowner.read_inventory,
    "read_heap": drgn_pageowner.read_heap,
    "snapshot": drgn_pageowner.snapshot,
    "saved": _saved,
    "reported": _reported,
    "triaged": _triaged,
}
QUESTIONS = (*COMMANDS, *_CALLS)


def ask(prog: Program, question: str) -> str:
    """
    Run one of :data:`QUESTIONS`.

    :return: What was printed.
    :raises PageOwnerError: if it is refused
    :raises ValueError: if what was printed is no JSON and should be
    """
    if question in _CALLS:
        _CALLS[question](prog)
        return ""
    parser = CommandParser(prog="drgn-pageowner")
    add_commands(parser)
    args: argparse.Namespace = parser.parse_args(shlex.split(question))
    out = io.StringIO()
    status = run_command(args, ProgramSession(prog), out)
    text = out.getvalue()
    # Except for task names, which may be any bytes, the output must be text.
    text.encode("utf-8", "surrogateescape")
    if "--format json" in question and status == 0:
        lines = text.splitlines() if question.startswith("list") else [text]
        for line in lines[:: max(len(lines) // 200, 1)]:
            json.loads(line)
    return text
