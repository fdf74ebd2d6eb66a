# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test bad input: one line on stderr, the documented exit status, no traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import Dump

pytestmark = pytest.mark.once

Cli = Callable[..., "CompletedProcess[str]"]
ALL = (("info",), ("list",), ("top",), ("page", "pfn:1000"))


def said(result: CompletedProcess[str], status: int) -> str:
    """Return the only line that *result* has on stderr."""
    assert result.returncode == status, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("drgn-pageowner: ")
    return lines[0]


@pytest.mark.parametrize("command", ["list", "top"])
def test_a_kernel_without_page_owner(dump_named: Callable[[str], Dump], command: str) -> None:
    line = said(dump_named("linux-6.12-noowner/kdump").run(command), 1)
    assert "CONFIG_PAGE_OWNER" in line
    assert "page_owner=on" in line


@pytest.mark.parametrize("command", ["list", "top"])
def test_a_kernel_whose_page_owner_is_off(dump_named: Callable[[str], Dump], command: str) -> None:
    line = said(dump_named("linux-5.10/owner-off").run(command), 1)
    assert "page_owner=on" in line


@pytest.mark.parametrize(
    "name, state", [("linux-6.12-noowner/kdump", "absent"), ("linux-5.10/owner-off", "off")]
)
def test_info_and_page_answer_without_page_owner(
    dump_named: Callable[[str], Dump], name: str, state: str
) -> None:
    dump = dump_named(name)
    info = dump.run("info", "--format", "json")
    assert f'"page_owner": "{state}"' in info.stdout
    assert info.returncode == 1
    page = dump.run("page", "pfn:0x1000")
    assert page.returncode == 0
    assert "record       none: " in page.stdout


@pytest.mark.parametrize("command", ALL, ids=lambda command: command[0])
def test_a_vmlinux_of_another_build(
    one_dump: Dump, dump_named: Callable[[str], Dump], cli: Cli, command: tuple[str, ...]
) -> None:
    other = dump_named("linux-6.1/kdump").vmlinux
    line = said(cli("-c", one_dump.vmcore, "-s", other, *command), 1)
    assert "of another kernel" in line
    assert str(other) in line


def test_no_vmlinux(one_dump: Dump, cli: Cli) -> None:
    line = said(cli("-c", one_dump.vmcore, "--no-default-symbols", "top"), 1)
    assert "-s" in line


def test_files_that_are_not_there(one_dump: Dump, cli: Cli, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert str(nowhere) in said(cli("-c", nowhere, "top"), 1)
    assert str(nowhere) in said(cli("-c", one_dump.vmcore, "-s", nowhere, "top"), 1)


@pytest.mark.drgn
def test_a_text_file_for_a_dump(cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "dmesg.txt"
    text.write_text("[    0.000000] Linux version 6.12\n" * 100)
    assert str(text) in said(cli("-c", text, "top"), 1)
    (tmp_path / "empty").touch()
    said(cli("-c", tmp_path / "empty", "top"), 1)
    said(cli("-c", tmp_path, "top"), 1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_dump_cut_off_anywhere(one_dump: Dump, cli: Cli, tmp_path: Path, share: float) -> None:
    cut = tmp_path / "cut"
    shutil.copy(one_dump.vmcore, cut)
    with cut.open("r+b") as file:
        file.truncate(int(cut.stat().st_size * share))
    result = cli("-c", cut, "-s", one_dump.vmlinux, "top", "--format", "json")
    assert result.returncode in (0, 1)
    assert "Traceback" not in result.stderr
    assert all(line.startswith("drgn-pageowner: ") for line in result.stderr.splitlines())
    assert bool(result.stdout) == (result.returncode == 0)


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["list", "--gfp", "GFP_NONSENSE"], "GFP_NONSENSE"),
        (["list", "--migratetype", "Sideways"], "Sideways"),
        (["list", "--zone", "Twilight"], "Twilight"),
        (["list", "--order", "nine"], "nine"),
        (["list", "--order", "5-2"], "5-2"),
        (["list", "--min-age", "yesterday"], "yesterday"),
        (["list", "--format", "xml"], "xml"),
        (["top", "--by", "colour"], "colour"),
        (["top", "--sort", "colour"], "colour"),
        (["page", "somewhere"], "somewhere"),
        (["bottom"], "bottom"),
        ([], "COMMAND"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_question_is_a_usage_error(one_dump: Dump, arguments: list[str], word: str) -> None:
    assert word in said(one_dump.run(*arguments), 2)


@pytest.mark.parametrize(
    "arguments", [["list", "--pfn", "0x7fffffff"], ["page", "pfn:0x7fffffff"],
                  ["page", "phys:0x7fffffffffff"], ["page", "0xffffffffffffff00"],
                  ["page", "0x10"]],
    ids="_".join,
)  # fmt: skip
def test_a_page_that_is_not_there(one_dump: Dump, arguments: list[str]) -> None:
    said(one_dump.run(*arguments), 1)


@pytest.mark.parametrize("command", ["top", "list"])
def test_a_full_disk_is_said(one_dump: Dump, command: str) -> None:
    options = f"-c {one_dump.vmcore} -s {one_dump.vmlinux}"
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "drgn_pageowner", *options.split(), command],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr == "drgn-pageowner: cannot write the answer: No space left on device\n"


def test_a_closed_pipe_is_the_readers_wish(one_dump: Dump) -> None:
    command = (
        f"{sys.executable} -m drgn_pageowner -c {one_dump.vmcore} -s {one_dump.vmlinux} "
        "list --format debugfs | head -1"
    )
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Page allocated via order")
    assert result.stderr == ""
