# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test the messages of one line if the running kernel cannot be opened."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import drgn
import pytest

from drgn_pageowner.kernel.dump import open as program


def test_the_running_kernel_is_read_or_one_line_says_why_not(
    cli: Callable[..., CompletedProcess[str]],
) -> None:
    result = cli("-k", "info")
    if result.returncode == 0:
        assert "running kernel" in result.stdout
        return
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("drgn-pageowner: ")


@pytest.mark.parametrize(
    "number, user, lockdown, hint",
    [
        (errno.ENOENT, 0, "", "without CONFIG_PROC_KCORE"),
        (errno.EPERM, 1000, "none integrity [confidentiality]\n", "run as root"),
        (errno.EPERM, 0, "none integrity [confidentiality]\n", "lockdown=integrity or less"),
        (errno.EPERM, 0, "[none] integrity confidentiality\n", "CAP_SYS_RAWIO"),
        (errno.EIO, 0, "", ""),
    ],
)
def test_why_kcore_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, number: int, user: int, lockdown: str, hint: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(program, "_text_of", lambda path: lockdown)
    error = OSError(number, os.strerror(number))
    said = program._no_kcore(error)
    assert hint in said
    assert bool(said) == bool(hint)
    assert "\n" not in said


@pytest.mark.parametrize(
    "file_class, machine, wanted",
    [(2, 3, drgn.Architecture.I386), (1, 3, None), (2, 62, None)],
    ids=["ELF64 of i386", "ELF32 of i386", "x86-64"],
)
def test_a_wide_dump_of_i386_has_narrow_words(
    tmp_path: Path, file_class: int, machine: int, wanted: drgn.Architecture | None
) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(
        b"\x7fELF" + bytes([file_class, 1, 1]) + bytes(9) + b"\4\0" + bytes([machine, 0])
    )
    platform = program._create(program.ProgramOptions(core=str(path))).platform
    assert (platform.arch if platform is not None else None) == wanted
    assert platform is None or not platform.flags & drgn.PlatformFlags.IS_64_BIT
