# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options with numbers say what is wrong with them."""

from __future__ import annotations

import argparse

import pytest

from drgn_pageowner.commands.options import add_jobs_option, add_memory_option


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(exit_on_error=False)
    add_jobs_option(found, "1")
    add_memory_option(found)
    return found


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("500M", 500 << 20), ("4g", 4 << 30), ("1.5GiB", 3 << 29),
     ("2 TB", 2 << 40), ("10k", 10240), ("7B", 7)],
)  # fmt: skip
def test_memory_is_a_size(parser: argparse.ArgumentParser, text: str, size: int) -> None:
    assert parser.parse_args(["--memory", text]).memory == size


def test_there_is_no_limit_by_default(parser: argparse.ArgumentParser) -> None:
    assert parser.parse_args([]).memory is None


@pytest.mark.parametrize("text", ["", "-1", "4X", "G", "1e9", "4 G B", "0x10"])
def test_other_sizes_are_refused(parser: argparse.ArgumentParser, text: str) -> None:
    with pytest.raises(argparse.ArgumentError, match="is not a size, such as 500M or 4G"):
        parser.parse_args([f"--memory={text}"])
