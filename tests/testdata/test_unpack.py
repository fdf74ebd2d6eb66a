# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test unpacking the bundled dumps from several processes at once."""

from __future__ import annotations

import hashlib
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.once

UNPACK = ROOT / "testdata/unpack.py"
DUMP = "linux-6.1/kdump"

# Waits for its standard input to end, so that all processes start at the same moment; then prints
# the contents of the directory when install() has returned.
RACER = """
import runpy, sys, time
from pathlib import Path
unpack = runpy.run_path(sys.argv[1])
source, target, log = map(Path, sys.argv[2:])

def fill(packed, path):
    with log.open("a") as file:
        file.write("filled\\n")
    path.mkdir()
    for number in range(20):
        (path / str(number)).write_bytes(packed.read(1))
        time.sleep(0.01)

sys.stdin.read()
unpack["install"](source, target, fill)
print("".join((target / str(number)).read_text() for number in range(20)))
"""


def race(code: str, *args: object, processes: int = 2) -> list[str]:
    """Run *code* in several processes at once; return the output of each."""
    command = [sys.executable, "-c", code, *map(str, args)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()
        racer.stdin = None
    printed = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * processes
    return printed


def test_of_several_processes_one_unpacks_and_the_others_wait_for_it(tmp_path: Path) -> None:
    source, target, log = tmp_path / "source", tmp_path / "cache/target", tmp_path / "log"
    source.write_text("abcdefghijklmnopqrst")
    assert race(RACER, UNPACK, source, target, log, processes=4) == ["abcdefghijklmnopqrst\n"] * 4
    assert log.read_text() == "filled\n"


def test_new_contents_are_unpacked_a_new_modification_time_changes_nothing(tmp_path: Path) -> None:
    source, target, log = tmp_path / "source", tmp_path / "cache/target", tmp_path / "log"
    source.write_text("abcdefghijklmnopqrst")
    race(RACER, UNPACK, source, target, log)
    os.utime(source, (1, 1))
    race(RACER, UNPACK, source, target, log)
    assert log.read_text() == "filled\n"
    source.write_text("ABCDEFGHIJKLMNOPQRST")
    assert race(RACER, UNPACK, source, target, log) == ["ABCDEFGHIJKLMNOPQRST\n"] * 2
    assert log.read_text() == "filled\n" * 2


def test_what_is_interrupted_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    install = runpy.run_path(str(UNPACK))["install"]
    source, target = tmp_path / "source", tmp_path / "cache/target"
    source.write_text("text")

    def fail(packed: object, path: Path) -> None:
        path.write_text("te")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        install(source, target, fail)
    assert not target.exists()
    install(source, target, lambda packed, path: path.write_bytes(packed.read()))
    assert target.read_text() == "text"
    assert sorted(path.name for path in target.parent.iterdir()) == [".target.sha256", "target"]


def test_two_processes_may_unpack_a_dump_into_an_empty_cache(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; from pathlib import Path; sys.stdin.read(); "
        "print(runpy.run_path(sys.argv[1])['unpack'](sys.argv[2], Path(sys.argv[3])))"
    )
    assert race(code, UNPACK, DUMP, tmp_path) == [f"{tmp_path / DUMP}\n"] * 2
    original = runpy.run_path(str(UNPACK))["unpack"](DUMP)
    for path in ("vmcore", "../vmlinux", "truth/sys/kernel/debug/page_owner"):
        assert digest(tmp_path / DUMP / path) == digest(original / path)


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
