"""Opening the running kernel: what is in the way is said in one line, with what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from drgn_pageowner.kernel import program


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
