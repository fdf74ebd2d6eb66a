# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test names of dumps: paths, directories, patterns, lists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drgn_pageowner.errors import PageOwnerError, UsageError
from drgn_pageowner.fleet.dumps import find_dumps, identity_of, on_this_machine

CORE = b"\x7fELF\2\1\1" + bytes(9) + b"\4\0" + bytes(100)
PROGRAM = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0" + bytes(100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in {
        "a/vmcore": CORE, "b/dump.elf": CORE, "b/vmlinux": PROGRAM, "b/kdump": b"KDUMP   " * 99,
        "b/.part": CORE, "c/readme.txt": b"KDUMP   ",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def names(folder: Path, *wheres: str) -> list[str]:
    return [os.path.relpath(path, folder) for path in find_dumps(wheres)]


def test_a_directory_has_what_begins_as_a_dump(folder: Path) -> None:
    assert names(folder, str(folder)) == ["a/vmcore", "b/dump.elf", "b/kdump"]


def test_a_pattern_and_a_path_name_what_they_name(folder: Path) -> None:
    assert names(folder, f"{folder}/*/vm*") == ["a/vmcore", "b/vmlinux"]
    assert names(folder, f"{folder}/**/kdump", f"{folder}/b/kdump") == ["b/kdump"]
    assert names(folder, f"{folder}/nowhere") == ["nowhere"]
    with pytest.raises(UsageError, match="matches nothing"):
        find_dumps([f"{folder}/*.nothing"])


def test_a_list_has_any_of_these(folder: Path) -> None:
    path = folder / "list"
    path.write_text(f"# of Monday\n\n{folder}/a\n{folder}/b/*.elf\n")
    assert names(folder, f"@{path}") == ["a/vmcore", "b/dump.elf"]
    with pytest.raises(PageOwnerError, match="cannot read"):
        find_dumps([f"@{folder}/nowhere"])


def test_a_path_in_brackets_is_no_pattern_if_it_is_there(folder: Path) -> None:
    (folder / "[1]").write_bytes(CORE)
    assert names(folder, f"{folder}/[1]") == ["[1]"]


def test_a_pipe_does_not_stop_anything(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert "pipe" not in names(folder, str(folder))
    with pytest.raises(PageOwnerError, match="no regular file"):
        identity_of(str(folder / "pipe"))
    with pytest.raises(PageOwnerError, match="No such file"):
        identity_of(str(folder / "nowhere"))


def test_a_path_of_this_machine_is_not_copied(folder: Path) -> None:
    path = f"{folder}/a/vmcore"
    for where in (path, f"file://{path}"):
        with on_this_machine(where) as found:
            assert found == path
