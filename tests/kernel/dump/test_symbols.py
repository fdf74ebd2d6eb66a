# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test that a damaged module only costs its own symbols."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import Dump, run_cli
from drgn.helpers.linux.list import list_for_each_entry
from incomplete import Kdump

from drgn_pageowner.kernel.dump.kernel import Kernel
from drgn_pageowner.kernel.linux.translate import kernel_phys


def patched(dump: Dump, address: int, value: int, path: Path) -> Path:
    """Return the path of a copy of *dump* with a changed word at the virtual *address*."""
    file = Kdump(dump.vmcore)
    pfn, offset = divmod(kernel_phys(Kernel.of(dump.prog), address), 4096)
    place = int(file.rows["offset"][np.searchsorted(file.pfns, pfn)]) + offset
    file.data[place : place + 8] = struct.pack("<Q", value)
    path.write_bytes(file.data)
    return path


def test_the_kernels_own_symbols_do_without_the_modules(
    dump_named: Callable[[str], Dump], tmp_path: Path
) -> None:
    dump = dump_named("linux-6.12/traps")
    modules = dump.prog["modules"].address_of_()
    module = next(iter(list_for_each_entry("struct module", modules, "list")))
    # A huge number of notes in the module makes drgn run out of memory.
    path = patched(dump, int(module.notes_attrs.address_of_()), int(module), tmp_path / "vmcore")
    words = ("top", "--limit", "3")
    result = run_cli("-c", path, "-s", dump.vmlinux, *words)
    assert result.returncode == 0, result.stderr
    assert result.stdout == dump.run(*words).stdout
    [line] = result.stderr.splitlines()
    assert line.startswith("drgn-pageowner: the list of modules is damaged (MemoryError")
    assert "only the kernel's own debugging symbols were loaded" in line
