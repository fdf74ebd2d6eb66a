# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames of modules that were unloaded, whose place another module took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Dump, dump_id, traps

from drgn_pageowner.analysis.leaks.unnamed import module_is_gone
from drgn_pageowner.analysis.owners.allocator import allocator_name, modules_of
from drgn_pageowner.analysis.owners.stack_table import (
    StackTable,
    allocator_names,
    modules_of_stacks,
    replaced,
)
from drgn_pageowner.kernel.linux.arch.arm64 import Arm64
from drgn_pageowner.kernel.linux.arch.x86 import X86_64
from drgn_pageowner.storage.session import SnapshotSession


@pytest.fixture(scope="module", params=traps(), ids=dump_id)
def dump(request: pytest.FixtureRequest) -> Dump:
    got: Dump = request.param()
    return got


def test_what_an_unloaded_module_lost_is_not_its_successors(dump: Dump) -> None:
    """po_leakgone lost pages and was unloaded; po_leak was loaded where it had been."""
    snapshot = dump.snapshot
    unloaded = ("po_leakgone", "po_gone")
    gone = [int(f["pfn"]) for f in dump.facts() if f.get("name") in unloaded and "pfn" in f]
    rows = np.flatnonzero(np.isin(snapshot["pfn"], gone))
    assert len(rows) == 27
    table = StackTable.of(snapshot, snapshot.stack[rows])
    assert not any("[" in name for name in allocator_names(table))
    assert module_is_gone(table).all()
    assert not modules_of_stacks(table).any()
    for number in set(snapshot.stack[rows].tolist()):
        frames = snapshot.stack_frames(number)
        assert "[" not in allocator_name(frames)
        assert modules_of(frames) == []


def test_frames_of_loaded_modules_are_theirs(dump: Dump) -> None:
    snapshot = dump.snapshot
    mine = [
        int(f["pfn"]) for f in dump.facts()
        if f.get("name") == "po_leak" and "pfn" in f and f.get("how") in ("single", "order", "tree")
    ]  # fmt: skip
    rows = np.flatnonzero(np.isin(snapshot["pfn"], mine))
    table = StackTable.of(snapshot, snapshot.stack[rows])
    in_module = table.marks(lambda frame: frame.module == "po_leak")
    assert in_module.any()
    assert not (replaced(table) & in_module).any()


def test_core_functions_are_called(dump: Dump) -> None:
    """The instructions of the kernel image show that the encodings of calls are known."""
    from drgn_pageowner.kernel.linux.kallsyms import _called

    frames = dump.snapshot.frames(np.unique(dump.snapshot.stacks.pcs).tolist())
    # The kernel's own init code is freed.
    init = [dump.prog.symbol(name).address for name in ("_sinittext", "_einittext")]
    core = [
        f for f in frames
        if f.name is not None and f.module is None and not init[0] <= f.pc <= init[1]
    ]  # fmt: skip
    called = _called(dump.linux, [frame.pc for frame in core])
    others = [str(f) for f, value in zip(core, called, strict=True) if not value]
    # Addresses where an exception came, and functions that Linux 5.10's unwinder guesses.
    assert len(others) <= 0.03 * len(core), others


def test_it_is_saved(dump: Dump, saved: Any) -> None:
    path: Path = saved(dump)
    snapshot = SnapshotSession(str(path)).snapshot(None)
    pcs = np.unique(dump.snapshot.stacks.pcs).tolist()
    assert snapshot.frames(pcs) == dump.snapshot.frames(pcs)


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("0000e800000000", True),  # call rel32
        ("0000000000ffd0", True),  # call *%rax
        ("00000041ff5424", False),  # cut off before its displacement
        ("00000041ff5608", True),  # call *8(%r14)
        ("0041ff54240800", False),
        ("000041ff542408", True),  # call *8(%r12)
        ("00ff1500000000", True),  # call *0(%rip)
        ("ff942400010000", True),  # call *0x100(%rsp)
        ("00000000ffe000", False),  # jmp *%rax
        ("5b415c415d5dc3", False),  # pop ..., ret
    ],
)
def test_calls_of_x86(code: str, wanted: bool) -> None:
    assert X86_64().calls(np.frombuffer(bytes.fromhex(code), np.uint8)[None]).tolist() == [wanted]


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        (0x94000001, True),  # bl
        (0x97FFFFFF, True),  # bl, backwards
        (0xD63F0200, True),  # blr x16
        (0xD73F0A11, True),  # blraa x16, x17
        (0x14000001, False),  # b
        (0xD61F0200, False),  # br x16
        (0xD65F03C0, False),  # ret
    ],
)
def test_calls_of_arm64(word: int, wanted: bool) -> None:
    code = np.array([word], "<u4").view(np.uint8)[None]
    assert Arm64().calls(code).tolist() == [wanted]
