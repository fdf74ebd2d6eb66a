# SPDX-License-Identifier: LGPL-2.1-or-later
"""Large arrays are in a file beyond a limit, and hold the same values."""

from __future__ import annotations

import errno
import mmap
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from asking import ask

from drgn_pageowner.errors import PageOwnerError
from drgn_pageowner.kernel.dump import parallel
from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.dump.open import ProgramOptions, open_program
from drgn_pageowner.kernel.session import ProgramSession
from drgn_pageowner.model import scratch
from drgn_pageowner.model.arrays import Growing, sparse_zeros
from drgn_pageowner.model.scratch import (
    held_bytes,
    large_empty,
    large_full,
    large_shared,
    limit_memory,
    memory_limit,
)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_limit_after() -> Iterator[None]:
    """No limit is left, nor an array that counts."""
    before = held_bytes()
    yield
    limit_memory(None)
    assert held_bytes() == before


def in_file(array: Any) -> bool:
    """Return whether *array* is in a file: such a mapping has a name that ends so."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            low, high = (int(end, 16) for end in line.split()[0].split("-"))
            if low <= address < high:
                return "(deleted)" in line and "/dev/zero" not in line
    raise AssertionError(f"{address:#x} is not mapped")


def test_arrays_beyond_the_limit_are_in_a_file() -> None:
    before = held_bytes()
    limit_memory(before + 10 * MIB)
    first = large_full(6 * MIB, 3, np.uint8)
    assert not in_file(first)
    assert held_bytes() == before + 6 * MIB
    second = large_full(6 * MIB, -5, np.int8)
    assert in_file(second)
    assert held_bytes() == before + 6 * MIB
    assert (first == 3).all()
    assert (second == -5).all()
    part = first[MIB:]
    del first
    # A part keeps the whole.
    assert held_bytes() == before + 6 * MIB
    del part
    third = large_empty(MIB, np.int64)
    assert not in_file(third)
    assert held_bytes() == before + 8 * MIB


@pytest.mark.parametrize("limit", [None, 0])
def test_shared_arrays_are_those_of_processes(limit: int | None) -> None:
    limit_memory(limit)
    array = large_shared(2 * MIB, np.uint8)
    assert in_file(array) == (limit is not None)
    assert not array.any()
    child = os.fork()
    if not child:
        array[5::7] = 1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert array.sum() == len(range(5, len(array), 7))


@pytest.mark.parametrize("limit", [None, 0, 4 * MIB])
def test_columns_grow(limit: int | None) -> None:
    before = held_bytes()
    limit_memory(None if limit is None else before + limit)
    column, number = Growing(np.int64), 0
    for size in (1, 1000, 500_000, 3, 1_000_000, 7):
        column.add(np.arange(number, number + size))
        number += size
        if size == 1000:
            # What another process sends does not own its memory.
            column = pickle.loads(pickle.dumps(column, 5))
    assert len(column) == number
    found = column.take()
    assert not len(column)
    assert in_file(found) == (limit is not None)
    assert np.array_equal(found, np.arange(number))
    column.add(np.arange(5))
    assert column.take().tolist() == [0, 1, 2, 3, 4]


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    limit_memory(0)
    with pytest.raises(PageOwnerError, match=r"No space left on device.*TMPDIR"):
        large_empty(MIB, np.uint8)
    # Small arrays are in memory.
    assert large_empty(100, np.uint8).flags.owndata


def test_too_little_address_space_is_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mmap, "mmap", fails)
    with pytest.raises(MemoryError, match="2,097,152 bytes"):
        sparse_zeros(2 * MIB, np.uint8)


def test_a_limit_is_a_size() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        limit_memory(-1)
    assert memory_limit() is None


COMMANDS = ("account", "frag all", "leaks --slab", "report --format json", "why pfn:4000")


@pytest.mark.once
@pytest.mark.parametrize("jobs", [1, 2])
def test_commands_print_the_same(
    monkeypatch: pytest.MonkeyPatch, dump_named: Callable[[str], Any], jobs: int
) -> None:
    dump = dump_named("linux-6.12/traps")
    prog = open_program(ProgramOptions(core=str(dump.vmcore), symbols=(str(dump.vmlinux),)))
    contents = Kernel.of(prog).contents
    files = []
    really = scratch._in_file
    monkeypatch.setattr(scratch, "_in_file", lambda size: files.append(size) or really(size))
    monkeypatch.setattr(parallel, "LEAST_BYTES", 1 << 16)

    def answers() -> dict[str, Any]:
        prog.cache.clear()
        Kernel.of(prog).contents = contents
        Kernel.of(prog).jobs = jobs
        session = ProgramSession(prog)
        return {command: ask(session, command) for command in COMMANDS}

    whole = answers()
    assert not files
    monkeypatch.setattr(scratch, "_LARGE", 1)
    limit_memory(0)
    assert answers() == whole
    Kernel.of(prog).jobs = 1
    # The columns of pages and records, pointers, and what is found about nodes.
    assert len(files) > 50
