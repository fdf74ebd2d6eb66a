# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test long output in a pager, on a pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from drgn_pageowner.commands.pager import paged, pager_command


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, ["less"]), ("most -s", ["most", "-s"]), ("cat", None), ("", None), ("'", None)],
)
def test_the_pager_is_the_users(
    monkeypatch: pytest.MonkeyPatch, value: str | None, words: list[str] | None
) -> None:
    monkeypatch.delenv("PAGER", raising=False)
    if value is not None:
        monkeypatch.setenv("PAGER", value)
    assert pager_command() == words


def test_the_answer_goes_through_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAGER", f"sh -c 'cat > {tmp_path}/seen; echo \"$LESS\" >> {tmp_path}/seen'")
    monkeypatch.delenv("LESS", raising=False)
    out = Terminal()
    with paged(out, wanted=True) as stream:
        stream.write("one\n")
        stream.writelines(["two\n"])
        assert stream.isatty()
    assert (tmp_path / "seen").read_text() == "one\ntwo\nFRX\n"
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("pager", "out", "wanted"),
    [("cat > /dev/null", io.StringIO, True), ("cat > /dev/null", Terminal, False),
     ("no-such-pager-anywhere", Terminal, True), ("cat", Terminal, True)],
)  # fmt: skip
def test_without_one_it_is_printed(
    monkeypatch: pytest.MonkeyPatch, pager: str, out: type[io.StringIO], wanted: bool
) -> None:
    monkeypatch.setenv("PAGER", pager)
    printed = out()
    with paged(printed, wanted=wanted) as stream:
        stream.write("text")
    assert printed.getvalue() == "text"


def test_a_pager_that_is_left_early_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER", "true")
    with paged(Terminal(), wanted=True) as stream:
        for _ in range(100_000):
            stream.write("a line that nobody reads\n")


def test_nothing_starts_for_an_error(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    try:
        result = subprocess.run(
            [sys.executable, "-m", "drgn_pageowner", "-S", str(tmp_path / "none"), "top"],
            stdout=follower,
            stderr=subprocess.PIPE,
            env={**os.environ, "PAGER": f"touch {tmp_path}/started"},
            timeout=60,
        )
    finally:
        os.close(follower)
        os.close(leader)
    assert result.returncode != 0
    assert not (tmp_path / "started").exists()


def test_a_command_whose_reader_has_seen_enough_has_answered(tmp_path: Path) -> None:
    record = (
        "Page allocated via order 0, mask 0xcc0(GFP_KERNEL), pid 1, tgid 1 (init), ts 5 ns\n"
        "PFN {pfn:#x} type Unmovable Block 0 type Unmovable Flags 0x0()\n f+0x1/0x2\n\n"
    )
    text = tmp_path / "page_owner.txt"
    text.write_text("".join(record.format(pfn=pfn) for pfn in range(20_000)))
    leader, follower = pty.openpty()
    try:
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                "drgn_pageowner",
                "-S",
                str(text),
                "--page-size",
                "4096",
                "list",
            ],
            stdout=follower,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PAGER": "true"},
            timeout=60,
        )
    finally:
        os.close(follower)
        os.close(leader)
    assert (result.returncode, result.stderr) == (0, "")
