# SPDX-License-Identifier: LGPL-2.1-or-later
"""Judge the output of commands on a damaged dump, in a process that may crash or hang."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import resource
import select
import signal
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from conftest import Dump
from damaged import Patch, apply
from drgn import FaultError, Program
from questions import ask

from drgn_pageowner import snapshot
from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.kernel.linux.page_owner import OWNER_MEMBERS

__all__ = ("LIMIT_BYTES", "LIMIT_SECONDS", "Outcome", "judge", "limit_memory", "memory_in_use")

LIMIT_BYTES = 2 << 30
# CPU time, so that a busy machine is not mistaken for a hang.
LIMIT_SECONDS = 20
# Commands about one page, which may fail because this page is damaged.
_ABOUT_A_PAGE = ("page", "why", "refs", "frag --explain", "helpers")


class Outcome(NamedTuple):
    """Outcome of one command."""

    question: str
    kind: str
    """``"answered"``, ``"refused"``, or ``"fault"``."""
    detail: str = ""
    seconds: float = 0.0


def judge(
    dump: Dump,
    patches: tuple[Patch, ...],
    questions: tuple[str, ...],
    *,
    vital: bool = False,
    lost: tuple[tuple[int, int], ...] = (),
    limit: int = LIMIT_SECONDS,
) -> list[Outcome]:
    """
    Run *questions* on *dump* with *patches* applied, and compare its records with those of the
    intact dump.

    :param vital: Whether commands may fail.
    :param lost: PFN ranges whose records may differ.
    """
    whole = dump.snapshot
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            limit_memory()
            _answer(dump.prog, patches, questions, (whole, vital, lost), writing, limit)
        finally:
            os._exit(0)
    os.close(writing)
    said = _drain(reading, 10 * limit * (len(questions) + 2))
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return _outcomes(said, questions, status)


def memory_in_use() -> tuple[int, int]:
    """Return the bytes of address space and of resident memory that this process has, and that a
    child inherits."""
    total, resident = Path("/proc/self/statm").read_text().split()[:2]
    return int(total) * resource.getpagesize(), int(resident) * resource.getpagesize()


def limit_memory() -> None:
    """Limit a child that was just forked to :data:`LIMIT_BYTES` more than it began with."""
    limit = memory_in_use()[0] + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _drain(pipe: int, seconds: float) -> bytes:
    end = time.monotonic() + seconds
    pieces = []
    while (left := end - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        piece = os.read(pipe, 1 << 16)
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)


def _outcomes(said: bytes, questions: tuple[str, ...], status: int) -> list[Outcome]:
    found, rest = [], []
    for line in said.decode(errors="replace").splitlines():
        if line.startswith("["):
            with contextlib.suppress(ValueError):
                found.append(Outcome(*json.loads(line)))
                continue
        rest.append(line)
    if len(found) <= len(questions):
        # The question during which the process died; its last output shows where.
        question = (*questions, "records")[len(found)]
        by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        how = "hangs" if by in (None, signal.SIGPROF) else f"killed by signal {by}"
        found.append(Outcome(question, "fault", "\n".join([how, *rest])))
    return found


def _answer(
    prog: Program,
    patches: tuple[Patch, ...],
    questions: tuple[str, ...],
    expected: tuple[Any, bool, tuple[tuple[int, int], ...]],
    pipe: int,
    limit: int,
) -> None:
    # Write the traceback to the pipe, even from within C code; then the signal kills the process.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    faulthandler.register(signal.SIGPROF, file=pipe, all_threads=False, chain=True)
    apply(prog, patches)
    for question in (*questions, "records"):
        signal.setitimer(signal.ITIMER_PROF, limit)
        start = time.process_time()
        kind, detail = _one(prog, question, expected)
        outcome = Outcome(question, kind, detail, time.process_time() - start)
        os.write(pipe, (json.dumps(outcome) + "\n").encode())
    signal.setitimer(signal.ITIMER_PROF, 0)


def _one(
    prog: Program, question: str, expected: tuple[Any, bool, tuple[tuple[int, int], ...]]
) -> tuple[str, str]:
    whole, vital, lost = expected
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if question == "records":
                _compare(whole, prog, lost)
            else:
                ask(prog, question)
    except PageOwnerError as error:
        text = str(error)
        if "\n" in text or not text:
            return "fault", f"not one line: {text!r}"
        allowed = vital or isinstance(error, UsageError) or question.startswith(_ABOUT_A_PAGE)
        # A kernel may lack the feature that the command shows.
        allowed |= text.startswith("this kernel")
        # This message is for exceptions that were not handled where they should be, so it counts as
        # a fault.
        allowed &= "makes no sense" not in text
        if not allowed and error.__cause__ is not None:
            text += "\n" + "".join(traceback.format_exception(error.__cause__))
        return ("refused" if allowed else "fault"), f"refused: {text}"
    except Exception as error:
        if isinstance(error, FaultError) and question == "helpers":
            return "refused", str(error)
        return "fault", traceback.format_exc(limit=-12)
    lines = said.getvalue().splitlines()
    if not all(line.startswith("drgn-pageowner: ") for line in lines):
        return "fault", f"said on stderr: {lines}"
    return "answered", ""


def _compare(whole: Any, prog: Program, lost: tuple[tuple[int, int], ...]) -> None:
    """:raises AssertionError: if a record outside *lost* is not as in *whole*"""
    damaged = snapshot(prog, freed=True)
    for first, end in lost:
        assert first <= end
    columns = [name for name in (*OWNER_MEMBERS, "allocated", "pfn") if name in whole.columns]
    kept = [np.ones(len(one["pfn"]), bool) for one in (whole, damaged)]
    for mask, one in zip(kept, (whole, damaged), strict=True):
        for first, end in lost:
            mask &= (one["pfn"] < first) | (one["pfn"] >= end)
    pfns = whole["pfn"][kept[0]]
    gone = np.setdiff1d(pfns, damaged["pfn"][kept[1]])
    assert not len(gone), f"{len(gone)} records are lost: pfn {gone[:5]}"
    place = np.searchsorted(damaged["pfn"], pfns)
    for name in columns:
        differ = whole[name][kept[0]] != damaged[name][place]
        assert not differ.any(), f"{int(differ.sum())} records differ in {name}"
